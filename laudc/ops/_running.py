"""Running logits: what is left of a map for the layer maskers that may read it, int64 (B, M), in units of 2^-32.

Column j is the keep logit, without its bias, of the j-th masker that comes. A convolution adds up what its rows are
worth to each of them, so that a decision costs one number a sample, not a look at the map. Added as integers, the order
in which parts of a map come does not show; how a map is cut into parts may show in the last bits of its logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNITS = 1 << 32
"""In one."""


def running_logits(x: Tensor, scale: Tensor) -> Tensor:
    """What a map (B, C, H, W) is worth to maskers of the weights (M, C)."""
    return (x.double().mean((2, 3)) @ scale.double().T * UNITS).round().to(torch.int64)
