"""Rows of x, gathered side by side: what the register tiles read in place of x.

    panel[m, t * chunk_depth + c] = x[pixel that tap t of output row m reads, c], zero outside the image

A panel lies in the cache of the core that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from laudc.schedules._cpu_plan import Plan

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr

_UNROLLED = 8
"""Vectors, up to which a copy is straight-line code."""

Copy = Callable[["Expr | int", "Expr | int", "Expr | int"], None]
"""Handles so many lanes, from one panel column and one x column on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Which part of K a panel holds."""

    first_tap: Expr | int
    first_channel: Expr | int
    """Within its group."""
    depth: Expr | int
    """Channels, at most `chunk_depth`."""
    first: Expr | bool
    """Whether no chunk came before it."""
    last: Expr | bool


def pieces(count: int, widest: int) -> list[tuple[int, int]]:
    """Offsets and power-of-two widths that make up `count`."""
    made, offset, width = [], 0, widest
    while offset < count:
        while width > count - offset:
            width //= 2
        made.append((offset, width))
        offset += width
    return made


def ramp(start: Expr | int, width: int) -> Expr | int:
    return tirx.Ramp(start, 1, width) if width > 1 else start


def vector(width: int) -> str:
    return f"float32x{width}" if width > 1 else "float32"


def fill_panel(
    plan: Plan,
    chunk: Chunk,
    panel: Buffer,
    x: Buffer,
    rows: Expr,
    position: Callable[[Expr], Expr],
    channel: Expr | int,
) -> None:
    """Gather `rows` rows; `position` says which output row the m-th is, `channel` where the group begins in x."""
    spec = plan.spec
    height, width = plan.in_size
    top, _, left, _ = spec.padding
    with T.serial(rows) as m:
        at = T.bind(position(m))
        sample = T.bind(T.truncdiv(at, plan.pixels))
        pixel = T.bind(T.truncmod(at, plan.pixels))
        y0 = T.bind(T.truncdiv(pixel, plan.out_size[1]) * spec.stride[0] - top)
        x0 = T.bind(T.truncmod(pixel, plan.out_size[1]) * spec.stride[1] - left)

        def one_tap(tap_row: Expr, tap: Expr, column: Expr | int) -> None:
            i = T.bind(y0 + tap_row * spec.dilation[0])
            j = T.bind(x0 + tap * spec.dilation[1])
            inside = _all(_within(i, height, plan, 0), _within(j, width, plan, 1))
            row = (sample * height + i) * width + j
            _either(
                inside,
                lambda: _copy(plan, panel, m, column, x, row, channel + chunk.first_channel, chunk.depth),
                lambda: _zero(plan, panel, m, column, chunk.depth),
            )

        if plan.chunk_taps == 1:
            kernel_row = T.truncdiv(chunk.first_tap, spec.kernel[1])
            one_tap(kernel_row, T.truncmod(chunk.first_tap, spec.kernel[1]), 0)
            continue_rows = 0
        else:
            continue_rows = plan.chunk_taps // spec.kernel[1]
        with T.serial(continue_rows) as r:
            tap_row = T.bind(T.truncdiv(chunk.first_tap, spec.kernel[1]) + r)
            start = T.bind(r * (spec.kernel[1] * plan.chunk_depth))

            def by_tap() -> None:
                with T.serial(spec.kernel[1]) as tap:
                    one_tap(tap_row, tap, start + tap * plan.chunk_depth)

            if not plan.runs:
                by_tap()
            else:
                i = T.bind(y0 + tap_row * spec.dilation[0])
                whole = _all(_within(i, height, plan, 0), x0 >= 0, x0 + spec.kernel[1] <= width)
                row = (sample * height + i) * width + x0
                length = spec.kernel[1] * plan.depth
                _either(whole, lambda: _copy(plan, panel, m, start, x, row, 0, length), by_tap)


def _within(index: Expr, extent: int, plan: Plan, axis: int) -> Expr | bool:
    """Whether an input position lies in the image; True where no tap can miss it."""
    spec = plan.spec
    before = spec.padding[2 * axis]
    reach = (plan.out_size[axis] - 1) * spec.stride[axis] + (spec.kernel[axis] - 1) * spec.dilation[axis]
    return _all(index >= 0 if before else True, index < extent if reach - before >= extent else True)


def _all(*conditions: Expr | bool) -> Expr | bool:
    open_ones = [condition for condition in conditions if condition is not True]
    if not open_ones:
        return True
    return tirx.all(*open_ones) if len(open_ones) > 1 else open_ones[0]


def _either(condition: Expr | bool, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    if condition is True:
        then()
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def _copy(
    plan: Plan, panel: Buffer, m: Expr, to: Expr | int, x: Buffer, row: Expr, start: Expr | int, count: Expr | int
) -> None:
    """`count` floats of x into a panel row. In x a run may go on into the next row."""

    def move(offset: Expr | int, width: int) -> None:
        value = x.vload([row, start + offset], vector(width))
        T.buffer_store(panel, value, [m, ramp(to + offset, width)])

    each_piece(plan.lanes, count, move)


def _zero(plan: Plan, panel: Buffer, m: Expr, to: Expr | int, count: Expr | int) -> None:
    def clear(offset: Expr | int, width: int) -> None:
        zero = tirx.const(0.0, "float32")
        T.buffer_store(panel, tirx.Broadcast(zero, width) if width > 1 else zero, [m, ramp(to + offset, width)])

    each_piece(plan.lanes, count, clear)


def each_piece(lanes: int, count: Expr | int, handle: Callable[[Expr | int, int], None]) -> None:
    if not isinstance(count, int):
        with T.serial(T.truncdiv(count, lanes)) as v:
            handle(v * lanes, lanes)
        with T.serial(T.truncmod(count, lanes)) as one:
            handle(T.truncdiv(count, lanes) * lanes + one, 1)
        return
    if count < lanes:
        for offset, width in pieces(count, lanes):
            handle(offset, width)
        return
    whole = count // lanes
    if whole <= _UNROLLED:
        for v in range(whole):
            handle(v * lanes, lanes)
    else:
        with T.serial(whole) as v:
            handle(v * lanes, lanes)
    if count % lanes:
        handle(count - lanes, lanes)  # the last vector overlaps the one before
