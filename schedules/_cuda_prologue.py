# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined, no-any-return"
# The function below is TVMScript: TVM reads its text, Python never runs it.
"""x through its prologue, and rounded to tf32 where it is float32, in shared memory, between the arrival of a stage and
the barrier that shows it to all.

A thread changes the 16-byte pieces that it copied itself, so that it waits for nobody; through a prologue only those of
taps in the image, so that zeros stay zeros. The barrier after it, and the fence before that, are the ones that copies
need anyhow. Tensor cores would cut float32 off after its tf32 bits, which makes every product a little too small; a
number is rounded to the nearest here, ties away from zero, and the weights when they are packed.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tir import Number, through_prologue

_ROUND = """
__device__ __forceinline__ float round_to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}
"""


def changes(p: Problem) -> bool:
    """Whether the weights meet something else than x as it lies in memory."""
    return p.prologue is not None or p.tf32


def wait_and_change(p: Problem, loads: int, apart: int, pending: int) -> Callable[..., None]:
    """Code that waits until so few groups of copies are pending, then changes `loads` pieces, `apart` rows from each
    other. The first piece is number `first` of shared memory; `taps` has a word of bits a piece. What a prologue is
    told of (taps, tap, block, chunk) is not looked at without one.
    """
    numbers, quads = p.piece, p.piece // 4

    def is_changed(taps: Number, tap: Number) -> tirx.Expr | bool:
        return True if p.prologue is None else T.bitwise_and(T.shift_right(taps, tap), 1) != 0

    def met(value: tirx.Expr, scale: Number, shift: Number) -> tirx.Expr:
        value = T.Cast("float32", value)
        return value if p.prologue is None else through_prologue(p, value, scale, shift)

    def multiplied(value: tirx.Expr) -> tirx.Expr:
        if p.tf32:
            return T.cuda.func_call("round_to_tf32", value, source_code=_ROUND, return_type="float32")
        return T.Cast(p.dtype, value)

    @T.inline
    def wait(shared, first, taps, tap, prologue, block, chunk):
        scale = T.alloc_local((numbers,), "float32")
        shift = T.alloc_local((numbers,), "float32")
        piece = T.alloc_local((numbers,), p.dtype)
        if p.prologue is not None:
            # Read before the wait, which covers them.
            for h in T.unroll(quads):
                for e in T.vectorized(4):
                    scale[h * 4 + e] = prologue[0, ((block * 8 + chunk) * quads + h) * 4 + e]
                for e in T.vectorized(4):
                    shift[h * 4 + e] = prologue[1, ((block * 8 + chunk) * quads + h) * 4 + e]
        T.ptx.cp.async_.wait_group(pending)
        for i in T.unroll(loads):
            if is_changed(taps[i], tap):
                at: T.let = first + i * apart * 8
                for e in T.vectorized(numbers):
                    piece[e] = shared[at * numbers + e]
                for e in T.unroll(numbers):
                    made: T.let = met(piece[e], scale[e], shift[e])
                    piece[e] = multiplied(made)
                for e in T.vectorized(numbers):
                    shared[at * numbers + e] = piece[e]

    return wait
