"""The gathered product as one TensorIR function: its tasks, and the loops inside a task.

    for each sample that has weights of its own (else once):
        parallel for each task = some rows x some columns:
            for each chunk of K:
                gather the panel                            unless x can be read in place
                for each column tile, for each row tile:    a register tile
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments, declare_arguments
from laudc.schedules._cpu_masker import emit_logits
from laudc.schedules._cpu_panel import Chunk, each_piece, fill_panel, vector
from laudc.schedules._cpu_plan import Plan
from laudc.schedules._cpu_sample import copy_weights, listed_channel
from laudc.schedules._cpu_tile import CHEAP, Step, Tile, emit_tile, opaque
from laudc.schedules._pointwise import pointwise

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The rows of the product that share their weights: one sample's, or all."""

    begin: Expr | int
    count: Expr
    sample: Expr | int
    kept_in: Expr | None
    """Channels of x that are there, where that varies."""
    kept_out: Expr | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Some rows of a share, some column tiles (with one group) or some groups."""

    share: Share
    row: Expr
    rows: Expr
    unit: Expr
    units: Expr


def build_module(plan: Plan) -> IRModule:
    """The module with the one function, `kernel`."""
    with IRBuilder() as ib:
        with T.prim_func():
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True, "global_symbol": "kernel"})
            a = declare_arguments(plan)
            if plan.per_sample:
                with T.serial(a.batch) as sample:
                    _emit_share(plan, a, _sample_share(plan, a, sample))
            else:
                _emit_share(plan, a, _whole_share(plan, a))
        function = ib.get()
    return IRModule({"kernel": function})


def _whole_share(plan: Plan, a: Arguments) -> Share:
    count = a.rows[a.batch] if plan.spec.rows else a.x_rows if plan.reads_x_in_place else a.batch * plan.pixels
    return Share(begin=0, count=opaque(count), sample=0, kept_in=None, kept_out=None)


def _sample_share(plan: Plan, a: Arguments, sample: Expr) -> Share:
    spec = plan.spec
    kept = T.bind(a.channels[sample, 0])
    begin = opaque(a.rows[sample] if spec.rows else sample * plan.pixels)
    end = a.rows[sample + 1] if spec.rows else begin + plan.pixels
    return Share(
        begin=begin,
        count=opaque(end - begin),
        sample=sample,
        kept_in=T.bind(kept * spec.channels_in) if spec.channels_in else None,
        kept_out=T.bind(kept * spec.channels_out) if spec.channels_out else None,
    )


def _emit_share(plan: Plan, a: Arguments, share: Share) -> None:
    if plan.copies_weights:
        kept_in = plan.depth if share.kept_in is None else share.kept_in
        copy_weights(plan, a, share.sample, kept_in, share.kept_out)
    rounds = T.max(T.ceildiv(share.count, plan.panel_rows * plan.row_parts), 1)
    parts = T.bind(rounds * plan.row_parts)
    rows = opaque(T.max(T.ceildiv(T.ceildiv(share.count, parts), plan.half_rows), 1) * plan.half_rows)
    row_tasks = opaque(T.ceildiv(share.count, rows))
    all_units = T.bind(_units(plan, share))
    units = opaque(T.max(T.ceildiv(all_units, plan.column_parts), 1))
    with T.parallel(row_tasks * T.ceildiv(all_units, units)) as number:
        row = opaque(T.truncmod(number, row_tasks) * rows)
        unit = opaque(T.truncdiv(number, row_tasks) * units)
        task = Task(
            share=share,
            row=opaque(share.begin + row),
            rows=opaque(T.min(rows, share.count - row)),
            unit=unit,
            units=opaque(T.min(units, all_units - unit)),
        )
        _emit_task(plan, a, task)


def _units(plan: Plan, share: Share) -> Expr | int:
    """How many column tiles there are, or groups where there is more than one."""
    if share.kept_out is None:
        return plan.groups if plan.groups > 1 else -(-plan.vectors // plan.tile_vectors)
    per_unit = plan.columns if plan.groups > 1 else plan.tile_vectors * plan.lanes
    return T.ceildiv(share.kept_out, per_unit)


def _emit_task(plan: Plan, a: Arguments, task: Task) -> None:
    panel = None
    if not plan.reads_x_in_place:
        panel = T.alloc_buffer((plan.panel_rows, plan.panel_stride), "float32")
    if plan.groups == 1:
        _each_chunk(plan, task.share, lambda chunk: _emit_chunk(plan, a, task, chunk, panel, 0))
        return
    with T.serial(task.units) as i:
        group = T.bind(task.unit + i)
        _each_chunk(plan, task.share, lambda chunk: _emit_chunk(plan, a, task, chunk, panel, group))


def _each_chunk(plan: Plan, share: Share, body: Callable[[Chunk], None]) -> None:
    varies = share.kept_in is not None and plan.groups == 1
    depth = share.kept_in if varies else plan.depth
    tap_chunks = plan.taps // plan.chunk_taps
    depth_chunks = -(-plan.depth // plan.chunk_depth)
    if varies and depth_chunks > 1:
        depth_chunks = T.bind(T.max(T.ceildiv(depth, plan.chunk_depth), 1))
    if tap_chunks == 1 and isinstance(depth_chunks, int) and depth_chunks == 1:
        body(Chunk(first_tap=0, first_channel=0, depth=depth, first=True, last=True))
        return
    with T.serial(tap_chunks) as i, T.serial(depth_chunks) as j:
        first_channel = T.bind(j * plan.chunk_depth)
        whole = not varies and plan.depth % plan.chunk_depth == 0
        body(
            Chunk(
                first_tap=T.bind(i * plan.chunk_taps),
                first_channel=first_channel,
                depth=plan.chunk_depth if whole else T.bind(T.min(plan.chunk_depth, depth - first_channel)),
                first=tirx.all(i == 0, j == 0),
                last=tirx.all(i == tap_chunks - 1, j == depth_chunks - 1),
            )
        )


def _position(plan: Plan, a: Arguments, row: Expr) -> Expr:
    """The output position that a row of the product stands for."""
    return a.rows[a.batch + 1 + row] if plan.spec.rows else row


def _out_row(plan: Plan, a: Arguments, row: Expr) -> Expr:
    return row if plan.spec.compact else _position(plan, a, row)


def _emit_chunk(plan: Plan, a: Arguments, task: Task, chunk: Chunk, panel: Buffer | None, group: Expr | int) -> None:
    if panel is not None:
        fill_panel(plan, chunk, panel, a.x, task.rows, lambda m: _position(plan, a, task.row + m), group * plan.depth)
    if plan.spec.masker:
        with T.If(task.unit == 0), T.Then():
            start = chunk.first_channel
            emit_logits(
                plan,
                a,
                chunk,
                task.rows,
                lambda m, k, width: (
                    a.x.vload([task.row + m, start + k], vector(width))
                    if panel is None
                    else panel.vload([m, k], vector(width))
                ),
                lambda m: _position(plan, a, task.row + m),
            )
    rows = _RowTiles(plan=plan, a=a, task=task, chunk=chunk, panel=panel, group=group)
    if plan.groups > 1:
        _static_columns(plan, 0, -(-plan.vectors // plan.tile_vectors), rows.emit)
    elif task.share.kept_out is None:
        _static_columns(plan, task.unit, task.units, rows.emit)
    else:
        _listed_columns(plan, task, rows.emit)
    if plan.spec.activation not in CHEAP:
        with T.If(chunk.last), T.Then():
            _activate(plan, a, task, group)


def _activate(plan: Plan, a: Arguments, task: Task, group: Expr | int) -> None:
    """Put what the task has made through the activation, where it lies."""
    tile = plan.tile_vectors * plan.lanes
    begin, count = (group * plan.columns, plan.columns) if plan.groups > 1 else (task.unit * tile, task.units * tile)
    if plan.groups == 1:
        count = T.bind(T.min(count, plan.spec.out_channels - begin))
    with T.serial(task.rows) as m:
        row = T.bind(_out_row(plan, a, task.row + m))

        def apply(start: Expr | int, width: int) -> None:
            with T.vectorized(width) as lane:
                value = T.bind(a.out[row, begin + start + lane])
                T.buffer_store(a.out, pointwise(plan.spec.activation, value, "cpu"), [row, begin + start + lane])

        each_piece(plan.lanes, count, apply)


EmitColumns = Callable[["Expr | int", int, int], None]
"""Emits the row tiles of some columns: the first vector, how many, lanes of the last."""


def _static_columns(plan: Plan, unit: Expr | int, units: Expr | int, emit: EmitColumns) -> None:
    whole = plan.vectors // plan.tile_vectors
    if whole * plan.tile_vectors == plan.vectors and plan.last_lanes < plan.lanes:
        whole -= 1
    rest = plan.vectors - whole * plan.tile_vectors
    with T.serial(units) as i:
        tile = T.bind(unit + i)
        first = T.bind(tile * plan.tile_vectors)
        if rest == 0:
            emit(first, plan.tile_vectors, plan.lanes)
        elif whole == 0:
            emit(0, rest, plan.last_lanes)
        else:
            with T.If(tile < whole):
                with T.Then():
                    emit(first, plan.tile_vectors, plan.lanes)
                with T.Else():
                    emit(whole * plan.tile_vectors, rest, plan.last_lanes)


def _listed_columns(plan: Plan, task: Task, emit: EmitColumns) -> None:
    """As many columns as the list names: whole tiles, then vector by vector."""
    begin = task.unit * plan.tile_vectors
    there = T.ceildiv(task.share.kept_out, plan.lanes)
    end = T.bind(T.min((task.unit + task.units) * plan.tile_vectors, there))
    # columns past the count are undefined, so a vector may be stored whole if it lies within out at all
    whole_end = T.bind(T.min(end, plan.spec.out_channels // plan.lanes))
    whole = T.bind(T.truncdiv(whole_end - begin, plan.tile_vectors))
    with T.serial(whole) as i:
        emit(T.bind(begin + i * plan.tile_vectors), plan.tile_vectors, plan.lanes)
    done = T.bind(begin + whole * plan.tile_vectors)
    if plan.tile_vectors > 1:
        with T.serial(whole_end - done) as i:
            emit(T.bind(done + i), 1, plan.lanes)
    if plan.last_lanes < plan.lanes:
        with T.If(whole_end < end), T.Then():
            emit(whole_end, 1, plan.last_lanes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _RowTiles:
    """All register tiles of some columns over the rows of a task, for one chunk."""

    plan: Plan
    a: Arguments
    task: Task
    chunk: Chunk
    panel: Buffer | None
    group: Expr | int

    def emit(self, vector: Expr | int, vectors: int, last_lanes: int) -> None:
        plan, rows = self.plan, self.task.rows
        columns = self._columns(vector, vectors)
        if plan.exact_tiles:
            done: Expr | int = 0
            for height in plan.tile_heights:
                count = opaque(T.truncdiv(rows - done, height))
                with T.serial(count) as i:
                    self._tile(columns, height, vectors, last_lanes, opaque(done + i * height), 0, height)
                done = opaque(done + count * height)
            return
        with T.serial(T.ceildiv(rows, plan.tile_rows)) as i:
            at = opaque(i * plan.tile_rows)
            left = opaque(rows - at)
            self._lowest(plan.tile_heights, left, lambda height: self._guarded(columns, height, vectors, last_lanes, at, left))

    def _lowest(self, heights: tuple[int, ...], rows: Expr, emit: Callable[[int], None]) -> None:
        """Emit a choice among tiles: the lowest that holds the rows."""
        height, *lower = heights
        if not lower:
            emit(height)
            return
        with T.If(rows > lower[0]):
            with T.Then():
                emit(height)
            with T.Else():
                self._lowest(tuple(lower), rows, emit)

    def _guarded(
        self, columns: _Columns, height: int, vectors: int, last_lanes: int, at: Expr, left: Expr
    ) -> None:
        if self.panel is not None:
            self._tile(columns, height, vectors, last_lanes, at, 0, opaque(T.min(left, height)))
            return
        # the tile must not read past x: it begins earlier, and skips the rows that are done
        skip = opaque(T.max(self.task.row + at + height - self.a.x_rows, 0))
        self._tile(columns, height, vectors, last_lanes, opaque(at - skip), skip, opaque(T.min(left + skip, height)))

    def _tile(
        self,
        columns: _Columns,
        height: int,
        vectors: int,
        last_lanes: int,
        at: Expr,
        skip: Expr | int,
        valid: Expr | int,
    ) -> None:
        plan, a, spec = self.plan, self.a, self.plan.spec
        row = opaque(self.task.row + at)
        residual = {"none": None, "dense": a.residual, "in_place": a.out}[spec.residual]
        emit_tile(
            Tile(
                rows=height,
                vectors=vectors,
                lanes=plan.lanes,
                last_lanes=last_lanes,
                x=self._x(row, at),
                weight=columns.weight,
                each_k=self._each_k,
                bias=columns.bias,
                out=a.out,
                residual=residual,
                out_row=lambda m: _out_row(plan, a, row + m),
                out_column=columns.out,
                activation=spec.activation,
                chunk=self.chunk,
                skip=skip,
                valid=valid,
            )
        )

    def _x(self, row: Expr, at: Expr) -> Callable[[int, Expr], Expr]:
        panel = self.panel
        if panel is not None:
            return lambda m, k: panel[at + m, k]
        start = self.group * self.plan.depth + self.chunk.first_channel
        return lambda m, k: self.a.x[row + m, start + k]

    def _each_k(self, step: Step) -> None:
        plan, chunk, spec = self.plan, self.chunk, self.plan.spec
        if isinstance(chunk.depth, int):
            first = chunk.first_tap * plan.depth + chunk.first_channel
            with T.serial(plan.chunk_taps * chunk.depth) as k:
                step(k, first + k)
            return
        with T.serial(plan.chunk_taps) as tap:
            panel_first = tap * plan.chunk_depth
            first = T.bind((chunk.first_tap + tap) * plan.depth)
            if not spec.channels_in or plan.copies_weights or plan.groups > 1:
                with T.serial(chunk.depth) as c:
                    step(panel_first + c, first + chunk.first_channel + c)
                return
            group = spec.channels_in
            with T.serial(T.truncdiv(chunk.depth, group)) as g:
                listed = self.a.channels[self.task.share.sample, 1 + T.truncdiv(chunk.first_channel, group) + g]
                weight_row = T.bind(first + listed * group)
                with T.serial(group) as c:
                    step(panel_first + g * group + c, weight_row + c)

    def _columns(self, first: Expr | int, vectors: int) -> _Columns:
        plan, a = self.plan, self.a
        copied = plan.copies_weights
        weight, bias = (a.copied_weight, a.copied_bias) if copied else (a.weight, a.bias)
        start = self.group * plan.columns
        at = [T.bind(self._weight_vector(first + v)) for v in range(vectors)]
        whole = vector(plan.lanes)
        return _Columns(
            weight=lambda v, k: weight.vload([at[v], k, 0], whole),
            bias=None if bias is None else lambda v: bias.vload([at[v], 0], whole),
            out=lambda v: start + (first + v) * plan.lanes,
        )

    def _weight_vector(self, number: Expr | int) -> Expr | int:
        """Where the weights of a group's vector lie."""
        plan, share, group = self.plan, self.task.share, self.plan.spec.channels_out
        if share.kept_out is None or plan.copies_weights:
            return self.group * plan.vectors + number
        if plan.groups > 1:
            channel = listed_channel(self.a, share.sample, group, self.group * plan.columns)
            return T.truncdiv(channel, plan.columns) * plan.vectors + number
        return T.truncdiv(listed_channel(self.a, share.sample, group, number * plan.lanes), plan.lanes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Where the vectors of a column tile lie."""

    weight: Callable[[int, Expr], Expr]
    bias: Callable[[int], Expr] | None
    out: Callable[[int], Expr | int]
