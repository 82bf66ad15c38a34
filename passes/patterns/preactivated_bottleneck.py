"""1x1, kxk, 1x1, a norm and an activation before each: the block of deep pre-activation ResNets."""

from __future__ import annotations

from laudc.passes.patterns.base import ConvChain

PATTERN = ConvChain(kernels=("1x1", "any", "1x1"), preactivated=True)
