"""Which pixel every row of a tile is: where its window begins in x, and where its result goes.

first .. end    positions in the list, or rows of the map where there is no list
position i  ->  row r = (b*OH + oh)*OW + ow  ->  window at (oh*stride - top, ow*stride - left) of sample b
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_samples import found_on, listed_sample, nth_on, samples_on, scan_samples
from laudc.schedules._cuda_tir import Number, all_of

FAR = -(1 << 20)
"""The window of a row that is not there begins so far outside that no tap comes near the image."""


def row_count(p: Problem, rows: tirx.Buffer, batch: Number) -> Number:
    """How many rows of work the whole batch has; with a list it is known on the device alone."""
    if p.listed:
        return looked_up_count(p, look_up(p, rows, batch, 0))
    if p.samples:
        return samples_on(rows, batch) * p.pixels
    return rows[batch] if p.rows else batch * p.pixels


def row_span(p: Problem, rows: tirx.Buffer, batch: Number, sample: Number) -> tuple[Number, Number]:
    """Where the rows of work begin and end that tiles are cut from: one sample's, or all."""
    if not p.per_sample:
        return (0, row_count(p, rows, batch))
    return (rows[sample], rows[sample + 1]) if p.rows else (sample * p.pixels, (sample + 1) * p.pixels)


def row_tiles(p: Problem, batch: Number, bm: int) -> Number:
    """How many tiles of `bm` rows there are when every row is on."""
    return batch * -(-p.pixels // bm) if p.per_sample else (batch * p.pixels + bm - 1) // bm


def row_at(p: Problem, rows: tirx.Buffer, batch: Number, position: Number, end: Number) -> Number:
    """The row of the map at a position; past the end the list is not read. For decisions on whole samples every
    thread of a warp has to ask."""
    if not p.rows:
        return position
    if p.samples:
        return looked_up_row(p, look_up(p, rows, batch, position), position)
    return T.if_then_else(position < end, rows[batch + 1 + position], 0)


def look_up(p: Problem, rows: tirx.Buffer, batch: Number, position: Number) -> Number:
    """At once what `row_count` and `row_at` tell of decisions on whole samples, for the two functions below."""
    return (listed_sample if p.listed else scan_samples)(rows, batch, T.truncdiv(position, p.pixels))


def looked_up_count(p: Problem, scanned: Number) -> Number:
    return found_on(scanned) * p.pixels


def looked_up_row(p: Problem, scanned: Number, position: Number) -> Number:
    return nth_on(scanned) * p.pixels + T.truncmod(position, p.pixels)


def row_of_place(p: Problem, rows: tirx.Buffer, batch: Number, place: Number) -> Number:
    """The row of the map whose result goes to a place."""
    return rows[batch + 1 + place] if p.compact else place


def window_top(p: Problem, row: Number) -> Number:
    return T.truncdiv(T.truncmod(row, p.pixels), p.out_width) * p.stride[0] - p.top_left[0]


def window_left(p: Problem, row: Number) -> Number:
    return T.truncmod(row, p.out_width) * p.stride[1] - p.top_left[1]


def window_start(p: Problem, position: Number, row: Number) -> Number:
    """The pixel of x, counted over the batch, that the window begins at; it may lie outside the image."""
    if p.gathered:
        return position * p.taps
    if p.taps == 1 and p.stride == (1, 1) and not p.padded:
        return row
    sample = T.truncdiv(row, p.pixels)
    return (sample * p.height + window_top(p, row)) * p.width + window_left(p, row)


def shortcut_start(p: Problem, row: Number) -> Number:
    """The pixel of the shortcut's map that belongs to a row, counted over the batch."""
    if p.shortcut_stride == (1, 1):
        return row
    sample, place = T.truncdiv(row, p.pixels), T.truncmod(row, p.pixels)
    height, width = p.shortcut_dims
    down, right = p.shortcut_stride
    return (sample * height + T.truncdiv(place, p.out_width) * down) * width + T.truncmod(place, p.out_width) * right


def own_chunk(p: Problem, chunk: Number, column: Number) -> Number:
    """How far from its window's beginning a thread copies for a tile that begins at a column, in 16-byte pieces. A
    narrow window's step is several of its rows, one below the other; a group's channels lie behind those of others."""
    if not p.narrow:
        return chunk if p.groups == 1 else T.truncdiv(column, p.group_columns) * (p.group_channels // p.piece) + chunk
    return T.truncdiv(chunk, p.kernel[1]) * p.width + T.truncmod(chunk, p.kernel[1])


def step_shift(p: Problem, step: Number, tap: Number, block: Number) -> Number:
    """How much further that is in a step: the block-th 128 bytes of a tap."""
    if p.narrow:
        return step * (8 // p.kernel[1] * p.width)
    return (tap_down(p, tap) * p.width + tap_right(p, tap)) * (p.channels // p.piece) + block * 8


def tap_inside(p: Problem, top: Number, left: Number, tap: Number) -> tirx.Expr | bool:
    """Whether a tap of a window that begins at (top, left) lies in the image. A row that is not there begins FAR."""
    if not p.padded:
        return top > FAR
    high = top + tap_down(p, tap)
    wide = left + tap_right(p, tap)
    return all_of(high >= 0, high < p.height, wide >= 0, wide < p.width)


def tap_down(p: Problem, tap: Number) -> Number:
    return T.truncdiv(tap, p.kernel[1]) * p.dilation[0]


def tap_right(p: Problem, tap: Number) -> Number:
    return T.truncmod(tap, p.kernel[1]) * p.dilation[1]


def real_column(p: Problem, channels: tirx.Buffer, sample: Number, column: Number) -> Number:
    """The channel that a column of the result stands for: the row of weights and the bias it takes."""
    if not p.channels_out:
        return column
    named = channels[sample, 1 + T.truncdiv(column, p.channels_out)]
    return named * p.channels_out + T.truncmod(column, p.channels_out)


def tap_bits(p: Problem, row: Number, there: tirx.Expr) -> Number:
    """One bit a tap, set where it lies in the image; none for a row that is not there. At most 32 taps: with a shortcut
    31, and the last bit is its."""
    if not p.padded:
        return T.if_then_else(there, -1, 0)
    top, left = window_top(p, row), window_left(p, row)
    bits: Number = T.if_then_else(there, -(1 << 31), 0) if p.shortcut else 0
    for tap in range(p.taps):
        down, right = tap // p.kernel[1] * p.dilation[0], tap % p.kernel[1] * p.dilation[1]
        high, wide = top + down, left + right
        inside = tirx.all(there, high >= 0, high < p.height, wide >= 0, wide < p.width)
        bit = 1 << tap if tap < 31 else -(1 << 31)
        bits = T.bitwise_or(bits, T.if_then_else(inside, bit, 0))
    return bits
