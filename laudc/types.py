"""The small words of the intermediate representation."""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOATS = ("float32", "float16", "bfloat16")
"""What networks compute in; sums are float32 in all of them."""

TF32 = "tf32"
"""What a float32 network can compute in too: products of numbers rounded to tf32, on tensor cores (`laudc/tf32.py`)."""

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "uint8": 1}


def in_memory(dtype: str) -> str:
    """The type of the values of a network that computes in that one: of tf32, float32."""
    return "float32" if dtype == TF32 else dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorType:
    """What is known of a value before it is computed.

    Rank-4 values are maps with the logical shape (B, C, H, W); the compiled network keeps them channels-last
    (the bytes lie as B, H, W, C). Every other rank lies as it reads.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPE_BYTES[self.dtype]

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape in memory: maps are channels-last."""
        if len(self.shape) != 4:
            return self.shape
        batch, channels, height, width = self.shape
        return (batch, height, width, channels)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
