"""fold_columns: a turn for each pixel of the result, whose columns are read one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laudc.ops.fold_columns import FoldColumnsSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import FLOATS

if TYPE_CHECKING:
    from laudc.targets import Target


class FoldColumnsSchedule(Schedule):
    ops = frozenset({"fold_columns"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        return None if work.dtype in FLOATS else f"it folds {', '.join(FLOATS)}, not {work.dtype}"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.results[0].numel),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        made = work.results[0]
        batch, channels, height, width = made.shape
        turns = batch * height * width
        return (swept(work, target, choice, active, outer=batch * height, turns=turns, steps=2 * channels),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from tvm import tirx

        spec = work.spec
        assert isinstance(spec, FoldColumnsSpec)
        _, height, width, channels = work.operands[0].stored
        _, rows, pixels, long = work.results[0].stored
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            made = kernel.operand("made", work.results[0])
            parallel = bool(choice["parallel"])
            with spread(kernel, (rows, pixels, 1), vector=1, parallel=parallel) as (b, i, j, _):
                line = kernel.local("line", long, work.dtype)
                for place in range(long):
                    line[place] = tirx.const(0.0, work.dtype)
                row = i - spec.padding[0]
                for which in range(spec.columns):
                    column = j * spec.columns + which - spec.padding[2]
                    with kernel.when(row >= 0, row < height, column >= 0, column < width):
                        for c in range(channels):
                            line[which * spec.channels + c] = x[b, row, column, c]
                with kernel.vectorized(long) as lane:
                    made[b, i, j, lane] = line[lane]
        return kernel.lowered()


SCHEDULE = FoldColumnsSchedule()
