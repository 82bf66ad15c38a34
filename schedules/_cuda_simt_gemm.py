# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them. Annotations of arguments are buffers.
"""The implicit GEMM for any chip: tiles of rows x columns, fp32 multiply-adds, two shared stages.

    x, weights --registers--> shared, as fp32, [row][depth] --> tm x tn sums a thread --> result

The depth of a sum is cut into units of `vector` elements that lie side by side in x and in the weights. A thread
always loads the same unit of a step, for several rows; so finding its tap costs one division a step.
"""

from __future__ import annotations

from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_rows import (
    FAR,
    real_column,
    row_at,
    row_of_place,
    row_span,
    row_tiles,
    tap_down,
    tap_inside,
    tap_right,
    window_left,
    window_start,
    window_top,
)
from laudc.schedules._cuda_tiles import SimtTile
from laudc.schedules._cuda_tir import all_of, arguments_of, flat, module_of, through_prologue
from laudc.schedules._pointwise import pointwise
from laudc.types import DTYPE_BYTES


def vector_of(p: Problem, tile: SimtTile) -> int:
    """Elements a load takes at once: 16 bytes where the channels, the lists and the tile allow it."""
    width = 32 // DTYPE_BYTES[p.dtype]
    while True:
        width //= 2
        fits = p.group_channels % width == 0 and p.channels_in % width == 0
        rows_a_pass = tile.threads * width // tile.bk
        if width == 1 or (fits and tile.bm % rows_a_pass == 0 and tile.bn % rows_a_pass == 0):
            return width


def gemm_module(p: Problem, tile: SimtTile) -> IRModule:
    """The kernel of a problem with one tile."""
    bm, bn, tm, tn, bk, threads = tile.bm, tile.bn, tile.tm, tile.tn, tile.bk, tile.threads
    vec = vector_of(p, tile)
    step_units = bk // vec
    pass_rows = threads // step_units
    x_loads, w_loads = bm // pass_rows, bn // pass_rows
    x_stage, w_stage = bm * bk, bn * bk
    down, across = bm // tm, bn // tn
    quads = max(vec // 4, 1)
    assert all(size % pass_rows == 0 for size in (bm, bn)), (tile, vec)
    assert threads >= bm, tile

    lists_depth = p.channels_in > 0 and p.groups == 1
    pitch = p.channels // vec
    unit_group = p.group_channels // vec
    listed_units = max(p.channels_in // vec, 1)
    weight_pitch = p.depth // vec
    whole = not lists_depth and weight_pitch % step_units == 0
    made_columns = p.group_columns + p.masker
    tiles_a_group = -(-made_columns // bn)
    column_tiles = tiles_a_group * p.groups
    sample_tiles = -(-p.pixels // bm)
    columns, per_sample, dtype = p.columns, p.per_sample, p.dtype

    def swizzled(row, chunk):
        """Where a 16-byte chunk of a row lies: 8 rows of one column then touch every bank once."""
        return T.bitwise_xor(chunk, T.truncmod(row, 8) if bk == 32 else T.truncmod(T.truncdiv(row, 2), 4))

    def spread(row, chunk):
        return row * bk + swizzled(row, chunk) * 4

    def depth_units(kept):
        return T.truncdiv(kept * p.channels_in, vec) if lists_depth else unit_group

    def column_limit(group, kept):
        limit = group * p.group_columns + made_columns
        return T.min(limit, kept * p.channels_out) if p.channels_out else limit

    def weight_unit(channels, sample, tap, unit):
        if not lists_depth:
            return tap * unit_group + unit
        named = channels[sample, 1 + T.truncdiv(unit, listed_units)]
        return tap * unit_group + named * listed_units + T.truncmod(unit, listed_units)

    args = arguments_of(p, (p.weight_rows, p.depth), p.weight_rows)

    @T.prim_func
    def kernel(
        x: args.x,
        rows: args.rows,
        channels: args.channels,
        gain: args.gain,
        residual: args.residual,
        weight: args.weight,
        bias: args.bias,
        prologue: args.prologue,
        out: args.out,
        logits: args.logits,
    ) -> None:
        T.device_entry()
        block = T.cta_id([column_tiles * row_tiles(p, args.batch, bm)])
        thread = T.thread_id([threads])
        batch: T.let = args.batch
        x_flat = flat(x, batch * p.height * p.width * p.channels)
        weight_flat = flat(weight)
        residual_flat = flat(residual if p.residual == "dense" else out)
        out_flat = flat(out)
        x_shared = T.alloc_buffer((2 * x_stage,), "float32", scope="shared", align=128)
        w_shared = T.alloc_buffer((2 * w_stage,), "float32", scope="shared", align=128)
        start_shared = T.alloc_buffer((bm,), "int32", scope="shared")
        top_shared = T.alloc_buffer((bm,), "int32", scope="shared")
        left_shared = T.alloc_buffer((bm,), "int32", scope="shared")
        place_shared = T.alloc_buffer((bm,), "int32", scope="shared")

        column_tile: T.let = T.truncmod(block, column_tiles)
        row_tile: T.let = T.truncdiv(block, column_tiles)
        sample: T.let = T.truncdiv(row_tile, sample_tiles) if per_sample else 0
        part: T.let = T.truncmod(row_tile, sample_tiles) if per_sample else row_tile
        begin: T.let = row_span(p, rows, batch, sample)[0]
        end: T.let = row_span(p, rows, batch, sample)[1]
        first: T.let = begin + part * bm
        kept: T.let = channels[sample, 0] if per_sample else 0
        group: T.let = T.truncdiv(column_tile, tiles_a_group)
        column: T.let = group * p.group_columns + T.truncmod(column_tile, tiles_a_group) * bn
        column_end: T.let = column_limit(group, kept)
        if first < end and column < column_end:
            if thread < bm:
                position: T.let = first + thread
                row: T.let = row_at(p, rows, batch, position, end)
                start_shared[thread] = window_start(p, position, row)
                top_shared[thread] = T.if_then_else(position < end, window_top(p, row), FAR)
                left_shared[thread] = window_left(p, row)
                place_shared[thread] = T.if_then_else(position < end, position if p.compact else row, -1)
            T.cuda.cta_sync()

            acc = T.alloc_local((tm * tn,), "float32")
            staged = T.alloc_local(((x_loads + w_loads) * vec,), dtype)
            quad = T.alloc_local((4,), "float32")
            a = T.alloc_local((tm * 4,), "float32")
            b = T.alloc_local((tn * 4,), "float32")
            start = T.alloc_local((x_loads,), "int32")
            top = T.alloc_local((x_loads,), "int32")
            left = T.alloc_local((x_loads,), "int32")
            weight_row = T.alloc_local((w_loads,), "int32")
            load_row: T.let = T.truncdiv(thread, step_units)
            load_unit: T.let = T.truncmod(thread, step_units)
            for i in T.unroll(x_loads):
                start[i] = start_shared[load_row + i * pass_rows] * pitch + group * unit_group
                top[i] = top_shared[load_row + i * pass_rows]
                left[i] = left_shared[load_row + i * pass_rows]
            for i in T.unroll(w_loads):
                weight_row[i] = -1
                if column + load_row + i * pass_rows < column_end:
                    weight_row[i] = real_column(p, channels, sample, column + load_row + i * pass_rows) * weight_pitch
            tap_units: T.let = depth_units(kept)
            units: T.let = tap_units * p.taps
            steps: T.let = T.truncdiv(units + step_units - 1, step_units)

            @T.inline
            def load(step):
                at: T.let = step * step_units + load_unit
                tap: T.let = T.truncdiv(at, T.max(tap_units, 1))
                unit: T.let = at - tap * tap_units
                shift: T.let = (tap_down(p, tap) * p.width + tap_right(p, tap)) * pitch + unit
                for i in T.unroll(x_loads):
                    if all_of(whole or at < units, tap_inside(p, top[i], left[i], tap)):
                        for e in T.vectorized(vec):
                            staged[i * vec + e] = x_flat[(start[i] + shift) * vec + e]
                    else:
                        for e in T.unroll(vec):
                            staged[i * vec + e] = T.Cast(dtype, T.float32(0))
                if whole or at < units:
                    w_unit: T.let = weight_unit(channels, sample, tap, unit)
                    for i in T.unroll(w_loads):
                        if weight_row[i] >= 0:
                            for e in T.vectorized(vec):
                                staged[(x_loads + i) * vec + e] = weight_flat[(weight_row[i] + w_unit) * vec + e]
                        else:
                            for e in T.unroll(vec):
                                staged[(x_loads + i) * vec + e] = T.Cast(dtype, T.float32(0))
                else:
                    for e in T.unroll(w_loads * vec):
                        staged[x_loads * vec + e] = T.Cast(dtype, T.float32(0))

            @T.inline
            def apply_prologue(step):
                at: T.let = step * step_units + load_unit
                tap: T.let = T.truncdiv(at, unit_group)
                channel: T.let = (group * unit_group + at - tap * unit_group) * vec
                if whole or at < units:
                    for i in T.unroll(x_loads):
                        if tap_inside(p, top[i], left[i], tap):
                            for e in T.unroll(vec):
                                value: T.let = T.Cast("float32", staged[i * vec + e])
                                scale: T.let = prologue[0, channel + e]
                                made: T.let = through_prologue(p, value, scale, prologue[1, channel + e])
                                staged[i * vec + e] = T.Cast(dtype, made)

            @T.inline
            def put(shared, base, held, i):
                for q in T.unroll(quads):
                    for e in T.unroll(min(vec, 4)):
                        quad[e] = T.Cast("float32", staged[(held + i) * vec + q * 4 + e])
                    for e in T.vectorized(min(vec, 4)):
                        shared[
                            base
                            + spread(load_row + i * pass_rows, T.truncdiv(load_unit * vec, 4) + q)
                            + T.truncmod(load_unit, max(4 // vec, 1)) * vec
                            + e
                        ] = quad[e]

            @T.inline
            def put_all(stage):
                for i in T.unroll(x_loads):
                    put(x_shared, stage * x_stage, 0, i)
                for i in T.unroll(w_loads):
                    put(w_shared, stage * w_stage, x_loads, i)

            for i in T.unroll(tm * tn):
                acc[i] = T.float32(0)
            my_row: T.let = T.truncdiv(thread, across)
            my_column: T.let = T.truncmod(thread, across)
            load(0)
            if p.prologue is not None:
                apply_prologue(0)
            put_all(0)
            T.cuda.cta_sync()
            for step in T.serial(steps):
                stage: T.let = T.truncmod(step, 2)
                if step + 1 < steps:
                    load(step + 1)
                for c in T.serial(bk // 4):
                    for i in T.unroll(tm):
                        for e in T.vectorized(4):
                            a[i * 4 + e] = x_shared[stage * x_stage + spread(my_row + i * down, c) + e]
                    for j in T.unroll(tn):
                        for e in T.vectorized(4):
                            b[j * 4 + e] = w_shared[stage * w_stage + spread(my_column + j * across, c) + e]
                    for e in T.unroll(4):
                        for i in T.unroll(tm):
                            for j in T.unroll(tn):
                                acc[i * tn + j] = acc[i * tn + j] + a[i * 4 + e] * b[j * 4 + e]
                if step + 1 < steps:
                    # Only now, or every load would be waited for before the products that cover it.
                    if p.prologue is not None:
                        apply_prologue(step + 1)
                    put_all(1 - stage)
                T.cuda.cta_sync()

            for j in T.unroll(tn):
                at: T.let = column + my_column + j * across
                if at < column_end:
                    real: T.let = real_column(p, channels, sample, at)
                    shift: T.let = bias[real] if p.bias else T.float32(0)
                    for i in T.unroll(tm):
                        place: T.let = place_shared[my_row + i * down]
                        if place >= 0:
                            v: T.float32 = acc[i * tn + j] + shift
                            if p.gain:
                                v = v * gain[0, 0, row_of_place(p, rows, batch, place), 0]
                            if p.masker and at == columns:
                                logits[0, 0, place, 0] = v
                            else:
                                if p.residual != "none":
                                    v = v + T.Cast("float32", residual_flat[place * columns + at])
                                out_flat[place * columns + at] = T.Cast(dtype, pointwise(p.activation, v, "cuda"))

    return module_of(p, kernel)
