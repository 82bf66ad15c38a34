"""The poolings over a window: max_pool and avg_pool, each window summed up by one thread, channels side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from laudc.ops.avg_pool import AvgPoolSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import lanes, share_out, spread
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import FLOATS

if TYPE_CHECKING:
    from tvm.tirx import Expr

    from laudc.targets import Target


class PoolingSchedule(Schedule):
    ops = frozenset({"max_pool", "avg_pool"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        if work.dtype not in FLOATS:
            return f"it pools {', '.join(FLOATS)}, not {work.dtype}"
        return None

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.results[0].numel * _taps(work)),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        made = work.results[0]
        turns = made.numel / lanes(made.shape[1], work.dtype, target)
        outer = made.shape[0] * made.shape[2]
        return (swept(work, target, choice, active, outer=outer, turns=turns, steps=5 * _taps(work)),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from tvm import tirx

        spec = work.spec
        assert isinstance(spec, MaxPoolSpec | AvgPoolSpec)
        takes_maximum = isinstance(spec, MaxPoolSpec)
        _, height, width, channels = work.operands[0].stored
        vector = lanes(channels, work.dtype, target)
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            made = kernel.operand("made", work.results[0])
            size = work.results[0].stored[1:]
            with spread(kernel, size, vector=vector, parallel=bool(choice["parallel"])) as (b, i, j, c):
                pooled = kernel.local("pooled", vector)
                with kernel.vectorized(vector) as lane:
                    pooled[lane] = tirx.const(float("-inf") if takes_maximum else 0.0, "float32")
                with kernel.serial("r", spec.kernel[0]) as r, kernel.serial("s", spec.kernel[1]) as s:
                    row = i * spec.stride[0] + r * spec.dilation[0] - spec.padding[0]
                    column = j * spec.stride[1] + s * spec.dilation[1] - spec.padding[1]
                    with (
                        kernel.when(row >= 0, row < height, column >= 0, column < width),
                        kernel.vectorized(vector) as lane,
                    ):
                        value = x[b, row, column, c + lane].astype("float32")
                        so_far = pooled[lane]
                        pooled[lane] = _maximum(so_far, value) if takes_maximum else so_far + value
                count = _count(spec, (height, width), (i, j)) if isinstance(spec, AvgPoolSpec) else None
                with kernel.vectorized(vector) as lane:
                    value = pooled[lane] if count is None else pooled[lane] / count
                    made[b, i, j, c + lane] = value.astype(work.dtype)
        return kernel.lowered()


def _taps(work: Work) -> int:
    assert isinstance(work.spec, MaxPoolSpec | AvgPoolSpec)
    return work.spec.kernel[0] * work.spec.kernel[1]


def _maximum(so_far: Expr, value: Expr) -> Expr:
    """The maximum that keeps a NaN, as torch's does: only a NaN is neither above nor below infinity."""
    from tvm import tirx

    infinity = tirx.const(float("inf"), "float32")
    return tirx.Select(value > so_far, value, tirx.Select(value <= infinity, so_far, value))


def _count(spec: AvgPoolSpec, size: tuple[int, int], index: tuple[Any, Any]) -> Any:
    """How many positions torch divides the sum by, in float32."""
    from tvm import tirx

    sides = []
    for axis, (extent, at) in enumerate(zip(size, index, strict=True)):
        padding = spec.padding[axis]
        begin = at * spec.stride[axis] - padding
        end = tirx.min(begin + spec.kernel[axis], extent + padding)  # with ceil_mode it may hang over the far padding
        sides.append(end - begin if spec.count_include_pad else tirx.min(end, extent) - tirx.max(begin, 0))
    return (sides[0] * sides[1]).astype("float32")


SCHEDULE = PoolingSchedule()
