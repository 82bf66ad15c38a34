"""The masker's column: the keep logit of every row, from the panel that the other columns read anyhow.

As one more column of the product it would cost a whole vector of them; as a dot product along k it costs one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from laudc.schedules._cpu_arguments import Arguments
from laudc.schedules._cpu_panel import Chunk
from laudc.schedules._cpu_vectors import on_stack, ramp, vector, zeros

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr

_ROWS = 4
"""Rows done together, so that one does not wait for its own sums."""


def emit_logits(
    a: Arguments,
    chunk: Chunk,
    rows: Expr,
    x: Callable[[Expr, Expr | int, int], Expr],
    out_row: Callable[[Expr], Expr],
) -> None:
    """Add this chunk's part of `rows` logits; `x(m, k, width)` reads from the chunk."""
    plan = a.plan
    k0 = chunk.first_tap * plan.depth + chunk.first_channel
    length = plan.chunk_taps * chunk.depth
    with T.serial(T.ceildiv(rows, _ROWS)) as block:
        ms = [T.bind(T.min(block * _ROWS + i, rows - 1)) for i in range(_ROWS)]
        wide = [on_stack(plan.lanes) for _ in ms]
        for total in wide:
            T.buffer_store(total, zeros(plan.lanes), [ramp(0, plan.lanes)])
        with T.serial(T.truncdiv(length, plan.lanes)) as step:
            _accumulate(a, wide, ms, x, k0, step * plan.lanes, plan.lanes)
        with T.serial(T.truncmod(length, plan.lanes)) as one:
            _accumulate(a, wide, ms, x, k0, T.truncdiv(length, plan.lanes) * plan.lanes + one, 1)
        for i, total in enumerate(wide):
            with T.If(block * _ROWS + i < rows), T.Then():
                _finish(a, chunk, total, out_row(ms[i]))


def _accumulate(
    a: Arguments,
    wide: list[Buffer],
    ms: list[Expr],
    x: Callable[[Expr, Expr | int, int], Expr],
    k0: Expr | int,
    k: Expr,
    width: int,
) -> None:
    weight = T.bind(a.masker.vload([k0 + k], vector(width)))
    for total, m in zip(wide, ms, strict=True):
        T.buffer_store(total, T.fma(x(m, k, width), weight, total.vload([0], vector(width))), [ramp(0, width)])


def _finish(a: Arguments, chunk: Chunk, total: Buffer, row: Expr) -> None:
    plan = a.plan
    width = plan.lanes
    while width > 1:  # halves onto each other: a sum in order would wait for each of its additions
        width //= 2
        T.buffer_store(total, total.vload([0], vector(width)) + total.vload([width], vector(width)), [ramp(0, width)])
    bias = a.masker[plan.taps * plan.depth]
    before = bias if chunk.first is True else tirx.if_then_else(chunk.first, bias, a.logits[row, 0])
    T.buffer_store(a.logits, total[0] + before, [row, 0])
