"""The model of the published LAUDNet latency predictor: closed-form, deterministic, for its five devices.

    operator = data + computation + constant        (data: DRAM and on-chip traffic; constant: one launch)

NCHW, float32, the published batch, residual blocks alone. It brings the published picture back; it knows no cache
size, tensor core or algorithm choice, so it is not what laudc plans with. The devices are in paper_devices.toml.

Readings, where the description leaves a choice; of those tried, they come nearest to the published figures:

- Additions, pools and the layer masker's read of the block's input are DRAM traffic and a launch, no more.
- A lane's outputs are those of one image in a dense convolution, of the whole batch in one on patches.
- An engine reads the weights of its tile once for all patches. How many patches it takes at a time is searched for
  the mean number, (1 + all) / 2 rounded up. Of four large patches that is three at a time, and the arithmetic
  of two then takes as long as that of three: so large patches lose on a TX2.
- Channel skipping keeps the tile of the dense convolution.

Corrected; `as_released=True` brings the first numbers back (ms an image at rate 0.5):

- The first convolution of spatial skipping covers the halo that the next one reads. That the release leaves it out is
  inferred: of the readings tried, only that one brings its TX2 figures back, and to 0.1 %.
  ResNet-101 on a TX2, S = 8-4-7-1, 4-4-2-1, 1-1-1-1: 24.4, 21.7, 21.9 become 25.4, 23.5, 23.7.
- Channel skipping no longer counts the density of the inputs twice, which made arithmetic fall as r^3 in the second
  and r^2 in the third convolution: r^2 and r. ResNet-101, G = 2: .855 becomes .964 on a V100, 15.8 becomes 18.5 on
  a TX2. The other corrections of channel skipping change less: the fullest tile knows the granularity, which the
  released search drops; its work is the sum over the batch, whose images have masks of their own; the masker decides
  on the block's inner channels and has the hidden width of training.
- In both readings: the fullest tile is an exact expectation, not the mean of 100 unseeded draws; a fully connected
  layer has as many tiles as fit, not a product of tile sizes.
- Layer skipping launches its operators if any image of the batch runs: with probability 1 - (1 - r)^B, not r.

Not corrected: rates are means, without a spread over images; layer skipping compacts the batch for free and never
waits for its decision; images with unlike channel lists share a tile at no cost; squeeze-excitation pools the active
patches alone, though training pools all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from laudc.errors import InputError, UnknownName
from laudc.latency._paper_block import PaperBlock, PaperConv, blocks_of, regnet_y
from laudc.latency._paper_device import PaperDevice, paper_device, paper_devices
from laudc.latency._paper_dynamic import channel_us, layer_us, spatial_us
from laudc.latency._paper_operators import branch_us, projection_us
from laudc.plan import check_rate

FUSIONS = frozenset({"masker-conv", "gather-conv", "scatter-add"})
"""What can be fused in a block that skips patches, by the names of the passes that do it."""

_PARADIGMS = ("spatial", "layer", "channel")
_STEPS = 100


def static_us(block: PaperBlock, device: PaperDevice) -> float:
    """Microseconds an image, nothing skipped."""
    return (sum(branch_us(block, device)) + projection_us(block, device)) / device.batch


def dynamic_us(
    block: PaperBlock,
    device: PaperDevice,
    paradigm: str,
    granularity: int,
    rate: float,
    *,
    fused: Collection[str] = FUSIONS,
    as_released: bool = False,
) -> float:
    """Microseconds an image at an activation rate.

    The granularity is S or G; layer skipping ignores it. fused concerns spatial skipping alone. as_released keeps the
    released predictor's defects.
    """
    rate = check_rate(rate)
    _check(block, paradigm, granularity, fused)
    if paradigm == "spatial":
        batch_us = spatial_us(block, device, granularity, rate, fused=fused, as_released=as_released)
    elif paradigm == "layer":
        batch_us = layer_us(block, device, rate, as_released=as_released)
    else:
        batch_us = channel_us(block, device, granularity, rate, as_released=as_released)
    return batch_us / device.batch


def break_even_rate(
    block: PaperBlock,
    device: PaperDevice,
    paradigm: str,
    granularity: int,
    *,
    fused: Collection[str] = FUSIONS,
    as_released: bool = False,
) -> float | None:
    """The largest rate, in hundredths, at which the block takes less time than static; None if there is none."""
    static = static_us(block, device)
    for step in range(_STEPS, -1, -1):
        rate = step / _STEPS
        if dynamic_us(block, device, paradigm, granularity, rate, fused=fused, as_released=as_released) < static:
            return rate
    return None


def network_static_us(blocks: Sequence[PaperBlock], device: PaperDevice) -> float:
    """Microseconds an image in the residual blocks; stem, pools and classifier are left out, as published."""
    return sum(static_us(block, device) for block in blocks)


def network_dynamic_us(
    blocks: Sequence[PaperBlock],
    device: PaperDevice,
    paradigm: str,
    granularity: Sequence[int],
    rate: float,
    *,
    fused: Collection[str] = FUSIONS,
    as_released: bool = False,
) -> float:
    """Microseconds an image in the residual blocks, all at one rate; `granularity` has one number a stage."""
    stages = 1 + max((block.stage for block in blocks), default=-1)
    if len(granularity) != stages:
        raise InputError(f"the granularity has {len(granularity)} numbers", f"give {stages}, one a stage")
    return sum(
        dynamic_us(block, device, paradigm, granularity[block.stage], rate, fused=fused, as_released=as_released)
        for block in blocks
    )


def _check(block: PaperBlock, paradigm: str, granularity: int, fused: Collection[str]) -> None:
    if paradigm not in _PARADIGMS:
        raise UnknownName.among("paradigm of the paper", paradigm, _PARADIGMS)
    if paradigm != "layer" and granularity < 1:
        raise InputError(f"the granularity is {granularity}", "give a whole number above 0")
    if paradigm == "channel" and granularity > block.inner:
        raise InputError(f"{granularity} channels a decision are more than the block's {block.inner}", "give fewer")
    for name in fused:
        if name not in FUSIONS:
            raise UnknownName.among("fusion of the paper", name, FUSIONS)


__all__ = [
    "FUSIONS",
    "PaperBlock",
    "PaperConv",
    "PaperDevice",
    "blocks_of",
    "break_even_rate",
    "dynamic_us",
    "network_dynamic_us",
    "network_static_us",
    "paper_device",
    "paper_devices",
    "regnet_y",
    "static_us",
]
