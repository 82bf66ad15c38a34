# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""A step of the loop with mma.sync: every warp multiplies its rows by its columns, out of shared memory."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from laudc.schedules._cuda_instructions import mma
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import TensorTile
from laudc.schedules._cuda_tir import run_of
from laudc.schedules._cuda_warps import WarpShare


def warp_step(p: Problem, tile: TensorTile) -> Any:
    """The inline function that adds the products of one step, which lies at `x_at` and `w_at`, to a warp's sums."""
    share, bn, line, piece = WarpShare(tile=tile), tile.bn, p.step, p.piece
    tall, wide, own_sums, all_sums = share.tall, share.wide, share.own_sums, share.sums
    instruction = mma(p)
    ldmatrix_half = "ldmatrix.sync.aligned.m8n8.x2.shared.b16"
    ldmatrix = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
    div, mod, xor = T.truncdiv, T.truncmod, T.bitwise_xor

    @T.inline
    def multiply(acc, x_shared, x_at, w_shared, w_at, my_row, my_column, lane):
        a = T.alloc_local((tall * 4,), "uint32")
        b = T.alloc_local((wide // 4,), "uint32")
        b_extra = T.alloc_local((2,), "uint32")
        a_row: T.let = (my_row + mod(lane, 16)) * line
        b_row: T.let = (my_column + mod(lane, 8) + div(lane, 16) * 8) * line
        a_chunk: T.let = xor(div(lane, 16), mod(lane, 8)) * piece
        extra_row: T.let = (bn + mod(lane, 8)) * line
        b_chunk: T.let = xor(mod(div(lane, 8), 2), mod(lane, 8)) * piece
        for k in T.unroll(4):
            for m in T.unroll(tall):
                T.ptx[ldmatrix](
                    *run_of(a, m * 4, 4),
                    x_shared.ptr_to([x_at + a_row + m * 16 * line + xor(a_chunk, k * 2 * piece)]),
                )
            for j in T.unroll(wide // 16):
                T.ptx[ldmatrix](
                    *run_of(b, j * 4, 4),
                    w_shared.ptr_to([w_at + b_row + j * 16 * line + xor(b_chunk, k * 2 * piece)]),
                )
            if p.masker and my_column == 0:
                T.ptx[ldmatrix_half](
                    *run_of(b_extra, 0, 2),
                    w_shared.ptr_to([w_at + extra_row + xor(b_chunk, k * 2 * piece)]),
                )
            for m in T.unroll(tall):
                if p.masker and my_column == 0:
                    T.ptx[instruction](
                        *run_of(acc, m * all_sums + own_sums, 4),
                        *run_of(a, m * 4, 4),
                        *run_of(b_extra, 0, 2),
                        *run_of(acc, m * all_sums + own_sums, 4),
                    )
                for j in T.unroll(wide // 8):
                    T.ptx[instruction](
                        *run_of(acc, m * all_sums + j * 4, 4),
                        *run_of(a, m * 4, 4),
                        *run_of(b, j * 2, 2),
                        *run_of(acc, m * all_sums + j * 4, 4),
                    )

    return multiply
