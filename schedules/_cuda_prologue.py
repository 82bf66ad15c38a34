# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined, no-any-return"
# The function below is TVMScript: TVM reads its text, Python never runs it.
"""x through its prologue in shared memory, between the arrival of a stage and the barrier that shows it to all.

A thread changes the 16-byte pieces that it copied itself, so that it waits for nobody; and only those of taps in the
image, so that zeros stay zeros. The barrier after it, and the fence before that, are the ones that copies need anyhow.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import STEP
from laudc.schedules._cuda_tir import through_prologue


def wait_and_apply(p: Problem, loads: int, apart: int, pending: int) -> Callable[..., None]:
    """Code that waits until so few groups of copies are pending, then puts `loads` pieces, `apart` rows from each
    other, through the prologue. The first piece is number `first` of shared memory; `taps` has a word of bits a piece.
    """

    @T.inline
    def wait(shared, first, taps, tap, prologue, block, chunk):
        scale = T.alloc_local((8,), "float32")
        shift = T.alloc_local((8,), "float32")
        piece = T.alloc_local((8,), p.dtype)
        # Read before the wait, which covers them.
        for h in T.unroll(2):
            for e in T.vectorized(4):
                scale[h * 4 + e] = prologue[0, (block * (STEP // 4) + chunk * 2 + h) * 4 + e]
            for e in T.vectorized(4):
                shift[h * 4 + e] = prologue[1, (block * (STEP // 4) + chunk * 2 + h) * 4 + e]
        T.ptx.cp.async_.wait_group(pending)
        for i in T.unroll(loads):
            if T.bitwise_and(T.shift_right(taps[i], tap), 1) != 0:
                at: T.let = first + i * apart * (STEP // 8)
                for e in T.vectorized(8):
                    piece[e] = shared[at * 8 + e]
                for e in T.unroll(8):
                    made: T.let = through_prologue(p, T.Cast("float32", piece[e]), scale[e], shift[e])
                    piece[e] = T.Cast(p.dtype, made)
                for e in T.vectorized(8):
                    shared[at * 8 + e] = piece[e]

    return wait
