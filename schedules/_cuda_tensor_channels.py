# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them. Annotations of arguments are buffers.
"""The implicit GEMM on tensor cores where every sample has its own channels: float32 sums.

    the sample's list --> per piece of depth: how far x is, where w is          --cp.async--> shared --> wgmma
                          per column: the row of w, the bias                                        --> ldmatrix + mma

Tiles stay within a sample. A sum is as deep as the sample's list makes it: taps and listed channels lie end to end, in
16-byte pieces, and only the end of the last step is padded. A block of columns past the sample's count leaves at
once, and one that the count cuts multiplies fewer columns. What lies past a count in x is never read: its pieces are
zero.
"""

from __future__ import annotations

from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_channel_tables import columns_made, columns_told, pieces_read, pieces_told
from laudc.schedules._cuda_channel_tile import TAP_SHIFT, ChannelTile
from laudc.schedules._cuda_instructions import mma, wgmma, wgmma_flags
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_prologue import changes, wait_and_change
from laudc.schedules._cuda_rows import row_at, row_span, row_tiles, tap_bits, window_start
from laudc.schedules._cuda_sums import add_lines
from laudc.schedules._cuda_tensor_finish import read_added, round_off, store_columns
from laudc.schedules._cuda_tir import arguments_of, flat, module_of, run_of
from laudc.schedules._cuda_warps import WarpShare

_UNIFORM = "__device__ __forceinline__ int warp_uniform(int v) { return __shfl_sync(0xffffffff, v, 0, 32); }\n"


def channel_module(p: Problem, tile: ChannelTile) -> IRModule:
    """The kernel of a problem with one tile."""
    core, bm, bn, stages, lag, threads = tile.core, tile.bm, tile.bn, tile.stages, tile.lag, tile.threads
    dtype, line, numbers = p.dtype, p.step, p.piece
    pass_rows = threads // 8
    x_loads, w_loads = bm // pass_rows, bn // pass_rows
    x_stage, w_stage, out_pitch = bm * line, bn * line, tile.tensor.out_pitch
    pitch, depth_pieces = p.channels // numbers, p.depth // numbers
    column_tiles = -(-p.columns // bn)
    walks, walk = tile.walk > 0, max(tile.walk, 1)
    ahead = tile.most_steps if stages >= tile.most_steps and not walks else stages - 1 - lag
    x_stages = tile.most_steps if walks else stages
    sample_tiles = -(-p.pixels // bm)
    list_turns, column_turns = -(-p.decisions // threads), -(-bn * walk // threads)
    added, residual_early = p.residual != "none", tile.early == 1
    share = WarpShare(tile=tile.tensor)
    tall, wide, own_sums, lines = share.tall, share.wide, share.own_sums, share.lines
    assert all(size % pass_rows == 0 for size in (bm, bn)), tile
    assert bm <= threads, tile
    assert not walks or (p.channels_out == 0 and p.columns == bn * walk), tile
    assert min(ahead, tall, lines) >= 1, tile
    assert wide % 16 == 0, tile

    copy_x, copy_w = "cp.async.cg.shared.global", "cp.async.cg.shared.global.L2::128B"
    flags, multiply_warp = wgmma_flags(p), mma(p)
    wait_for_changed = wait_and_change(p, x_loads, pass_rows, ahead - 1)
    ldmatrix = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
    div, mod, xor = T.truncdiv, T.truncmod, T.bitwise_xor
    widths = tile.widths

    def x_at(step, stage):
        return step[0] if walks else stage[0]

    tell_columns, tell_pieces = columns_told(p, tile), pieces_told(p, threads)
    read_residual, put_rounded = read_added(p, tile.tensor), round_off(p, tile.tensor)
    store, add_sums = store_columns(p, tile.tensor), add_lines(p, tile.tensor)
    args = arguments_of(p, (p.columns, p.depth), p.columns)

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
        sums: args.sums,
    ) -> None:
        T.device_entry()
        block = T.cta_id([column_tiles // walk * row_tiles(p, args.batch, bm)])
        thread = T.thread_id([threads])
        batch: T.let = args.batch
        x_flat = flat(x, batch * p.height * p.width * p.channels)
        weight_flat = flat(weight)
        added_flat = flat(residual if p.residual == "dense" else out)
        out_flat = flat(out)
        if p.sums:
            sums_flat = flat(sums)
            summed = T.alloc_local((1,), "int32")
            column_sum = T.alloc_local((1,), "float32")
        pool = T.SMEMPool()
        x_shared = pool.alloc((x_stages * x_stage,), dtype, align=1024)
        w_shared = pool.alloc((stages * w_stage,), dtype, align=1024)
        if walks:
            out_shared = pool.alloc((bm * out_pitch,), dtype, align=1024)
            lines_shared = pool.alloc((max(1, tile.tensor.line_words),), "float32", align=16)
        elif stages * (x_stage + w_stage) * tile.tensor.size < tile.tensor.finished_bytes:
            pool.move_base_to(tile.tensor.finished_bytes)
        start_shared = pool.alloc((bm,), "int32", align=16)
        taps_shared = pool.alloc((bm,), "int32", align=16)
        place_shared = pool.alloc((bm,), "int32", align=16)
        row_shared = pool.alloc((bn,), "int32", align=16)
        bias_shared = pool.alloc((bn * walk,), "float32", align=16)
        piece_shared = pool.alloc((tile.most_steps * 16,), "int32", align=16)
        list_shared = pool.alloc((list_turns * threads,), "int32", align=16)
        if not walks:
            pool.move_base_to(0)
            out_shared = pool.alloc((bm * out_pitch,), dtype, align=1024)
            lines_shared = pool.alloc((max(1, tile.tensor.line_words),), "float32", align=16)
        pool.commit()
        acc = T.alloc_local((tall * own_sums,), "float32")
        start = T.alloc_local((x_loads,), "int32")
        taps = T.alloc_local((x_loads,), "int32")
        w_row = T.alloc_local((w_loads,), "int32")
        piece = T.alloc_local((2,), "int32")
        shift = T.alloc_local((column_turns,), "float32")
        old = T.alloc_local((tall * lines * numbers,), dtype)
        load_step = T.alloc_local((1,), "int32")
        loads_left = T.alloc_local((1,), "int32")
        walked = T.alloc_local((1,), "int32")
        load_stage = T.alloc_local((1,), "int32")
        step = T.alloc_local((1,), "int32")
        stage = T.alloc_local((1,), "int32")

        first_tile: T.let = mod(block, column_tiles // walk)
        row_tile: T.let = div(block, column_tiles // walk)
        sample: T.let = div(row_tile, sample_tiles)
        begin: T.let = row_span(p, rows, batch, sample)[0]
        end: T.let = row_span(p, rows, batch, sample)[1]
        first: T.let = begin + mod(row_tile, sample_tiles) * bm
        kept: T.let = channels[sample, 0]
        # All of the list with its count, or one would wait for the other.
        for i in T.unroll(list_turns):
            if i * threads + thread < p.decisions:
                list_shared[i * threads + thread] = channels[sample, 1 + i * threads + thread]
        made: T.let = columns_made(p, kept)
        left: T.let = made - first_tile * bn
        tap_pieces: T.let = pieces_read(p, kept)
        pieces: T.let = tap_pieces * p.taps
        steps: T.let = div(pieces + 7, 8)

        if first < end and left > 0:
            T.cuda.cta_sync()
            if thread < bm:
                position: T.let = first + thread
                row: T.let = row_at(p, rows, batch, position, end)
                start_shared[thread] = window_start(p, position, row) * pitch
                taps_shared[thread] = T.bitwise_and(tap_bits(p, row, position < end), 0x7FFFFFFF)
                place_shared[thread] = T.if_then_else(position < end, position if p.compact else row, -1)
            tell_columns(list_shared, thread, first_tile * bn, left, row_shared, bias, shift)
            tell_pieces(list_shared, thread, tap_pieces, pieces, steps, piece, piece_shared)
            T.cuda.cta_sync()
            load_row: T.let = div(thread, 8)
            load_chunk: T.let = mod(thread, 8)
            # Rows of later passes are a multiple of 8 further: the swizzle is the same for all.
            slot: T.let = load_row * line + xor(load_chunk, mod(load_row, 8)) * numbers
            for i in T.unroll(x_loads):
                start[i] = start_shared[load_row + i * pass_rows]
                taps[i] = taps_shared[load_row + i * pass_rows]
            for i in T.unroll(w_loads):
                w_row[i] = row_shared[load_row + i * pass_rows]
            lane: T.let = mod(thread, 32)
            # One shuffle tells the compiler that all lanes agree, so that descriptors live in uniform registers.
            warp: T.let = T.cuda.func_call("warp_uniform", div(thread, 32), source_code=_UNIFORM, return_type="int32")
            my_row: T.let = share.first_row(warp)
            my_column: T.let = share.first_column(warp)
            load_step[0] = 0
            loads_left[0] = steps * walk
            load_stage[0] = 0
            stage[0] = 0
            walked[0] = 0

            @T.inline
            def load():
                if loads_left[0] > 0:
                    for e in T.vectorized(2):
                        piece[e] = piece_shared[(load_step[0] * 8 + load_chunk) * 2 + e]
                    tap: T.let = T.shift_right(piece[1], TAP_SHIFT)
                    w_piece: T.let = T.bitwise_and(piece[1], (1 << TAP_SHIFT) - 1)
                    # A walker keeps x.
                    if not walks or loads_left[0] > steps * (walk - 1):
                        for i in T.unroll(x_loads):
                            T.ptx[copy_x](
                                x_shared.ptr_to([x_at(load_step, load_stage) * x_stage + slot + i * pass_rows * line]),
                                x_flat.ptr_to([(start[i] + piece[0]) * numbers]),
                                16,
                                T.Cast("uint32", T.bitwise_and(T.shift_right(taps[i], tap), 1) * 16),
                            )
                    for i in T.unroll(w_loads):
                        T.ptx[copy_w](
                            w_shared.ptr_to([load_stage[0] * w_stage + slot + i * pass_rows * line]),
                            weight_flat.ptr_to([(T.max(w_row[i], 0) + w_piece) * numbers]),
                            16,
                            T.Cast("uint32", T.if_then_else(w_row[i] >= 0, 16, 0)),
                        )
                    load_stage[0] = T.if_then_else(load_stage[0] == stages - 1, 0, load_stage[0] + 1)
                    load_step[0] = load_step[0] + 1
                    loads_left[0] = loads_left[0] - 1
                    if walks and load_step[0] == steps:
                        load_step[0] = 0
                        for i in T.unroll(w_loads):
                            w_row[i] = w_row[i] + bn * depth_pieces
                T.ptx.cp.async_.commit_group()

            @T.inline
            def wait_for_x():
                # A walker rounds x where it comes, not where it comes back to it.
                if changes(p) and (not walks or walked[0] == 0):
                    first_piece: T.let = x_at(step, stage) * (x_stage // numbers) + div(slot, numbers)
                    wait_for_changed(x_shared, first_piece, taps, 0, prologue, 0, 0)
                else:
                    T.ptx.cp.async_.wait_group(ahead - 1)

            for _ in T.unroll(ahead):
                load()
            for j in T.unroll(column_turns):
                if j * threads + thread < bn * walk:
                    bias_shared[j * threads + thread] = shift[j]
            if walks:
                T.cuda.cta_sync()
            if core == "wgmma":
                x_tile: T.uint64 = 0
                w_tile: T.uint64 = 0
                T.cuda.wgmma.encode_matrix_descriptor(
                    T.address_of(x_tile), x_shared.ptr_to([div(warp, 4) * (tall * 64 * line)]), 1, 64, 3
                )
                T.cuda.wgmma.encode_matrix_descriptor(T.address_of(w_tile), w_shared.ptr_to([0]), 1, 64, 3)

                @T.inline
                def multiply(instruction, its_sums):
                    for _ in T.serial(steps):
                        if lag == 0:
                            T.ptx.wgmma.wait_group.sync.aligned(0)
                        wait_for_x()
                        T.ptx.fence.proxy.async_.shared__cta()
                        T.cuda.cta_sync()
                        if lag == 0:
                            load()
                        T.ptx.wgmma.fence.sync.aligned()
                        for k in T.unroll(4):
                            for m in T.unroll(tall):
                                # Offsets in 16-byte units: 32 bytes of depth, 64 rows, a stage[0].
                                T.ptx[instruction](
                                    *run_of(acc, m * own_sums, its_sums),
                                    x_tile
                                    + T.Cast("uint64", x_at(step, stage) * (x_stage // numbers) + m * 512 + k * 2),
                                    w_tile + T.Cast("uint64", stage[0] * (w_stage // numbers) + k * 2),
                                    *flags,
                                )
                        T.ptx.wgmma.commit_group.sync.aligned()
                        stage[0] = T.if_then_else(stage[0] == stages - 1, 0, stage[0] + 1)
                        step[0] = step[0] + 1
                        if lag == 1:
                            T.ptx.wgmma.wait_group.sync.aligned(1)
                            load()
                    T.ptx.wgmma.wait_group.sync.aligned(0)

                @T.inline
                def multiply_left(choice):
                    if choice == len(widths) - 1:
                        multiply(wgmma(p, widths[choice]), widths[choice] // 2)
                    else:
                        if left <= widths[choice]:
                            multiply(wgmma(p, widths[choice]), widths[choice] // 2)
                        else:
                            multiply_left(choice + 1)

            else:
                a = T.alloc_local((tall * 4,), "uint32")
                b = T.alloc_local((wide // 4,), "uint32")
                a_row: T.let = (my_row + mod(lane, 16)) * line
                b_row: T.let = (my_column + mod(lane, 8) + div(lane, 16) * 8) * line
                a_chunk: T.let = xor(div(lane, 16), mod(lane, 8)) * numbers
                b_chunk: T.let = xor(mod(div(lane, 8), 2), mod(lane, 8)) * numbers

                @T.inline
                def multiply_tile():
                    for _ in T.serial(steps):
                        wait_for_x()
                        T.cuda.cta_sync()
                        load()
                        for k in T.unroll(4):
                            for m in T.unroll(tall):
                                T.ptx[ldmatrix](
                                    *run_of(a, m * 4, 4),
                                    x_shared.ptr_to(
                                        [
                                            x_at(step, stage) * x_stage
                                            + a_row
                                            + m * 16 * line
                                            + xor(a_chunk, k * 2 * numbers)
                                        ]
                                    ),
                                )
                            for j in T.unroll(wide // 16):
                                T.ptx[ldmatrix](
                                    *run_of(b, j * 4, 4),
                                    w_shared.ptr_to(
                                        [stage[0] * w_stage + b_row + j * 16 * line + xor(b_chunk, k * 2 * numbers)]
                                    ),
                                )
                            for m in T.unroll(tall):
                                for j in T.unroll(wide // 8):
                                    T.ptx[multiply_warp](
                                        *run_of(acc, m * own_sums + j * 4, 4),
                                        *run_of(a, m * 4, 4),
                                        *run_of(b, j * 2, 2),
                                        *run_of(acc, m * own_sums + j * 4, 4),
                                    )
                        stage[0] = T.if_then_else(stage[0] == stages - 1, 0, stage[0] + 1)
                        step[0] = step[0] + 1

            for _ in T.serial(walk):
                step[0] = 0
                for i in T.unroll(tall * own_sums):
                    acc[i] = T.float32(0)
                column_tile: T.let = first_tile + walked[0]
                if added and residual_early:
                    read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
                if core == "wgmma":
                    multiply_left(0)
                else:
                    multiply_tile()
                if added and not residual_early:
                    read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
                if not walks:
                    T.ptx.cp.async_.wait_group(0)
                if walks and not p.sums:
                    T.cuda.warp_sync()
                else:
                    T.cuda.cta_sync()
                put_rounded(
                    acc,
                    out_shared,
                    place_shared,
                    rows,
                    batch,
                    gain,
                    bias_shared,
                    logits,
                    walked[0],
                    my_row,
                    my_column,
                    lane,
                )
                store(out_shared, place_shared, old, out_flat, lines_shared, column_tile, made, my_row, my_column, lane)
                if p.sums:
                    T.cuda.cta_sync()
                    add_sums(lines_shared, place_shared, sums_flat, column_tile * bn, thread, 0, summed, column_sum)
                walked[0] = walked[0] + 1

    return module_of(p, kernel)
