"""Decisions over patches -> the row list of the pixels they switch on, and of what a convolution reads for those.

float32 (B, GH, GW) -> int32[B + 1 + B*H*W], once or twice (the format is in `_lists.py`): what `pixel_mask`,
`needed_region` and `row_list` make of them, with no map in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from laudc.ops._lists import make_row_list
from laudc.ops.base import Op, Operands, Spec
from laudc.ops.needed_region import NeededRegion, NeededRegionSpec
from laudc.ops.pixel_mask import PixelMask, PixelMaskSpec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PatchRowsSpec(Spec):
    name = "patch_rows"

    granularity: int
    map_size: tuple[int, int]
    """Of the pixels that are switched on."""
    needed_size: tuple[int, int] = (0, 0)
    """Height and width of the convolution's input; (0, 0): there is no second list."""
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def pixels(self) -> PixelMaskSpec:
        """What the first list is of."""
        return PixelMaskSpec(granularity=self.granularity, map_size=self.map_size)

    @property
    def region(self) -> NeededRegionSpec | None:
        """What the second list is of, where there is one."""
        if not any(self.needed_size):
            return None
        return NeededRegionSpec(
            map_size=self.needed_size,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def needing(self, region: NeededRegionSpec) -> PatchRowsSpec:
        """With that second list."""
        return replace(
            self,
            needed_size=region.map_size,
            kernel=region.kernel,
            stride=region.stride,
            padding=region.padding,
            dilation=region.dilation,
        )

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch = operands[0].shape[0]
        sizes = [self.map_size] if self.region is None else [self.map_size, self.needed_size]
        return tuple(TensorType(shape=(batch + 1 + batch * height * width,), dtype="int32") for height, width in sizes)


class PatchRows(Op):
    spec_type = PatchRowsSpec
    spec: PatchRowsSpec

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pixels, region = PixelMask(self.spec.pixels)(x), self.spec.region
        if region is None:
            return make_row_list(pixels)
        return make_row_list(pixels), make_row_list(NeededRegion(region)(pixels))


OP = PatchRows
