"""tf32: float32 numbers of which tensor cores multiply the first 19 bits, sign, exponent and 10 bits of fraction.

They are rounded to the nearest, ties away from zero, as the instruction `cvt.rna.tf32.f32` does. Sums, and all that
lies in memory, are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from laudc.types import TF32

_CUT = 13
"""Bits of a float32 fraction that tf32 does not have."""


def rounded(x: Tensor) -> Tensor:
    """float32 numbers, each the nearest that tf32 has; infinity and NaN stay."""
    bits = x.float().contiguous().view(torch.int32)
    near = ((bits + (1 << (_CUT - 1))) >> _CUT << _CUT).view(torch.float32)
    return torch.where(x.isfinite(), near, x)


@contextmanager
def torch_multiplies_as(dtype: str) -> Iterator[None]:
    """Inside, torch multiplies float32 in tf32 where a network of that type does, on GPUs that can. By itself it does
    so in convolutions only."""
    if dtype != TF32:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
