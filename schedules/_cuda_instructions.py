"""What tensor cores multiply: the instructions by type. A step of 128 bytes is four of them, 32 bytes of depth each.

float16, bfloat16   16 numbers of depth
float32, as tf32    8 numbers, of which the first 19 bits count
"""

from __future__ import annotations

from laudc.schedules._cuda_problem import Problem

MULTIPLIED = {"float16": "f16", "bfloat16": "bf16", "float32": "tf32"}
"""As PTX calls it; float32 only where its spec says tf32."""


def wgmma(p: Problem, columns: int) -> str:
    """The instruction of a warpgroup: 64 rows and so many columns."""
    kind = MULTIPLIED[p.dtype]
    return f"wgmma.mma_async.sync.aligned.m64n{columns}k{p.step // 4}.f32.{kind}.{kind}"


def wgmma_flags(p: Problem) -> list[int]:
    """What follows its sums and descriptors: add, and take both factors as they are; only 16-bit ones could be
    transposed."""
    return [True, 1, 1, *([] if p.tf32 else [0, 0])]


def mma(p: Problem) -> str:
    """The instruction of a warp: 16 rows, 8 columns. Its registers hold what ldmatrix loads, whatever the type."""
    kind = MULTIPLIED[p.dtype]
    return f"mma.sync.aligned.m16n8k{p.step // 4}.row.col.f32.{kind}.{kind}.f32"
