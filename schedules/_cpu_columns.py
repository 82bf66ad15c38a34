"""All register tiles of a task for one chunk of K: column tile by column tile, each over all rows.

The weights of a column tile stay in the cache while the rows go by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_panel import Chunk
from laudc.schedules._cpu_task import Task
from laudc.schedules._cpu_tile import Step, Tile, emit_tile
from laudc.schedules._cpu_vectors import opaque, vector

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnTile:
    """Some neighbouring vectors of columns."""

    first: Expr | int
    vectors: int
    last_lanes: int
    """How many lanes of the last vector are columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    a: Arguments
    task: Task
    chunk: Chunk
    panel: Buffer
    """None where x is read in place."""
    group: Expr | int

    def emit_all(self) -> None:
        """The code for every column of the task."""
        plan, task = self.a.plan, self.task
        if plan.groups > 1:
            self._all_columns(0, plan.column_tiles)
        elif task.share.kept_out is None:
            self._all_columns(task.unit, task.units)
        else:
            self._listed_columns()

    def _all_columns(self, unit: Expr | int, units: Expr | int) -> None:
        plan = self.a.plan
        whole = plan.vectors // plan.tile_vectors
        if whole * plan.tile_vectors == plan.vectors and plan.last_lanes < plan.lanes:
            whole -= 1
        first = whole * plan.tile_vectors
        last = ColumnTile(first=first, vectors=plan.vectors - first, last_lanes=plan.last_lanes)
        with T.serial(units) as i:
            number = T.bind(unit + i)
            full = ColumnTile(first=number * plan.tile_vectors, vectors=plan.tile_vectors, last_lanes=plan.lanes)
            if last.vectors == 0:
                self._rows(full)
            elif whole == 0:
                self._rows(last)
            else:
                with T.If(number < whole):
                    with T.Then():
                        self._rows(full)
                    with T.Else():
                        self._rows(last)

    def _listed_columns(self) -> None:
        """As many columns as the list names: whole tiles, then vector by vector."""
        plan, task = self.a.plan, self.task
        begin = task.unit * plan.tile_vectors
        there = T.ceildiv(task.share.kept_out, plan.lanes)
        end = T.bind(T.min((task.unit + task.units) * plan.tile_vectors, there))
        # columns past the count are undefined, so a vector may be stored whole if it lies within out at all
        whole_end = T.bind(T.min(end, plan.columns // plan.lanes))
        whole = T.bind(T.truncdiv(whole_end - begin, plan.tile_vectors))
        with T.serial(whole) as i:
            first = T.bind(begin + i * plan.tile_vectors)
            self._rows(ColumnTile(first=first, vectors=plan.tile_vectors, last_lanes=plan.lanes))
        done = T.bind(begin + whole * plan.tile_vectors)
        if plan.tile_vectors > 1:
            with T.serial(whole_end - done) as i:
                self._rows(ColumnTile(first=T.bind(done + i), vectors=1, last_lanes=plan.lanes))
        if plan.last_lanes < plan.lanes:
            with T.If(whole_end < end), T.Then():
                self._rows(ColumnTile(first=whole_end, vectors=1, last_lanes=plan.last_lanes))

    def _rows(self, columns: ColumnTile) -> None:
        """Register tiles over all rows of the task; at the end, lower ones for the rows that are left."""
        plan, rows = self.a.plan, self.task.rows
        place = self._tile(columns)
        if plan.exact_tiles:
            done: Expr | int = 0
            for height in plan.tile_heights:
                count = opaque(T.truncdiv(rows - done, height))
                with T.serial(count) as i:
                    place(height, opaque(done + i * height), 0, height)
                done = opaque(done + count * height)
            return
        with T.serial(T.ceildiv(rows, plan.tile_rows)) as i:
            at = opaque(i * plan.tile_rows)
            left = opaque(rows - at)
            _lowest(plan.tile_heights, left, lambda height: self._within_x(place, height, at, left))

    def _within_x(self, place: Place, height: int, at: Expr, left: Expr) -> None:
        if self.panel is not None:
            place(height, at, 0, opaque(T.min(left, height)))
            return
        # the tile must not read past the end of x: it begins earlier, and skips the rows that are done
        skip = opaque(T.max(self.task.row + at + height - self.a.x_rows, 0))
        place(height, opaque(at - skip), skip, opaque(T.min(left + skip, height)))

    def _tile(self, columns: ColumnTile) -> Place:
        a, plan = self.a, self.a.plan
        weight, bias = (a.copied_weight, a.copied_bias) if plan.copies_weights else (a.weight, a.bias)
        sources = [T.bind(self._weight_vector(columns.first + v)) for v in range(columns.vectors)]
        start = self.group * plan.columns + columns.first * plan.lanes
        whole = vector(plan.lanes)

        def place(height: int, at: Expr, skip: Expr | int, valid: Expr | int) -> None:
            row = opaque(self.task.row + at)
            emit_tile(
                Tile(
                    rows=height,
                    vectors=columns.vectors,
                    lanes=plan.lanes,
                    last_lanes=columns.last_lanes,
                    x=self._x(row, at),
                    weight=lambda v, k: weight.vload([sources[v], k, 0], whole),
                    each_k=self._each_k,
                    bias=(lambda v: bias.vload([sources[v], 0], whole)) if plan.spec.bias else None,
                    gain=(lambda m: a.gain[a.position(row + m), 0]) if plan.spec.gain else None,
                    out=a.out,
                    residual={"none": None, "dense": a.residual, "in_place": a.out}[plan.spec.residual],
                    out_row=lambda m: a.out_row(row + m),
                    out_column=lambda v: start + v * plan.lanes,
                    activation=plan.spec.activation,
                    chunk=self.chunk,
                    skip=skip,
                    valid=valid,
                )
            )

        return place

    def _weight_vector(self, number: Expr | int) -> Expr | int:
        """Where the weights of a group's vector lie."""
        plan, share, listed = self.a.plan, self.task.share, self.a.plan.spec.channels_out
        if share.kept_out is None or plan.copies_weights:
            return self.group * plan.vectors + number
        if plan.groups > 1:
            channel = self.a.listed_channel(share.sample, listed, self.group * plan.columns)
            return T.truncdiv(channel, plan.columns) * plan.vectors + number
        return T.truncdiv(self.a.listed_channel(share.sample, listed, number * plan.lanes), plan.lanes)

    def _x(self, row: Expr, at: Expr) -> Callable[[int, Expr], Expr]:
        if self.panel is not None:
            return lambda m, k: self.panel[at + m, k]
        start = self.group * self.a.plan.depth + self.chunk.first_channel
        return lambda m, k: self.a.x[row + m, start + k]

    def _each_k(self, step: Step) -> None:
        plan, chunk, spec = self.a.plan, self.chunk, self.a.plan.spec
        if isinstance(chunk.depth, int):
            first = chunk.first_tap * plan.depth + chunk.first_channel
            with T.serial(plan.chunk_taps * chunk.depth) as k:
                step(k, first + k)
            return
        with T.serial(plan.chunk_taps) as tap:
            in_panel = tap * plan.chunk_depth
            first = T.bind((chunk.first_tap + tap) * plan.depth)
            if not spec.channels_in or plan.copies_weights:
                with T.serial(chunk.depth) as c:
                    step(in_panel + c, first + chunk.first_channel + c)
                return
            group = spec.channels_in
            with T.serial(T.truncdiv(chunk.depth, group)) as g:
                number = T.truncdiv(chunk.first_channel, group) + g
                listed = T.bind(first + self.a.channels[self.task.share.sample, 1 + number] * group)
                with T.serial(group) as c:
                    step(in_panel + g * group + c, listed + c)


Place = Callable[[int, "Expr", "Expr | int", "Expr | int"], None]
"""Emits a register tile: its height, its first row within the task, the rows of it that are written: from, to."""


def _lowest(heights: tuple[int, ...], rows: Expr, emit: Callable[[int], None]) -> None:
    """A choice among tiles at run time: the lowest that holds the rows."""
    height, *lower = heights
    if not lower:
        emit(height)
        return
    with T.If(rows > lower[0]):
        with T.Then():
            emit(height)
        with T.Else():
            _lowest(tuple(lower), rows, emit)
