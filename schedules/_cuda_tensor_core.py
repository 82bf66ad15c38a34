# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them. Annotations of arguments are buffers.
"""The implicit GEMM on tensor cores: float32 sums, one source for two instructions and three types.

    x, weights --cp.async, 16 bytes--> shared, 128-byte rows, chunk ^ (row % 8) --> wgmma          (sm_90a)
                                       `stages` deep                            --> ldmatrix + mma.sync (sm_80+)
    (sums + bias) * gain --> rounded tile in shared --> + residual, activation --> 16-byte stores at the listed rows

A step of the loop is one tap and 128 bytes of channels: one line of a row. A table made once a tile holds, per row,
where its window begins, which taps lie in the image and where its result goes. A prologue changes x in shared memory,
and tf32 rounds it there: every thread what it copied itself, between the arrival of its own copies and the barrier that
shows them to all.
"""

from __future__ import annotations

from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_cluster import add_up, meet
from laudc.schedules._cuda_deciding import decide
from laudc.schedules._cuda_instructions import wgmma, wgmma_flags
from laudc.schedules._cuda_overlap import SHARERS, announce, reads_ahead, rows_known, wait_for_ahead, weights_to_l2
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_prologue import changes, wait_and_change
from laudc.schedules._cuda_rows import (
    look_up,
    looked_up_count,
    looked_up_row,
    own_chunk,
    row_at,
    row_count,
    row_tiles,
    shortcut_start,
    step_shift,
    tap_bits,
    window_start,
)
from laudc.schedules._cuda_running import LogitShare, add_running, worth_of_columns
from laudc.schedules._cuda_sums import add_lines
from laudc.schedules._cuda_tensor_finish import read_added, round_off, store_rows
from laudc.schedules._cuda_tiles import TensorTile
from laudc.schedules._cuda_tir import arguments_of, flat, module_of, run_of
from laudc.schedules._cuda_warp_step import warp_step
from laudc.schedules._cuda_warps import WarpShare

_UNIFORM = "__device__ __forceinline__ int warp_uniform(int v) { return __shfl_sync(0xffffffff, v, 0, 32); }\n"


def tensor_core_module(p: Problem, tile: TensorTile) -> IRModule:
    """The kernel of a problem with one tile. The weights come padded to whole tiles of columns."""
    bm, bn, stages, lag, threads, core = tile.bm, tile.bn, tile.stages, tile.lag, tile.threads, tile.core
    dtype, line, piece = p.dtype, p.step, p.piece
    pass_rows = threads // 8
    x_loads, w_loads = bm // pass_rows, bn // pass_rows
    x_stage, w_stage, out_pitch = bm * line, (bn + tile.extra) * line, tile.out_pitch
    chunks = p.channels // piece
    depth_chunks = p.depth // piece
    steps = p.depth // line
    map_steps, two_maps = steps - p.shortcut // line, p.shortcut > 0
    blocks_a_tap = steps if p.narrow else p.group_channels // line
    split, own_steps = tile.split, -(-steps // tile.split)
    ahead = own_steps if stages >= own_steps else stages - 1 - lag
    column_tiles = -(-p.columns // bn)
    padded = column_tiles * bn
    added = p.residual != "none"
    old_map = added and p.settled and reads_ahead(p, tile)
    residual_early = tile.early == 1 or old_map
    share = WarpShare(tile=tile)
    tall, wide, all_sums = share.tall, share.wide, share.sums
    assert all(size % pass_rows == 0 for size in (bm, bn)), tile
    assert min(ahead, tall, share.lines) >= 1, tile
    assert wide % 16 == 0, tile

    copy_x, copy_w = "cp.async.cg.shared.global", "cp.async.cg.shared.global.L2::128B"
    multiply, flags, multiply_warp = wgmma(p, bn + tile.extra), wgmma_flags(p), warp_step(p, tile)
    div, mod, xor = T.truncdiv, T.truncmod, T.bitwise_xor

    read_residual, put_rounded, store = read_added(p, tile), round_off(p, tile), store_rows(p, tile)
    add_sums = add_lines(p, tile)
    share_out = LogitShare(p=p, tile=tile)
    read_worth, add_logits = worth_of_columns(share_out), add_running(share_out)
    add_up_blocks = add_up(tile)
    begin, wait = announce(p, tile), wait_for_ahead(p, tile)
    ask_for_weights = weights_to_l2(p, tile, steps=own_steps)
    ahead_of_wait = reads_ahead(p, tile)
    known, at_once = rows_known(p, tile), p.samples and tile.blocks == 0
    wait_for_changed = wait_and_change(p, x_loads, pass_rows, ahead - 1)
    weight_rows = padded + tile.extra
    args = arguments_of(p, (weight_rows, p.depth), weight_rows)
    most = row_tiles(p, args.batch, bm)
    tiles, sharers = column_tiles * most, T.min(most, SHARERS)
    blocks = tile.blocks or tiles + (p.deciding > 0)
    take_decisions = decide(p, tile)

    @T.prim_func
    def kernel(
        x: args.x,
        rows: args.rows,
        gain: args.gain,
        shortcut: args.shortcut,
        residual: args.residual,
        given: args.given,
        weight: args.weight,
        bias: args.bias,
        prologue: args.prologue,
        worth: args.worth,
        decision: args.decision,
        out: args.out,
        mask: args.mask,
        keep: args.keep,
        listed: args.listed,
        deciding: args.deciding,
        logits: args.logits,
        sums: args.sums,
        running: args.running,
    ) -> None:
        T.device_entry()
        if tile.registers > 0:
            T.attr({"tirx.max_registers": tile.registers})
        if split == 1:
            block = T.cta_id([blocks])
            rank = 0
        else:
            block = T.cluster_id([blocks])
            rank = T.cta_id_in_cluster([split])
        thread = T.thread_id([threads])
        batch: T.let = args.batch
        x_flat = flat(x, batch * p.height * p.width * p.channels)
        weight_flat = flat(weight)
        if two_maps:
            shortcut_flat = flat(shortcut, batch * p.shortcut_dims[0] * p.shortcut_dims[1] * p.shortcut)
            second = T.alloc_local((x_loads,), "int32")
        added_flat = flat(residual if p.residual == "dense" else out)
        out_flat = flat(out)
        if p.sums:
            sums_flat = flat(sums)
            sample = T.alloc_local((1,), "int32")
            column_sum = T.alloc_local((2,), "float32")
        if p.running > 0:
            own_worth = T.alloc_local((share_out.own,), "float32")
        pool = T.SMEMPool()
        x_shared = pool.alloc((stages * x_stage,), dtype, align=1024)
        w_shared = pool.alloc((stages * w_stage,), dtype, align=1024)
        if stages * (x_stage + w_stage) * tile.size < tile.finished_bytes:
            pool.move_base_to(tile.finished_bytes)
        start_shared = pool.alloc((bm,), "int32", align=16)
        taps_shared = pool.alloc((bm,), "int32", align=16)
        place_shared = pool.alloc((bm,), "int32", align=16)
        pool.move_base_to(0)
        out_shared = pool.alloc((bm * out_pitch,), dtype, align=1024)
        lines_shared = pool.alloc((max(1, tile.line_words),), "float32", align=16)
        if split > 1:
            left_shared = pool.alloc((tile.left_words,), "float32", align=16)
        pool.commit()
        acc = T.alloc_local((tall * all_sums,), "float32")
        start = T.alloc_local((x_loads,), "int32")
        taps = T.alloc_local((x_loads,), "int32")
        old = T.alloc_local((tall * share.lines * piece,), dtype)
        load_step = T.alloc_local((1,), "int32")
        load_stage = T.alloc_local((1,), "int32")
        load_tap = T.alloc_local((1,), "int32")
        load_block = T.alloc_local((1,), "int32")
        stage = T.alloc_local((1,), "int32")
        if changes(p):
            x_tap = T.alloc_local((1,), "int32")
            x_block = T.alloc_local((1,), "int32")
        scanned = T.alloc_local((1,), "int64")
        first_step: T.let = rank * own_steps
        end_step: T.let = T.min(first_step + own_steps, steps)
        begin()
        ask_for_weights(
            weight_flat, mod(block, column_tiles) * bn, first_step, div(block, column_tiles), sharers, thread
        )
        if p.deciding > 0:
            own_decision = T.alloc_local((2,), "float32")
            for i in T.unroll(2):
                own_decision[i] = decision[i]
        if not known:
            wait()
        if p.deciding > 0:
            nth: T.let = div(div(block, column_tiles) * bm + thread, p.pixels)
            last: T.let = block == tiles and rank == 0
            take_decisions(scanned, deciding, own_decision, given, batch, nth, x_shared, mask, keep, listed, last)
        elif at_once:
            scanned[0] = look_up(p, rows, batch, div(block, column_tiles) * bm + thread)
        total: T.let = looked_up_count(p, scanned[0]) if at_once else row_count(p, rows, batch)

        @T.inline
        def make_tile(column_tile, row_tile):
            if thread < bm:
                position: T.let = row_tile * bm + thread
                row: T.let = (
                    looked_up_row(p, scanned[0], position) if at_once else row_at(p, rows, batch, position, total)
                )
                start_shared[thread] = window_start(p, position, row)
                taps_shared[thread] = tap_bits(p, row, position < total)
                place_shared[thread] = T.if_then_else(position < total, position if p.compact else row, -1)
            T.cuda.cta_sync()
            load_row: T.let = div(thread, 8)
            load_chunk: T.let = mod(thread, 8)
            # Rows of later passes are a multiple of 8 further: the swizzle is the same for all.
            slot: T.let = load_row * line + xor(load_chunk, mod(load_row, 8)) * piece
            for i in T.unroll(x_loads):
                start[i] = start_shared[load_row + i * pass_rows] * chunks + own_chunk(p, load_chunk, column_tile * bn)
                taps[i] = taps_shared[load_row + i * pass_rows]
                if two_maps:
                    own_pixel: T.let = shortcut_start(p, place_shared[load_row + i * pass_rows])
                    second[i] = own_pixel * (p.shortcut // piece) + load_chunk
            w_start: T.let = (column_tile * bn + load_row) * depth_chunks + load_chunk
            lane: T.let = mod(thread, 32)
            # One shuffle tells the compiler that all lanes agree, so that descriptors live in uniform registers.
            warp: T.let = T.cuda.func_call("warp_uniform", div(thread, 32), source_code=_UNIFORM, return_type="int32")
            my_row: T.let = share.first_row(warp)
            my_column: T.let = share.first_column(warp)
            load_step[0] = first_step
            load_stage[0] = 0
            load_tap[0] = div(first_step, blocks_a_tap)
            load_block[0] = mod(first_step, blocks_a_tap)
            stage[0] = 0
            if changes(p):
                x_tap[0] = load_tap[0]
                x_block[0] = load_block[0]

            @T.inline
            def load_weights(step, to):
                for i in T.unroll(w_loads):
                    T.ptx[copy_w](
                        w_shared.ptr_to([to * w_stage + slot + i * pass_rows * line]),
                        weight_flat.ptr_to([(w_start + i * pass_rows * depth_chunks + step * 8) * piece]),
                        16,
                    )
                if p.masker and thread < 64:
                    T.ptx[copy_w](
                        w_shared.ptr_to([to * w_stage + bn * line + slot]),
                        weight_flat.ptr_to([((padded + load_row) * depth_chunks + load_chunk + step * 8) * piece]),
                        16,
                    )

            @T.inline
            def copy_rows(source, begin, shift, bit):
                for i in T.unroll(x_loads):
                    T.ptx[copy_x](
                        x_shared.ptr_to([load_stage[0] * x_stage + slot + i * pass_rows * line]),
                        source.ptr_to([(begin[i] + shift) * piece]),
                        16,
                        T.Cast("uint32", T.bitwise_and(T.shift_right(taps[i], bit), 1) * 16),
                    )

            @T.inline
            def copy_own():
                shift: T.let = step_shift(p, load_step[0], load_tap[0], load_block[0])
                copy_rows(x_flat, start, shift, load_tap[0])

            @T.inline
            def load_x():
                if load_step[0] < end_step:
                    if two_maps:
                        if load_step[0] < map_steps:
                            copy_own()
                        else:
                            copy_rows(shortcut_flat, second, (load_step[0] - map_steps) * 8, 31)
                    else:
                        copy_own()
                    load_stage[0] = T.if_then_else(load_stage[0] == stages - 1, 0, load_stage[0] + 1)
                    load_step[0] = load_step[0] + 1
                    load_block[0] = load_block[0] + 1
                    if load_block[0] == blocks_a_tap:
                        load_block[0] = 0
                        load_tap[0] = load_tap[0] + 1
                T.ptx.cp.async_.commit_group()

            @T.inline
            def load():
                if load_step[0] < end_step:
                    load_weights(load_step[0], load_stage[0])
                load_x()

            @T.inline
            def wait_for_x():
                if not changes(p):
                    T.ptx.cp.async_.wait_group(ahead - 1)
                else:
                    first: T.let = stage[0] * (x_stage // piece) + div(slot, piece)
                    wait_for_changed(x_shared, first, taps, x_tap[0], prologue, x_block[0], load_chunk)
                    x_block[0] = x_block[0] + 1
                    if x_block[0] == blocks_a_tap:
                        x_block[0] = 0
                        x_tap[0] = x_tap[0] + 1

            for i in T.unroll(tall * all_sums):
                acc[i] = T.float32(0)
            if known and not ahead_of_wait:
                wait()
            if ahead_of_wait:
                for step in T.unroll(ahead):
                    if first_step + step < end_step:
                        load_weights(first_step + step, step)
                if old_map:
                    read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
                wait()
                for _ in T.unroll(ahead):
                    load_x()
            else:
                for _ in T.unroll(ahead):
                    load()
            if added and residual_early and not old_map:
                read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
            if core == "wgmma":
                x_tile: T.uint64 = 0
                w_tile: T.uint64 = 0
                T.cuda.wgmma.encode_matrix_descriptor(
                    T.address_of(x_tile), x_shared.ptr_to([div(warp, 4) * (tall * 64 * line)]), 1, 64, 3
                )
                T.cuda.wgmma.encode_matrix_descriptor(T.address_of(w_tile), w_shared.ptr_to([0]), 1, 64, 3)
                for _ in T.serial(end_step - first_step):
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
                            T.ptx[multiply](
                                *run_of(acc, m * all_sums, all_sums),
                                x_tile + T.Cast("uint64", stage[0] * (x_stage // piece) + m * 512 + k * 2),
                                w_tile + T.Cast("uint64", stage[0] * (w_stage // piece) + k * 2),
                                *flags,
                            )
                    T.ptx.wgmma.commit_group.sync.aligned()
                    stage[0] = T.if_then_else(stage[0] == stages - 1, 0, stage[0] + 1)
                    if lag == 1:
                        T.ptx.wgmma.wait_group.sync.aligned(1)
                        load()
                if added and not residual_early and (split == 1 or mod(warp, split) == rank):
                    read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
                T.ptx.wgmma.wait_group.sync.aligned(0)
            else:
                for _ in T.serial(end_step - first_step):
                    wait_for_x()
                    T.cuda.cta_sync()
                    load()
                    x_at: T.let = stage[0] * x_stage
                    w_at: T.let = stage[0] * w_stage
                    multiply_warp(acc, x_shared, x_at, w_shared, w_at, my_row, my_column, lane)
                    stage[0] = T.if_then_else(stage[0] == stages - 1, 0, stage[0] + 1)
                if added and not residual_early and (split == 1 or mod(warp, split) == rank):
                    read_residual(old, added_flat, place_shared, column_tile, my_row, my_column, lane)
            T.ptx.cp.async_.wait_group(0)
            T.cuda.cta_sync()

            if split > 1:
                add_up_blocks(acc, left_shared, rank, warp, lane)
            if split == 1 or mod(warp, split) == rank:
                put_rounded(
                    acc, out_shared, place_shared, rows, batch, gain, bias, logits, column_tile, my_row, my_column, lane
                )
            if p.running > 0:
                read_worth(worth, own_worth, column_tile, thread)
            if split == 1 or mod(warp, split) == rank:
                store(out_shared, place_shared, old, out_flat, lines_shared, column_tile, my_row, my_column, lane)
            if p.lined:
                T.cuda.cta_sync()
            if p.sums:
                add_sums(lines_shared, place_shared, sums_flat, column_tile * bn, thread, rank, sample, column_sum)
            if p.running > 0:
                add_logits(lines_shared, out_shared, place_shared, own_worth, running, row_tile, rank, thread)
            if split > 1:
                meet()

        if tile.blocks == 0:
            if div(block, column_tiles) * bm < total:
                make_tile(mod(block, column_tiles), div(block, column_tiles))
            elif known:
                wait()
        else:
            turn: T.int32 = block
            while turn < div(total + bm - 1, bm) * column_tiles:
                column_tile: T.let = mod(turn, column_tiles)
                row_tile: T.let = div(turn, column_tiles)
                make_tile(column_tile, row_tile)
                T.cuda.cta_sync()
                turn = turn + tile.blocks

    return module_of(p, kernel)
