"""Channel sums: what is left of a map for the layer masker, int64 (B, C), in units of 2^-24.

Every float16 number is a whole multiple of 2^-24, and the sum over a map of 2^23 of the largest still fits: so in
whatever order they are added, the sums are the same. Numbers of other types have no such unit, and no sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNITS = 1 << 24
"""In one."""


def channel_sums(x: Tensor) -> Tensor:
    """Of a map (B, C, H, W), over its positions."""
    return (x.double() * UNITS).round().to(torch.int64).sum((2, 3))
