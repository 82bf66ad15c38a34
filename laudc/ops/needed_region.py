"""The pixels a convolution needs so that the wanted outputs come out right: uint8 (B, Ho, Wo) -> (B, H, W)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._geometry import needed_region
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class NeededRegionSpec(Spec):
    name = "needed_region"

    map_size: tuple[int, int]
    """Height and width of the convolution's input."""
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (TensorType(shape=(operands[0].shape[0], *self.map_size), dtype="uint8"),)


class NeededRegion(Op):
    spec_type = NeededRegionSpec
    spec: NeededRegionSpec

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        region = needed_region(
            x.float(),
            size=spec.map_size,
            kernel=spec.kernel,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
        )
        return region.to(torch.uint8)


OP = NeededRegion
