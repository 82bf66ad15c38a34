"""The gathered product as one TensorIR function.

for each sample that has weights of its own (else once):
    parallel for each task = some rows x some columns:
        for each chunk of K:
            gather the panel                            unless x can be read in place
            for each column tile, for each row tile:    a register tile
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments, declare_arguments
from laudc.schedules._cpu_columns import Columns
from laudc.schedules._cpu_masker import emit_logits
from laudc.schedules._cpu_panel import Chunk, fill_panel
from laudc.schedules._cpu_plan import Plan
from laudc.schedules._cpu_sample import copy_weights
from laudc.schedules._cpu_task import Share, Task, each_share, each_task
from laudc.schedules._cpu_tile import CHEAP
from laudc.schedules._cpu_vectors import branch, each_piece, vector
from laudc.schedules._pointwise import pointwise

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


def build_module(plan: Plan) -> IRModule:
    """The module with the one function, `kernel`."""
    with IRBuilder() as ib:
        with T.prim_func():
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True, "global_symbol": "kernel"})
            a = declare_arguments(plan)
            each_share(a, lambda share: _emit_share(a, share))
        function = ib.get()
    return IRModule({"kernel": function})


def _emit_share(a: Arguments, share: Share) -> None:
    if a.plan.copies_weights:
        copy_weights(a, share.sample, a.plan.depth if share.kept_in is None else share.kept_in, share.kept_out)
    each_task(a.plan, share, lambda task: _emit_task(a, task))


def _emit_task(a: Arguments, task: Task) -> None:
    plan = a.plan
    panel = None
    if not plan.reads_x_in_place:
        panel = T.alloc_buffer((plan.panel_rows, plan.panel_stride), "float32")
    if plan.groups == 1:
        _each_chunk(plan, task.share, lambda chunk: _emit_chunk(a, task, chunk, panel, 0))
        return
    with T.serial(task.units) as i:
        group = T.bind(task.unit + i)
        _each_chunk(plan, task.share, lambda chunk: _emit_chunk(a, task, chunk, panel, group))


def _each_chunk(plan: Plan, share: Share, body: Callable[[Chunk], None]) -> None:
    varies = plan.groups == 1 and share.kept_in is not None
    depth = share.kept_in if varies else plan.depth
    tap_chunks = plan.taps // plan.chunk_taps
    depth_chunks = -(-plan.depth // plan.chunk_depth)
    if tap_chunks == depth_chunks == 1:
        body(Chunk(first_tap=0, first_channel=0, depth=depth, first=True, last=True))
        return
    if varies:
        depth_chunks = T.bind(T.max(T.ceildiv(depth, plan.chunk_depth), 1))  # one where nothing is kept: it writes bias
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


def _emit_chunk(a: Arguments, task: Task, chunk: Chunk, panel: Buffer, group: Expr | int) -> None:
    plan = a.plan
    if panel is not None:
        fill_panel(a, chunk, panel, task.row, task.rows, group * plan.depth)
    if plan.spec.masker:
        _emit_logits(a, task, chunk, panel)
    Columns(a=a, task=task, chunk=chunk, panel=panel, group=group).emit_all()
    if plan.spec.activation not in CHEAP:
        branch(chunk.last, lambda: _activate(a, task, group))


def _emit_logits(a: Arguments, task: Task, chunk: Chunk, panel: Buffer) -> None:
    def x(m: Expr, k: Expr | int, width: int) -> Expr:
        if panel is not None:
            return panel.vload([m, k], vector(width))
        return a.x.vload([task.row + m, chunk.first_channel + k], vector(width))

    with T.If(task.unit == 0), T.Then():
        emit_logits(a, chunk, task.rows, x, lambda m: a.position(task.row + m))


def _activate(a: Arguments, task: Task, group: Expr | int) -> None:
    """Put what the task has made through the activation, where it lies."""
    plan = a.plan
    tile = plan.tile_vectors * plan.lanes
    begin, count = group * plan.columns, plan.columns
    if plan.groups == 1:
        begin = T.bind(task.unit * tile)
        count = T.bind(T.min(task.units * tile, plan.columns - begin))
    with T.serial(task.rows) as m:
        row = T.bind(a.out_row(task.row + m))

        def apply(start: Expr | int, width: int) -> None:
            with T.vectorized(width) as lane:
                value = T.bind(a.out[row, begin + start + lane])
                T.buffer_store(a.out, pointwise(plan.spec.activation, value, "cpu"), [row, begin + start + lane])

        each_piece(plan.lanes, count, apply)
