"""How far two results are apart: one number, the same wherever networks or convolutions are compared.

The small operations, which round each number once, are compared number by number (tests/test_small_kernels.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-12


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected magnitude; infinite where a value of either is not finite."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach(), expected.detach()
    if not bool(torch.isfinite(found).all()) or not bool(torch.isfinite(expected).all()):
        return math.inf
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(_TINY))
