# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them. Annotations of arguments are buffers.
"""Grouped convolutions whose groups are too thin for a tile: every thread sums on its own, no shared stages.

    a thread: `vector` neighbouring columns of one group x `tall` rows; a weight is read once for all its rows

Depthwise, the columns' inputs are neighbours too and are read together; else one input serves all the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import IRModule
from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_rows import (
    FAR,
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
from laudc.schedules._cuda_tiles import STRIP_THREADS, columns_a_thread
from laudc.schedules._cuda_tir import arguments_of, flat, module_of, through_prologue
from laudc.schedules._pointwise import pointwise

MOST_HELD = 96
"""Inputs and weights a thread holds at once."""

UNROLLED = 25
"""Products in one sum up to which the loops over them are unrolled: a depthwise 5x5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Rows a thread sums at once."""

    tall: int


def direct_module(p: Problem, strip: Strip) -> IRModule:
    """The kernel of a problem with one strip."""
    tall = strip.tall
    vec = columns_a_thread(p)
    depthwise = p.group_columns == p.group_channels == 1
    units = p.columns // vec
    across = min(32, 1 << (units - 1).bit_length())
    down = STRIP_THREADS // across
    bm = down * tall
    column_tiles = -(-units // across)
    sample_tiles = -(-p.pixels // bm)
    per_sample, dtype = p.per_sample, p.dtype
    listed_units = max(p.channels_out // vec, 1)

    def unit_limit(kept):
        return T.min(units, kept * listed_units) if p.channels_out else units

    def real_unit(channels, sample, unit):
        if not p.channels_out:
            return unit
        return channels[sample, 1 + T.truncdiv(unit, listed_units)] * listed_units + T.truncmod(unit, listed_units)

    def group_start(unit):
        return T.truncdiv(unit * vec, p.group_columns) * p.group_channels

    def channel_of(unit, k):
        return unit * vec if depthwise else group_start(unit) + k

    # The inputs of a whole row of taps are under way at once, where registers hold them.
    own = vec if depthwise else 1
    together = p.kernel[1] if p.kernel[1] * (tall * own + vec) <= MOST_HELD else 1
    over_taps = T.unroll if p.depth <= UNROLLED else T.serial

    args = arguments_of(p, (p.depth, p.columns), p.columns)

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
    ) -> None:
        T.device_entry()
        block = T.cta_id([column_tiles * row_tiles(p, args.batch, bm)])
        thread = T.thread_id([STRIP_THREADS])
        x_flat = flat(x, args.batch * p.height * p.width * p.channels)
        weight_flat = flat(weight)
        residual_flat = flat(residual if p.residual == "dense" else out)
        out_flat = flat(out)
        start = T.alloc_local((tall,), "int32")
        top = T.alloc_local((tall,), "int32")
        left = T.alloc_local((tall,), "int32")
        place = T.alloc_local((tall,), "int32")
        acc = T.alloc_local((tall * vec,), "float32")
        w = T.alloc_local((together * vec,), dtype)
        v = T.alloc_local((max(together * tall * own, vec),), dtype)

        row_tile: T.let = T.truncdiv(block, column_tiles)
        sample: T.let = T.truncdiv(row_tile, sample_tiles) if per_sample else 0
        part: T.let = T.truncmod(row_tile, sample_tiles) if per_sample else row_tile
        begin: T.let = row_span(p, rows, args.batch, sample)[0]
        end: T.let = row_span(p, rows, args.batch, sample)[1]
        first: T.let = begin + part * bm + T.truncdiv(thread, across)
        kept: T.let = channels[sample, 0] if per_sample else 0
        unit: T.let = T.truncmod(block, column_tiles) * across + T.truncmod(thread, across)
        if first < end and unit < unit_limit(kept):
            real: T.let = real_unit(channels, sample, unit)
            for i in T.unroll(tall):
                position: T.let = first + i * down
                row: T.let = row_at(p, rows, args.batch, position, end)
                start[i] = window_start(p, position, row)
                top[i] = T.if_then_else(position < end, window_top(p, row), FAR)
                left[i] = window_left(p, row)
                place[i] = T.if_then_else(position < end, position if p.compact else row, -1)
            for i in T.unroll(tall * vec):
                acc[i] = T.float32(0)
            for first_tap in over_taps(p.taps // together):
                for k in over_taps(p.group_channels):
                    for t in T.unroll(together):
                        tap: T.let = first_tap * together + t
                        shift: T.let = tap_down(p, tap) * p.width + tap_right(p, tap)
                        for e in T.vectorized(vec):
                            w[t * vec + e] = weight_flat[((tap * p.group_channels + k) * units + real) * vec + e]
                        for i in T.unroll(tall):
                            if tap_inside(p, top[i], left[i], tap):
                                if depthwise:
                                    for e in T.vectorized(vec):
                                        v[(t * tall + i) * own + e] = x_flat[
                                            ((start[i] + shift) * units + unit) * vec + e
                                        ]
                                else:
                                    v[t * tall + i] = x_flat[(start[i] + shift) * p.channels + group_start(unit) + k]
                            else:
                                for e in T.unroll(own):
                                    v[(t * tall + i) * own + e] = T.Cast(dtype, T.float32(0))
                    if p.prologue is not None:
                        for t in T.unroll(together):
                            for i in T.unroll(tall):
                                if tap_inside(p, top[i], left[i], first_tap * together + t):
                                    for e in T.unroll(own):
                                        value: T.let = T.Cast("float32", v[(t * tall + i) * own + e])
                                        channel: T.let = channel_of(unit, k) + e
                                        made: T.let = through_prologue(
                                            p, value, prologue[0, channel], prologue[1, channel]
                                        )
                                        v[(t * tall + i) * own + e] = T.Cast(dtype, made)
                    for t in T.unroll(together):
                        for i in T.unroll(tall):
                            for e in T.unroll(vec):
                                acc[i * vec + e] = acc[i * vec + e] + T.Cast(
                                    "float32", v[(t * tall + i) * own + (e if depthwise else 0)]
                                ) * T.Cast("float32", w[t * vec + e])
            for i in T.unroll(tall):
                if place[i] >= 0:
                    if p.residual != "none":
                        for e in T.vectorized(vec):
                            w[e] = residual_flat[(place[i] * units + unit) * vec + e]
                    for e in T.unroll(vec):
                        s: T.float32 = acc[i * vec + e]
                        if p.bias:
                            s = s + bias[real * vec + e]
                        if p.gain:
                            s = s * gain[0, 0, row_of_place(p, rows, args.batch, place[i]), 0]
                        if p.residual != "none":
                            s = s + T.Cast("float32", w[e])
                        v[e] = T.Cast(dtype, pointwise(p.activation, s, "cuda"))
                    for e in T.vectorized(vec):
                        out_flat[(place[i] * units + unit) * vec + e] = v[e]

    return module_of(p, kernel)
