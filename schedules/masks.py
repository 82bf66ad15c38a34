"""Masks over pixels.

pixel_mask       decisions -> all the pixels of their patches
needed_region    the outputs that are wanted -> the inputs that a convolution reads for them
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from laudc.ops._geometry import patch_size
from laudc.ops.needed_region import NeededRegionSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from laudc.targets import Target


class MasksSchedule(Schedule):
    ops = frozenset({"pixel_mask", "needed_region"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        wanted = "float32" if isinstance(work.spec, PixelMaskSpec) else "uint8"
        return None if work.dtype == wanted else f"it reads {wanted} decisions, not {work.dtype}"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        taps = work.spec.kernel[0] * work.spec.kernel[1] if isinstance(work.spec, NeededRegionSpec) else 1
        return (share_out(target, work.results[0].numel * taps),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        made, spec = work.results[0], work.spec
        outer = made.shape[0] * made.shape[1]
        if isinstance(spec, NeededRegionSpec):
            # neighbours in vectors; with a stride each number looks for its own
            steps = math.prod(spec.kernel) * (0.3 if spec.stride == (1, 1) else 1.5)
        else:
            assert isinstance(spec, PixelMaskSpec)
            steps = 0.5 + (6 / spec.granularity if spec.granularity else 0)
        return (swept(work, target, choice, active, outer=outer, turns=made.numel, steps=steps),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        parallel = bool(choice["parallel"])
        with Kernel(target) as kernel:
            x, *within = (
                kernel.operand(name, type_) for name, type_ in zip(work.spec.operands, work.operands, strict=True)
            )
            made = kernel.operand("made", work.results[0])
            if isinstance(work.spec, PixelMaskSpec):
                _pixel_mask(kernel, work.spec, x, within, made, parallel=parallel)
            else:
                assert isinstance(work.spec, NeededRegionSpec)
                _needed_region(kernel, work, work.spec, x, made, parallel=parallel)
        return kernel.lowered()


def _pixel_mask(
    kernel: Kernel, spec: PixelMaskSpec, x: Memory, within: list[Memory], made: Memory, *, parallel: bool
) -> None:
    from tvm import tirx

    side = [patch_size(spec.granularity, extent) for extent in spec.map_size]
    with spread(kernel, spec.map_size, vector=1, parallel=parallel) as (b, i, j):
        on = (x[b, i // side[0], j // side[1]] != tirx.const(0, "float32")).astype("uint8")
        made[b, i, j] = on * within[0][b, i, j] if within else on


def _needed_region(
    kernel: Kernel, work: Work, spec: NeededRegionSpec, x: Memory, made: Memory, *, parallel: bool
) -> None:
    """Input i is needed where a tap r and a wanted output p meet in it: i = stride*p - padding + dilation*r."""
    from tvm import tirx

    _, out_height, out_width = work.operands[0].shape
    top, _, left, _ = spec.padding
    with spread(kernel, spec.map_size, vector=1, parallel=parallel) as (b, i, j):
        needed = kernel.local("needed", 1, "uint8")
        needed[0] = tirx.const(0, "uint8")
        with kernel.serial("r", spec.kernel[0]) as r, kernel.serial("s", spec.kernel[1]) as s:
            row, column = i + top - r * spec.dilation[0], j + left - s * spec.dilation[1]
            p, q = tirx.truncdiv(row, spec.stride[0]), tirx.truncdiv(column, spec.stride[1])
            on_grid = (tirx.truncmod(row, spec.stride[0]) == 0, tirx.truncmod(column, spec.stride[1]) == 0)
            with kernel.when(row >= 0, column >= 0, *on_grid, p < out_height, q < out_width):
                needed[0] = tirx.max(needed[0], x[b, p, q])
        made[b, i, j] = needed[0]


SCHEDULE = MasksSchedule()
