"""Which pixels are on, asked for one number at a time: of a map, or of the decisions themselves.

patches_on    a pixel is on where its patch is
needed_on     an input is on where any patch is whose outputs read it
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any, TypeAlias

from laudc.ops._geometry import patch_size
from laudc.ops.needed_region import NeededRegionSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.schedules._kernel import Memory

On: TypeAlias = Callable[[Any, Any], Any]
"""1 where a sample's unit of that number is on, else 0: int32."""


def map_on(on: Memory) -> On:
    """As a map (B, units) says."""
    return lambda b, unit: _is_on(on[b, unit], on.buffer.dtype)


def patches_on(decisions: Memory, pixels: PixelMaskSpec) -> On:
    """As the decision (B, GH, GW) on its patch says."""
    down, across = _sides(pixels)
    width = pixels.map_size[1]
    return lambda b, unit: _is_on(decisions[b, unit // width // down, unit % width // across], "float32")


def needed_on(decisions: Memory, pixels: PixelMaskSpec, region: NeededRegionSpec) -> On:
    """As any decision on a patch that it serves says."""
    width = region.map_size[1]

    def on(b: Any, unit: Any) -> Any:
        from tvm import tirx

        down, across = (_served(pixels, region, axis, at) for axis, at in enumerate((unit // width, unit % width)))
        found = (
            tirx.Select(tirx.all(there, here), _is_on(decisions[b, p, q], "float32"), tirx.const(0, "int32"))
            for (there, p), (here, q) in product(down, across)
        )
        return reduce(tirx.max, found)

    return on


def looks(pixels: PixelMaskSpec, region: NeededRegionSpec | None) -> int:
    """How many decisions are read for one number."""
    return 1 if region is None else _most(pixels, region, 0) * _most(pixels, region, 1)


def _served(pixels: PixelMaskSpec, region: NeededRegionSpec, axis: int, at: Any) -> list[tuple[Any, Any]]:
    """Patches along an axis, inside the grid, and whether outputs in them read that input: output p reads, for every
    tap, stride*p - padding + dilation*tap. Without dilation these outputs are neighbours, and so are the patches."""
    from tvm import tirx

    side, outputs = _sides(pixels)[axis], pixels.map_size[axis]
    kernel, stride, dilation = region.kernel[axis], region.stride[axis], region.dilation[axis]
    before = at + region.padding[2 * axis]
    if dilation == 1:
        first = tirx.truncdiv(tirx.max(before - (kernel - 1), 0) + (stride - 1), stride)
        last = tirx.min(tirx.truncdiv(before, stride), outputs - 1)
        begin, end = tirx.truncdiv(first, side), tirx.truncdiv(last, side)
        return [(first <= last, tirx.min(begin + step, end)) for step in range(_most(pixels, region, axis))]
    found = []
    for tap in range(kernel):
        reach = before - dilation * tap
        output = tirx.truncdiv(tirx.max(reach, 0), stride)
        reads = tirx.all(reach >= 0, tirx.truncmod(reach, stride) == 0, output < outputs)
        found.append((reads, tirx.truncdiv(tirx.min(output, outputs - 1), side)))
    return found


def _most(pixels: PixelMaskSpec, region: NeededRegionSpec, axis: int) -> int:
    """Patches along an axis that an input may serve."""
    if region.dilation[axis] > 1:
        return region.kernel[axis]
    further = (region.kernel[axis] - 1) // region.stride[axis]
    return -(-further // _sides(pixels)[axis]) + 1


def _sides(pixels: PixelMaskSpec) -> tuple[int, int]:
    height, width = pixels.map_size
    return patch_size(pixels.granularity, height), patch_size(pixels.granularity, width)


def _is_on(value: Any, dtype: str) -> Any:
    from tvm import tirx

    return tirx.Select(value != tirx.const(0, dtype), tirx.const(1, "int32"), tirx.const(0, "int32"))
