"""What only moves numbers: gather and scatter along the row list, flatten.

gather     x (B, H, W, C)  ->  row i of the matrix: the taps of the i-th listed output
scatter    row i of the matrix  ->  the i-th listed pixel; all others zero, or left as they are
flatten    x (B, H, W, C)  ->  (B, C*H*W)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laudc.ops.gather import GatherSpec
from laudc.ops.scatter import ScatterSpec
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._small_demand import swept
from laudc.schedules._spread import divided, lanes, share_out, spread, spread_flat, spread_short, unravel
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

_WIDEST = 8
"""A copy does no arithmetic, so a GPU moves 16 bytes of any type at once."""


class MovementSchedule(Schedule):
    ops = frozenset({"gather", "scatter", "flatten"})
    kind = "any"

    def refuse(self, work: Work, target: Target) -> str | None:
        return None if work.dtype in DTYPE_BYTES else f"it does not move {work.dtype}"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        return (share_out(target, work.results[0].numel),)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        made, vector = work.results[0], lanes(work.operands[0].shape[1], work.dtype, target, most=_WIDEST)
        turns = made.numel / vector
        return (swept(work, target, choice, active, outer=turns, turns=turns, steps=2),)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        parallel = bool(choice["parallel"])
        with Kernel(target) as kernel:
            match work.spec:
                case GatherSpec():
                    _gather(kernel, work, work.spec, parallel=parallel)
                case ScatterSpec():
                    _scatter(kernel, work, work.spec, parallel=parallel)
                case _:
                    _flatten(kernel, work, parallel=parallel)
        return kernel.lowered()


def _gather(kernel: Kernel, work: Work, spec: GatherSpec, *, parallel: bool) -> None:
    from tvm import tirx

    _, height, width, channels = work.operands[0].stored
    pixels = math.prod(spec.map_size)
    top, _, left, _ = spec.padding
    vector = lanes(channels, work.dtype, kernel.target, most=_WIDEST)
    x = kernel.operand("x", work.operands[0])
    rows = kernel.argument("rows", (kernel.batch + 1 + kernel.batch * pixels,), "int32")
    made = kernel.argument("made", (kernel.batch * pixels, work.results[0].shape[1]), work.dtype)
    steps = (*spec.kernel, channels // vector)
    with _listed(kernel, rows, pixels, steps, parallel=parallel) as (place, row, r, s, step):
        b, pixel = divided(row, pixels)
        down, across = divided(pixel, spec.map_size[1])
        i = down * spec.stride[0] + r * spec.dilation[0] - top
        j = across * spec.stride[1] + s * spec.dilation[1] - left
        column = ((r * spec.kernel[1] + s) * (channels // vector) + step) * vector
        with kernel.vectorized(vector) as lane:
            inside = tirx.all(i >= 0, i < height, j >= 0, j < width)
            value = x[b, i, j, step * vector + lane]
            made[place, column + lane] = tirx.if_then_else(inside, value, tirx.const(0, work.dtype))


def _scatter(kernel: Kernel, work: Work, spec: ScatterSpec, *, parallel: bool) -> None:
    from tvm import tirx

    pixels, channels = math.prod(spec.map_size), work.operands[0].shape[1]
    vector = lanes(channels, work.dtype, kernel.target, most=_WIDEST)
    x = kernel.argument("x", (kernel.batch * pixels, channels), work.dtype)
    rows = kernel.argument("rows", (kernel.batch + 1 + kernel.batch * pixels,), "int32")
    made = kernel.flat(kernel.operand("made", work.results[0]), kernel.batch * pixels * channels)
    steps = channels // vector
    if spec.zero:
        with (
            spread_flat(kernel, kernel.batch * (pixels * steps), vector=vector, parallel=parallel) as begin,
            kernel.vectorized(vector) as lane,
        ):
            made[begin + lane] = tirx.const(0, work.dtype)
    with (
        _listed(kernel, rows, pixels, (steps,), parallel=parallel) as (place, row, step),
        kernel.vectorized(vector) as lane,
    ):
        made[(row * steps + step) * vector + lane] = x[place, step * vector + lane]


@contextmanager
def _listed(
    kernel: Kernel, rows: Memory, pixels: int, steps: tuple[int, ...], *, parallel: bool
) -> Iterator[tuple[Any, ...]]:
    """One turn for each step of each listed row: (its place in the list, the row, *the step)."""
    count, begin, turns = rows[kernel.batch], kernel.batch + 1, math.prod(steps)
    if not kernel.on_gpu:
        with (
            kernel.parallel("place", count) if parallel else kernel.serial("place", count) as place,
            kernel.serial("turn", turns) as turn,
        ):
            yield (place, rows[begin + place], *unravel(turn, steps))
        return
    with spread_short(kernel, count * turns, most=kernel.batch * (pixels * turns)) as at:
        place, turn = divided(at, turns)
        yield (place, rows[begin + place], *unravel(turn, steps))


def _flatten(kernel: Kernel, work: Work, *, parallel: bool) -> None:
    shape = work.operands[0].stored
    x = kernel.operand("x", work.operands[0])
    made = kernel.operand("made", work.results[0])
    if len(shape) != 4 or shape[1] * shape[2] == 1:
        sample = math.prod(shape[1:])
        vector = lanes(sample, work.dtype, kernel.target, most=_WIDEST)
        source, result = (kernel.flat(memory, kernel.batch * sample) for memory in (x, made))
        with (
            spread_flat(kernel, kernel.batch * (sample // vector), vector=vector, parallel=parallel) as begin,
            kernel.vectorized(vector) as lane,
        ):
            result[begin + lane] = source[begin + lane]
        return
    _, height, width, channels = shape
    with spread(kernel, (channels, height, width), vector=1, parallel=parallel) as (b, c, i, j):
        made[b, (c * height + i) * width + j] = x[b, i, j, c]


SCHEDULE = MovementSchedule()
