"""Rows of x, gathered side by side: what the register tiles read in place of x.

    panel[m, t * chunk_depth + c] = pro(x[pixel that tap t of output row m reads, c]), zero outside the image

A panel lies in the cache of the core that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.ops._pointwise import after_affine
from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_plan import Plan
from laudc.schedules._cpu_vectors import all_of, branch, each_piece, ramp, vector, zeros
from laudc.schedules._pointwise import pointwise

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A part of K."""

    first_tap: Expr | int
    first_channel: Expr | int
    """Within its group."""
    depth: Expr | int
    """Channels, at most `chunk_depth`."""
    first: Expr | bool
    """Whether no chunk came before it."""
    last: Expr | bool


def fill_panel(a: Arguments, chunk: Chunk, panel: Buffer, row: Expr, rows: Expr, channel: Expr | int) -> None:
    """Gather so many rows of the product; `channel` is where their group begins in x."""
    with T.serial(rows) as m:
        filler = _row(a, chunk, panel, m, row + m if a.plan.splits_rows else a.position(row + m), channel)
        if a.plan.chunk_taps == 1:
            width = a.plan.spec.kernel[1]
            filler.one_tap(T.truncdiv(chunk.first_tap, width), T.truncmod(chunk.first_tap, width), 0)
        else:
            filler.kernel_rows()


def _row(a: Arguments, chunk: Chunk, panel: Buffer, m: Expr, position: Expr, channel: Expr | int) -> _Row:
    plan, spec = a.plan, a.plan.spec
    at = T.bind(position)
    if plan.splits_rows:
        return _Row(a=a, chunk=chunk, panel=panel, m=m, channel=channel, sample=at, top=0, left=0)
    pixel = T.bind(T.truncmod(at, plan.pixels))
    return _Row(
        a=a,
        chunk=chunk,
        panel=panel,
        m=m,
        channel=channel,
        sample=T.bind(T.truncdiv(at, plan.pixels)),
        top=T.bind(T.truncdiv(pixel, plan.out_size[1]) * spec.stride[0] - spec.padding[0]),
        left=T.bind(T.truncmod(pixel, plan.out_size[1]) * spec.stride[1] - spec.padding[2]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One row of a panel and the corner of x that its window begins at, which may lie outside."""

    a: Arguments
    chunk: Chunk
    panel: Buffer
    m: Expr
    channel: Expr | int
    sample: Expr
    top: Expr | int
    left: Expr | int

    @property
    def plan(self) -> Plan:
        return self.a.plan

    def one_tap(self, tap_row: Expr, tap: Expr, column: Expr | int) -> None:
        """The channels under one tap."""
        i = T.bind(self.top + tap_row * self.plan.spec.dilation[0])
        j = T.bind(self.left + tap * self.plan.spec.dilation[1])
        first, depth = self.channel + self.chunk.first_channel, self.chunk.depth
        branch(
            all_of(self._inside(i, 0), self._inside(j, 1)),
            lambda: self._copy(column, self._pixel(i, j), first, depth),
            lambda: self._clear(column, depth),
        )

    def kernel_rows(self) -> None:
        """All channels under all taps of the chunk's kernel rows."""
        plan, taps = self.plan, self.plan.spec.kernel[1]
        with T.serial(plan.chunk_taps // taps) as r:
            tap_row = T.bind(T.truncdiv(self.chunk.first_tap, taps) + r)
            column = T.bind(r * (taps * plan.chunk_depth))
            if not plan.runs:
                self._each_tap(tap_row, column)
            else:  # where all taps lie inside they lie side by side
                i = T.bind(self.top + tap_row * plan.spec.dilation[0])
                branch(
                    all_of(self._inside(i, 0), self.left >= 0, self.left + taps <= plan.in_size[1]),
                    lambda: self._copy(column, self._pixel(i, self.left), 0, taps * plan.depth),
                    lambda: self._each_tap(tap_row, column),
                )

    def _each_tap(self, tap_row: Expr, column: Expr) -> None:
        with T.serial(self.plan.spec.kernel[1]) as tap:
            self.one_tap(tap_row, tap, column + tap * self.plan.chunk_depth)

    def _pixel(self, i: Expr, j: Expr) -> Expr:
        height, width = self.plan.in_size
        return (self.sample * height + i) * width + j

    def _inside(self, index: Expr, axis: int) -> Expr | bool:
        """Whether an input position lies in the image; True where no tap can miss it."""
        plan, spec = self.plan, self.plan.spec
        if plan.splits_rows:
            return True
        before = spec.padding[2 * axis]
        reach = (plan.out_size[axis] - 1) * spec.stride[axis] + (spec.kernel[axis] - 1) * spec.dilation[axis]
        extent = plan.in_size[axis]
        return all_of(index >= 0 if before else True, index < extent if reach - before >= extent else True)

    def _copy(self, to: Expr | int, pixel: Expr, first: Expr | int, count: Expr | int) -> None:
        """A run of x, which may go on into the pixels after."""

        x, prologue = self.a.x, self.plan.spec.prologue

        def move(offset: Expr | int, width: int) -> None:
            value = x.vload([pixel, first + offset], vector(width))
            T.buffer_store(self.panel, value, [self.m, ramp(to + offset, width)])

        def put_through(function: str) -> Callable[[Expr | int, int], None]:
            def put(offset: Expr | int, width: int) -> None:
                with T.vectorized(width) as lane:
                    c = first + offset + lane
                    value = x[pixel, c] * self.a.prologue[0, c] + self.a.prologue[1, c]
                    T.buffer_store(self.panel, pointwise(function, value, "cpu"), [self.m, to + offset + lane])

            return put

        each_piece(
            self.plan.lanes, count, move if prologue is None else put_through(after_affine(prologue)), twice=True
        )

    def _clear(self, to: Expr | int, count: Expr | int) -> None:
        def clear(offset: Expr | int, width: int) -> None:
            T.buffer_store(self.panel, zeros(width), [self.m, ramp(to + offset, width)])

        each_piece(self.plan.lanes, count, clear, twice=True)
