# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""The end of a tensor-core tile, warp by warp: from sums in registers to finished rows in memory.

(sums + bias) * gain --> tile in shared, in the result's type --> + residual, activation --> 16-byte stores, listed rows
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from laudc.schedules._cuda_instructions import MULTIPLIED
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_rows import row_of_place
from laudc.schedules._cuda_sums import sum_lines, within_sample
from laudc.schedules._cuda_tiles import TensorTile
from laudc.schedules._cuda_warps import WarpShare
from laudc.schedules._pointwise import pointwise


def read_added(p: Problem, tile: TensorTile) -> Any:
    """The inline function that reads a warp's rows of the residual into registers."""
    share, columns, bn, piece = WarpShare(tile=tile), p.columns, tile.bn, p.piece
    tall, apart = share.tall, share.apart
    line_chunks, lines_at_once, lines = share.line_chunks, share.lines_at_once, share.lines
    div, mod = T.truncdiv, T.truncmod

    @T.inline
    def read(old, added_flat, place_shared, column_tile, my_row, my_column, lane):
        # Unguarded and all at once, or every read would wait for the store before it.
        for m in T.unroll(tall):
            for i in T.unroll(lines):
                place: T.let = place_shared[my_row + m * apart + i * lines_at_once + div(lane, line_chunks)]
                at: T.let = column_tile * (bn // piece) + div(my_column, piece) + mod(lane, line_chunks)
                for e in T.vectorized(piece):
                    old[(m * lines + i) * piece + e] = added_flat[
                        (T.max(place, 0) * (columns // piece) + T.min(at, columns // piece - 1)) * piece + e
                    ]

    return read


def round_off(p: Problem, tile: TensorTile) -> Any:
    """The inline function that puts a warp's sums, biased, scaled and in the type of the result, into the tile in
    shared memory, and its rows' keep logits where they belong."""
    share, bn, out_pitch = WarpShare(tile=tile), tile.bn, tile.out_pitch
    tall, wide, apart, own_sums, all_sums = share.tall, share.wide, share.apart, share.own_sums, share.sums
    padded, added = -(-p.columns // bn) * bn, p.residual != "none"
    convert, wide_numbers = f"cvt.rn.{MULTIPLIED[p.dtype]}x2.f32", tile.size == 4
    stmatrix = "stmatrix.sync.aligned.m8n8.x4.shared.b16"
    div, mod = T.truncdiv, T.truncmod

    def quad_at(row, column, q, lane):
        """Where the pairs of four lanes begin: of the q-th 8 x 8 sums, rows before columns."""
        return (row + div(lane, 4) + (q % 2) * 8) * out_pitch + column + (q // 2) * 8

    @T.inline
    def put(acc, out_shared, place_shared, rows, batch, gain, bias, logits, column_tile, my_row, my_column, lane):
        pair = T.alloc_local((2,), "float32")
        packed = T.alloc_local((4,), "uint32")
        if p.gain:
            gains = T.alloc_local((2,), "float32")
        if not wide_numbers:
            out_words = out_shared.view("uint32")
        for m in T.unroll(tall):
            if p.gain:
                for h in T.unroll(2):
                    own_place: T.let = T.max(place_shared[my_row + m * apart + h * 8 + div(lane, 4)], 0)
                    gains[h] = gain[0, 0, row_of_place(p, rows, batch, own_place), 0]
            for j in T.unroll(wide // 16):
                for q in T.unroll(4):
                    for e in T.unroll(2):
                        pair[e] = acc[m * all_sums + j * 8 + q * 2 + e]
                        if p.bias:
                            pair[e] = (
                                pair[e]
                                + bias[column_tile * bn + my_column + j * 16 + (q // 2) * 8 + mod(lane, 4) * 2 + e]
                            )
                        if p.gain:
                            pair[e] = pair[e] * gains[q % 2]
                        if not added:
                            pair[e] = pointwise(p.activation, pair[e], "cuda")
                    if wide_numbers:
                        for e in T.vectorized(2):
                            out_shared[
                                quad_at(my_row + m * apart, my_column + j * 16, q, lane) + mod(lane, 4) * 2 + e
                            ] = pair[e]
                    else:
                        T.ptx[convert](packed[q], pair[1], pair[0])
                        if not tile.stmatrix:
                            out_words[quad_at(my_row + m * apart, my_column + j * 16, q, lane) // 2 + mod(lane, 4)] = (
                                packed[q]
                            )
                if tile.stmatrix and not wide_numbers:
                    T.ptx[stmatrix](
                        out_shared.ptr_to(
                            [(my_row + m * apart + mod(lane, 16)) * out_pitch + my_column + (j * 2 + div(lane, 16)) * 8]
                        ),
                        packed[0],
                        packed[1],
                        packed[2],
                        packed[3],
                    )
        if p.masker and column_tile == 0 and my_column == 0 and mod(lane, 4) == 0:
            for m in T.unroll(tall):
                for h in T.unroll(2):
                    pixel: T.let = place_shared[my_row + m * apart + h * 8 + div(lane, 4)]
                    if pixel >= 0:
                        pair[0] = acc[m * all_sums + own_sums + h * 2]
                        if p.bias:
                            pair[0] = pair[0] + bias[padded]
                        logits[0, 0, pixel, 0] = pair[0]

    return put


def store_rows(p: Problem, tile: TensorTile) -> Any:
    """The inline function that stores a warp's rows as `store_columns` does, all of them."""
    store, columns = store_columns(p, tile), p.columns

    @T.inline
    def store_all(out_shared, place_shared, old, out_flat, sum_shared, column_tile, my_row, my_column, lane):
        store(out_shared, place_shared, old, out_flat, sum_shared, column_tile, columns, my_row, my_column, lane)

    return store_all


def store_columns(p: Problem, tile: TensorTile) -> Any:
    """The inline function that adds the residual to a warp's rounded rows and stores as many of their columns as are
    `made`; their channel sums go to lines in shared memory."""
    share, bn, out_pitch, columns = WarpShare(tile=tile), tile.bn, tile.out_pitch, p.columns
    tall, apart, added, piece = share.tall, share.apart, p.residual != "none", p.piece
    line_chunks, lines_at_once, lines = share.line_chunks, share.lines_at_once, share.lines
    put_down = sum_lines(share, tile)
    div, mod = T.truncdiv, T.truncmod

    def is_whole(at, made):
        return True if p.channels_out % piece == 0 else at * piece + piece <= made

    def plus(made, was):
        return T.Cast("float32", made) + T.Cast("float32", was)

    @T.inline
    def store(out_shared, place_shared, old, out_flat, sum_shared, column_tile, made, my_row, my_column, lane):
        # A warp reads only what it wrote.
        T.cuda.warp_sync()
        line = T.alloc_local((piece,), p.dtype)
        if p.lined:
            mine = T.alloc_local((8 * tile.sums,), "float32")
            value = T.alloc_local((8,), "float32")
        for m in T.unroll(tall):
            if p.lined:
                for e in T.unroll(8 * tile.sums):
                    mine[e] = T.float32(0)
                beyond: T.let = (div(place_shared[my_row + m * apart], p.pixels) + 1) * p.pixels
            for i in T.unroll(lines):
                tile_row: T.let = my_row + m * apart + i * lines_at_once + div(lane, line_chunks)
                place: T.let = place_shared[tile_row]
                at: T.let = column_tile * (bn // piece) + div(my_column, piece) + mod(lane, line_chunks)
                if place >= 0 and at * piece < made:
                    for e in T.vectorized(piece):
                        line[e] = out_shared[tile_row * out_pitch + my_column + mod(lane, line_chunks) * piece + e]
                    if added:
                        for e in T.unroll(piece):
                            s: T.float32 = plus(line[e], old[(m * lines + i) * piece + e])
                            done: T.float32 = pointwise(p.activation, s, "cuda")
                            line[e] = T.Cast(p.dtype, done)
                            if p.running > 0:
                                value[e] = done
                    if is_whole(at, made):
                        for e in T.vectorized(piece):
                            out_flat[(place * (columns // piece) + at) * piece + e] = line[e]
                    else:
                        for e in T.unroll(piece - 1):
                            if at * piece + e < made:
                                out_flat[(place * (columns // piece) + at) * piece + e] = line[e]
                    if p.sums or (p.running > 0 and not added):
                        for e in T.unroll(8):
                            value[e] = T.Cast("float32", line[e])
                    if tile.sums == 1:
                        for e in T.unroll(8):
                            mine[e] = mine[e] + value[e]
                    if tile.sums == 2:
                        if tirx.any(within_sample(p, place_shared, my_row + m * apart) == 1, place < beyond):
                            for e in T.unroll(8):
                                mine[e] = mine[e] + value[e]
                        else:
                            for e in T.unroll(8):
                                mine[8 + e] = mine[8 + e] + value[e]
            if p.lined:
                whole: T.let = within_sample(p, place_shared, my_row + m * apart)
                put_down(mine, sum_shared, my_row + m * apart, my_column, lane, whole)

    return store
