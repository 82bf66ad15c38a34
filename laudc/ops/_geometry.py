"""Patches and needed regions: which positions a decision covers, and which inputs an output needs.

The unit of output pixel (i, j) at granularity S is (i // S, j // S); edge patches are cropped; S = 0 means the
whole map. The positions a convolution needs of its input are { s*i - p + d*t : i in needed outputs, t in taps }.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_size(granularity: int, extent: int) -> int:
    """The side of a patch along an axis of that extent: clipped to it, the whole of it for 0."""
    return min(granularity, extent) if granularity else extent


def grid_size(granularity: int, height: int, width: int) -> tuple[int, int]:
    """How many patches cover a map, along each axis."""
    sides = patch_size(granularity, height), patch_size(granularity, width)
    return -(-height // sides[0]), -(-width // sides[1])


def expand_patches(mask: Tensor, granularity: int, height: int, width: int) -> Tensor:
    """(B, GH, GW) decisions -> (B, H, W) pixels."""
    rows = torch.arange(height, device=mask.device) // patch_size(granularity, height)
    columns = torch.arange(width, device=mask.device) // patch_size(granularity, width)
    return mask[:, rows][:, :, columns]


def patch_means(x: Tensor, granularity: int, stride: int) -> Tensor:
    """(B, C, H, W) -> (B, C, GH, GW): the mean of exactly the input positions of each output patch.

    `granularity` counts output pixels, each of which stands over stride x stride inputs.
    """
    height, width = x.shape[2:]
    sides = [patch_size(granularity * stride, extent) for extent in (height, width)]
    return F.avg_pool2d(x, sides, sides, ceil_mode=True, count_include_pad=False)


def needed_region(
    pixels: Tensor,
    *,
    size: tuple[int, int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Needed outputs (B, Ho, Wo) -> needed inputs (B, H, W), for `size` = (H, W). Differentiable (a maximum)."""
    batch, out_height, out_width = pixels.shape
    top, left = padding[0], padding[2]
    spread = pixels.new_zeros(batch, (out_height - 1) * stride[0] + 1, (out_width - 1) * stride[1] + 1)
    spread[:, :: stride[0], :: stride[1]] = pixels
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padded = F.pad(spread, (reach[1], reach[1], reach[0], reach[0]))
    dilated = F.max_pool2d(padded[:, None], tuple(kernel), 1, 0, tuple(dilation))[:, 0]
    # `dilated` covers the padded input from its first row; what the padding holds is nobody's input
    height, width = size
    missing = (max(0, top + height - dilated.shape[1]), max(0, left + width - dilated.shape[2]))
    dilated = F.pad(dilated, (0, missing[1], 0, missing[0]))
    return dilated[:, top : top + height, left : left + width]
