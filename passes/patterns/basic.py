"""Two convolutions: the block of ResNet-18 and 34, and of most hand-written networks."""

from __future__ import annotations

from laudc.passes.patterns.base import ConvChain

PATTERN = ConvChain(kernels=("any", "any"))
