"""What is computed number by number: activation, add, and the two dense masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from laudc.ops._geometry import patch_size
from laudc.ops._pointwise import POINTWISE
from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.base import Spec
from laudc.ops.mask_channels import MaskChannelsSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._pointwise import pointwise
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import lanes, share_out, spread, spread_flat
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import FLOATS

if TYPE_CHECKING:
    from laudc.targets import Target


class PointwiseSchedule(Schedule):
    ops = frozenset({"activation", "add", "mask_rows", "mask_channels"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype not in FLOATS:
            return f"it computes on {', '.join(FLOATS)}, not on {work.dtype}"
        if _function(work.spec) not in POINTWISE:
            return f"it does not know the function {_function(work.spec)!r}"
        return None

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.results[0].numel),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        made, width = work.results[0], len(work.operands) + 1
        vector = lanes(math.prod(made.shape[1:]), work.dtype, target)
        turns = made.numel / vector
        return (swept(work, target, choice, active, outer=turns, turns=turns, steps=width),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        parallel = bool(choice["parallel"])
        with Kernel(target) as kernel:
            pairs = zip(work.spec.operands, work.operands, strict=True)
            operands = [kernel.operand(name, type_) for name, type_ in pairs]
            made = kernel.operand("made", work.results[0])
            if isinstance(work.spec, MaskRowsSpec | MaskChannelsSpec):
                _mask(kernel, work, operands[0], operands[1], made, parallel=parallel)
            else:
                _combine(kernel, work, operands, made, parallel=parallel)
        return kernel.lowered()


def _function(spec: Spec) -> str:
    if isinstance(spec, ActivationSpec):
        return spec.function
    return spec.activation if isinstance(spec, AddSpec) else "none"


def _combine(kernel: Kernel, work: Work, operands: list[Memory], made: Memory, *, parallel: bool) -> None:
    """The function of the sum of the operands, whatever their rank: all of them lie alike."""
    sample = math.prod(work.results[0].shape[1:])
    vector = lanes(sample, work.dtype, kernel.target)
    views = [kernel.flat(memory, kernel.batch * sample) for memory in (*operands, made)]
    count = kernel.batch * (sample // vector)
    with (
        spread_flat(kernel, count, vector=vector, parallel=parallel) as begin,
        kernel.vectorized(vector) as lane,
    ):
        first, *others = (view[begin + lane].astype("float32") for view in views[:-1])
        value = pointwise(_function(work.spec), sum(others, start=first), kernel.target.kind)
        views[-1][begin + lane] = value.astype(work.dtype)


def _mask(kernel: Kernel, work: Work, x: Memory, mask: Memory, made: Memory, *, parallel: bool) -> None:
    """The map times the decision over each position, or over each channel."""
    spec, size = work.spec, work.operands[0].stored[1:]
    vector = lanes(size[-1], work.dtype, kernel.target)
    if isinstance(spec, MaskChannelsSpec) and kernel.on_gpu and spec.group > 1:
        vector = lanes(spec.group, work.dtype, kernel.target)  # one decision for the whole vector
    with (
        spread(kernel, size, vector=vector, parallel=parallel) as (b, i, j, c),
        kernel.vectorized(vector) as lane,
    ):
        if isinstance(spec, MaskRowsSpec):
            side = [patch_size(spec.granularity, extent) for extent in size[:2]]
            decision = mask[b, i // side[0], j // side[1]]
        else:
            assert isinstance(spec, MaskChannelsSpec)
            decision = mask[b, (c + lane) // spec.group]
        made[b, i, j, c + lane] = (x[b, i, j, c + lane].astype("float32") * decision).astype(work.dtype)


SCHEDULE = PointwiseSchedule()
