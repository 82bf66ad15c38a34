"""A block that skips, priced for the batch: one function a paradigm (LAUDNet, section 3.1; released predictor).

`as_released` keeps the released predictor's defects, so that its published output comes back. See paper.py for what
was corrected.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from laudc.latency._paper_block import PaperBlock, PaperConv
from laudc.latency._paper_chance import fullest_share
from laudc.latency._paper_device import PaperDevice
from laudc.latency._paper_operators import (
    add_us,
    branch_us,
    conv_us,
    elementwise_us,
    gather_us,
    map_values,
    projection_us,
    scatter_us,
    squeeze_us,
)
from laudc.latency._paper_patches import Patches, patch_conv_us
from laudc.latency._paper_tiles import conv_tile, over, product_us

_LOGITS = 2
_HIDDEN_DIVISOR, _LEAST_HIDDEN = 16, 16
_ROUNDING = 1e-9


def spatial_us(
    block: PaperBlock, device: PaperDevice, side: int, rate: float, *, fused: Collection[str], as_released: bool
) -> float:
    """Patches of side x side outputs are computed or left."""
    last = block.convs[-1]
    patches = _whole_patches(last, side)
    count = _count(patches, rate)
    total = _first_conv_us(block, device, side, rate, fused=fused, as_released=as_released)
    for index, conv in enumerate(block.convs[1:], start=1):
        own = _patches(block, index, side)
        if conv.kernel == 1:  # it reads the patches that the one before it left
            total += patch_conv_us(conv, device, own, count, whole_map=False)
        else:
            total += _gathered_us(conv, device, own, count, fused=fused)
    share = count * patches.outputs / (last.height * last.width)
    total += sum(squeeze_us(block, device, share=share))
    if "scatter-add" in fused:
        total += elementwise_us((2 + share) * map_values(last), device)
    else:
        total += scatter_us(last, device, patches, count) + add_us(block, device)
    return total + projection_us(block, device)


def layer_us(block: PaperBlock, device: PaperDevice, rate: float, *, as_released: bool) -> float:
    """The branch is computed or left: a masker's read, then a linear share of the branch."""
    first = block.convs[0]
    height, width = first.in_size
    masker = elementwise_us(first.c_in * height * width, device)
    branch = branch_us(block, device)
    launches = len(branch) * device.launch_us
    launched = rate if as_released else 1 - (1 - rate) ** device.batch
    return masker + projection_us(block, device) + (sum(branch) - launches) * rate + launches * launched


def channel_us(block: PaperBlock, device: PaperDevice, group: int, rate: float, *, as_released: bool) -> float:
    """Groups of adjacent inner channels are computed or left."""
    total = _channel_masker_us(block, device, group, as_released=as_released)
    last = len(block.convs) - 1
    for index, conv in enumerate(block.convs):
        share_in, share_out = (1.0 if index == 0 else rate), (1.0 if index == last else rate)
        tile = conv_tile(conv, device)
        tiles = over(conv.c_out, tile[0])
        if as_released:
            busiest = fullest_share(tiles, tile[0], share_in * share_out)
        else:
            busiest = fullest_share(tiles, max(tile[0] // group, 1) * device.batch, share_out)
        total += conv_us(conv, device, share_in=share_in, share_out=share_out, busiest=busiest)
    return total + sum(squeeze_us(block, device)) + add_us(block, device) + projection_us(block, device)


def _first_conv_us(
    block: PaperBlock, device: PaperDevice, side: int, rate: float, *, fused: Collection[str], as_released: bool
) -> float:
    """Masker and first convolution, the cheapest way: the masker's own convolution and then the first one, dense or
    on the patches with the halo that is read later; or, fused, one dense convolution with the logit as one more
    output."""
    conv = block.convs[0]
    height, width = conv.in_size
    masker = conv_us(PaperConv(c_in=conv.c_in, c_out=_LOGITS, height=height, width=width), device)
    patches = _whole_patches(conv, side) if as_released else _patches(block, 0, side)
    gathered = _gathered_us(conv, device, patches, _count(patches, rate), fused=fused)
    ways = [masker + gathered, masker + conv_us(conv, device)]
    if "masker-conv" in fused and conv.kernel == conv.stride == conv.groups == 1:
        ways.append(conv_us(replace(conv, c_out=conv.c_out + 1), device))
    return min(ways)


def _gathered_us(
    conv: PaperConv, device: PaperDevice, patches: Patches, count: int, *, fused: Collection[str]
) -> float:
    """A convolution on patches that are gathered from a map, while it reads or before."""
    if "gather-conv" in fused:
        return patch_conv_us(conv, device, patches, count, whole_map=True)
    gather = gather_us(conv, device, patches, count)
    return gather + patch_conv_us(conv, device, patches, count, whole_map=False)


def _channel_masker_us(block: PaperBlock, device: PaperDevice, group: int, *, as_released: bool) -> float:
    """Global pool, then two products; the hidden width is floor(D / 16), at least 16 in training (appendix C.1)."""
    first = block.convs[0]
    height, width = first.in_size
    pool = elementwise_us(first.c_in * (height * width + 1), device)
    if as_released:
        decisions = max(first.c_in // group, 1)
        hidden = max(decisions // _HIDDEN_DIVISOR, 1)
    else:
        decisions = block.inner // group
        hidden = max(decisions // _HIDDEN_DIVISOR, _LEAST_HIDDEN)
    hide = product_us(device.batch, first.c_in, hidden, device)
    return pool + hide + product_us(device.batch, hidden, decisions, device)


def _patches(block: PaperBlock, index: int, side: int) -> Patches:
    """The patches of one of the block's convolutions: as many as on the block's output, large enough for what the
    convolutions behind it read."""
    patches = _whole_patches(block.convs[-1], side)
    for conv in reversed(block.convs[index + 1 :]):
        height, width = conv.in_size
        patches = Patches(
            height=min((patches.height - 1) * conv.stride + conv.kernel, height),
            width=min((patches.width - 1) * conv.stride + conv.kernel, width),
            most=patches.most,
        )
    return patches


def _whole_patches(conv: PaperConv, side: int) -> Patches:
    """The map that a convolution makes, cut into patches."""
    height, width = min(side, conv.height), min(side, conv.width)
    return Patches(height=height, width=width, most=over(conv.height, height) * over(conv.width, width))


def _count(patches: Patches, rate: float) -> int:
    """Active patches: rounded up, past the rounding of the product itself."""
    return math.ceil(rate * patches.most - _ROUNDING)
