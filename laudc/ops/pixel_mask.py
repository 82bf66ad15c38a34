"""Decisions over patches -> the output pixels they switch on: float32 (B, GH, GW) -> uint8 (B, H, W).

`within`: a second operand, the pixels of another decision (uint8); only pixels that both switch on are on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._geometry import expand_patches
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PixelMaskSpec(Spec):
    name = "pixel_mask"

    granularity: int
    map_size: tuple[int, int]
    within: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "pixels") if self.within else ("x",)

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (TensorType(shape=(operands[0].shape[0], *self.map_size), dtype="uint8"),)


class PixelMask(Op):
    spec_type = PixelMaskSpec
    spec: PixelMaskSpec

    def forward(self, x: Tensor, pixels: Tensor | None = None) -> Tensor:
        on = expand_patches(x != 0, self.spec.granularity, *self.spec.map_size).to(torch.uint8)
        return on if pixels is None else on * pixels


OP = PixelMask
