"""The operators of a block, priced for the batch as in the published LAUDNet latency predictor.

operator = traffic to DRAM + traffic to the engines + arithmetic + one launch

Additions and pools are all DRAM: what the engines do to them is left out, as the arithmetic is next to nothing.
"""

from __future__ import annotations

from laudc.latency._paper_block import PaperBlock, PaperConv
from laudc.latency._paper_device import PaperDevice
from laudc.latency._paper_patches import Patches
from laudc.latency._paper_tiles import conv_tile, on_chip_us, product_us, sector_share


def conv_us(
    conv: PaperConv, device: PaperDevice, *, share_in: float = 1.0, share_out: float = 1.0, busiest: float = 1.0
) -> float:
    """A convolution over the whole map. share_in, share_out: the channels it reads and computes; busiest: the share
    that the fullest tile computes. At batch 1 the weights left out are not read either."""
    height, width = conv.in_size
    weights = conv.c_out * conv.depth * (share_out if device.batch == 1 else 1.0)
    values = conv.c_in * height * width * share_in + conv.c_out * conv.height * conv.width * share_out
    on_chip = on_chip_us(conv, device, conv_tile(conv, device), share_in=share_in, share_out=share_out, busiest=busiest)
    return device.launch_us + device.dram_us(weights + values * device.batch) + on_chip


def elementwise_us(values: float, device: PaperDevice) -> float:
    """An operator that reads and writes so many values an image and computes next to nothing."""
    return device.launch_us + device.dram_us(values * device.batch)


def add_us(block: PaperBlock, device: PaperDevice) -> float:
    """Two maps read, one written."""
    return elementwise_us(3 * map_values(block.convs[-1]), device)


def projection_us(block: PaperBlock, device: PaperDevice) -> float:
    """The shortcut's convolution, dense in every paradigm; 0 for an identity."""
    return conv_us(block.projection, device) if block.projection else 0.0


def squeeze_us(block: PaperBlock, device: PaperDevice, *, share: float = 1.0) -> tuple[float, ...]:
    """The operators of the squeeze-excitation: pool, two products, multiply. share: of the map they touch."""
    if not block.squeeze:
        return ()
    conv = block.convs[-2]
    values = map_values(conv) * share
    return (
        elementwise_us(values, device),
        product_us(device.batch, conv.c_out, block.squeeze, device),
        product_us(device.batch, block.squeeze, conv.c_out, device),
        elementwise_us(2 * values, device),
    )


def branch_us(block: PaperBlock, device: PaperDevice) -> tuple[float, ...]:
    """The operators that a skipped block does not run, dense, the addition last."""
    return (*(conv_us(conv, device) for conv in block.convs), *squeeze_us(block, device), add_us(block, device))


def gather_us(conv: PaperConv, device: PaperDevice, patches: Patches, count: int) -> float:
    """Patches of the convolution's input copied out by an operator of its own: the map read, the patches written."""
    height, width = conv.in_size
    copied = conv.c_in * count * patches.inputs(conv) * device.batch
    run = (patches.width + conv.kernel - 1) * conv.stride
    on_chip = device.l2_us(2 * copied) / sector_share(min(run, width), width, device)
    return device.launch_us + device.dram_us(conv.c_in * height * width * device.batch + copied) + on_chip


def scatter_us(conv: PaperConv, device: PaperDevice, patches: Patches, count: int) -> float:
    """Patches put back into a map of zeros by an operator of its own: the patches read, the map written."""
    copied = conv.c_out * count * patches.outputs * device.batch
    on_chip = device.l2_us(2 * copied) / sector_share(patches.width, conv.width, device)
    return device.launch_us + device.dram_us(map_values(conv) * device.batch + copied) + on_chip


def map_values(conv: PaperConv) -> int:
    """Values of the map that a convolution makes, per image."""
    return conv.c_out * conv.height * conv.width
