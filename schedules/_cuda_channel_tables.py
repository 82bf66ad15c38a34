# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined, no-any-return"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""What a sample's channel list says to a block of threads: for every column a row of w and a bias, for every piece
of depth where it is in x and in w.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script import tirx as T

from laudc.schedules._cuda_channel_tile import PADDING_TAP, TAP_SHIFT, ChannelTile
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_rows import tap_down, tap_right
from laudc.schedules._cuda_tir import Number


def _listed(list_shared, at, unit):
    """What a place of a compact value stands for, in a list of so large units; without one it stands for itself."""
    return list_shared[T.truncdiv(at, unit)] * unit + T.truncmod(at, unit) if unit else at


def columns_made(p: Problem, kept: Number) -> Number:
    """Columns of the result of a sample that keeps so many units."""
    return kept * p.channels_out if p.channels_out else p.columns


def pieces_read(p: Problem, kept: Number) -> Number:
    """Pieces of a tap of such a sample."""
    return kept * (p.channels_in // p.piece) if p.channels_in else p.channels // p.piece


def columns_told(p: Problem, tile: ChannelTile) -> Callable[..., None]:
    """Code that tells the rows of w of the `left` columns from `first` on, -1 past them, and keeps their biases in
    `shift`, one of every thread's columns each, for when they have come."""
    bn, threads = tile.bn, tile.threads
    walked = bn * max(tile.walk, 1)

    @T.inline
    def tell(list_shared, thread, first, left, row_shared, bias, shift):
        for j in T.unroll(-(-walked // threads)):
            here: T.let = j * threads + thread
            shift[j] = T.float32(0)
            if here < bn:
                row_shared[here] = -1
            if here < T.min(left, walked):
                column: T.let = _listed(list_shared, first + here, p.channels_out)
                if here < bn:
                    row_shared[here] = column * (p.depth // p.piece)
                if p.bias:
                    shift[j] = bias[column]

    return tell


def pieces_told(p: Problem, threads: int) -> Callable[..., None]:
    """Code that tells two words of every piece: how far it is in x from the window's beginning, where it lies in a row
    of w with its tap above that. Pieces of a tap lie end to end, `tap_pieces` of them; so do the taps."""
    pitch = p.channels // p.piece

    @T.inline
    def tell(list_shared, thread, tap_pieces, pieces, steps, piece, piece_shared):
        for i in T.serial(T.truncdiv(steps * 8 + threads - 1, threads)):
            at: T.let = i * threads + thread
            if at < steps * 8:
                piece[0] = 0
                piece[1] = PADDING_TAP << TAP_SHIFT
                if at < pieces:
                    tap: T.let = T.truncdiv(at, tap_pieces)
                    own: T.let = T.truncmod(at, tap_pieces)
                    piece[0] = (tap_down(p, tap) * p.width + tap_right(p, tap)) * pitch + own
                    piece[1] = (
                        tap * pitch + _listed(list_shared, own, p.channels_in // p.piece) + T.shift_left(tap, TAP_SHIFT)
                    )
                for e in T.vectorized(2):
                    piece_shared[at * 2 + e] = piece[e]

    return tell
