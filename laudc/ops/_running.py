"""Running logits: what is left of a map for the layer maskers that may read it, int64 (B, M), in units of 2^-32.

Column j is the keep logit, without its bias, of the j-th masker of the run; those that have decided are of no use any
more. A convolution adds up what its rows are worth to each that comes, so that a decision costs one number a sample,
not a look at the map. A kernel may add up numbers that it has not rounded yet to the map's type. Added as integers,
the order in which parts of a map come does not show; how it is cut into parts may show in the last bits of its logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNITS = 1 << 32
"""In one."""


def running_logits(x: Tensor, scale: Tensor) -> Tensor:
    """What a map (B, C, H, W) is worth to maskers of the weights (M, C)."""
    return (x.double().mean((2, 3)) @ scale.double().T * UNITS).round().to(torch.int64)
