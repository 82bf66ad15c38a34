"""1x1, kxk, 1x1: the block of ResNet-50 and deeper, ResNeXt, Wide ResNet, dilated or not."""

from __future__ import annotations

from laudc.passes.patterns.base import ConvChain

PATTERN = ConvChain(kernels=("1x1", "any", "1x1"))
