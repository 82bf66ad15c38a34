"""Two convolutions, a norm and an activation before each: the basic block of pre-activation ResNets."""

from __future__ import annotations

from laudc.passes.patterns.base import ConvChain

PATTERN = ConvChain(kernels=("any", "any"), preactivated=True)
