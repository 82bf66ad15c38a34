"""A convolution on listed patches, priced as in the published LAUDNet latency predictor.

An engine keeps a tile of the patch (channels, rows, columns) and walks the listed patches, some at a time. The
schedule is searched once for the mean number of patches, (1 + all) / 2 rounded up, so it does not depend on the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

from laudc.latency._paper_block import PaperConv
from laudc.latency._paper_device import PaperDevice
from laudc.latency._paper_tiles import extents, lane_share, over, tile_inputs

_MOST_AT_ONCE = 256

Schedule = tuple[int, int, int, int]
"""Channels, rows and columns of a tile; patches at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """Patches of one size on the map that a convolution makes."""

    height: int
    width: int
    most: int
    """How many make up the map."""

    @property
    def outputs(self) -> int:
        """Positions of one patch."""
        return self.height * self.width

    def inputs(self, conv: PaperConv) -> int:
        """Positions that one patch of the convolution reads, its halo among them."""
        reach = conv.kernel - 1
        return (self.height + reach) * (self.width + reach) * conv.stride**2


def patch_conv_us(conv: PaperConv, device: PaperDevice, patches: Patches, count: int, *, whole_map: bool) -> float:
    """`count` patches of each image of the batch, with the launch. whole_map: they are gathered from the map while
    it is read, which takes all of it from DRAM; else they lie gathered already."""
    height, width = conv.in_size
    positions = height * width if whole_map else count * patches.inputs(conv)
    values = conv.c_in * positions + conv.c_out * count * patches.outputs
    moved = device.dram_us(conv.c_out * conv.depth + values * device.batch)
    schedule = patch_schedule(conv, device, patches)
    return device.launch_us + moved + _on_chip_us(conv, device, patches, schedule, count)


@cache
def patch_schedule(conv: PaperConv, device: PaperDevice, patches: Patches) -> Schedule:
    """The schedule with which the mean number of patches takes the least time."""
    mean = patches.most // 2 + 1
    tried = product(
        extents(conv.c_out), extents(patches.height), extents(patches.width), extents(patches.most, _MOST_AT_ONCE)
    )
    fitting = (schedule for schedule in tried if schedule[3] <= _MOST_AT_ONCE)
    return min(fitting, key=lambda schedule: _on_chip_us(conv, device, patches, schedule, mean))


def _on_chip_us(conv: PaperConv, device: PaperDevice, patches: Patches, schedule: Schedule, count: int) -> float:
    """Traffic to the engines plus arithmetic. A tile's weights are read once for all patches."""
    channels, rows, columns, at_once = schedule
    tiles = over(conv.c_out, channels) * over(patches.height, rows) * over(patches.width, columns)
    outputs = channels * rows * columns
    per_patch = (tile_inputs(conv, (channels, rows, columns)) + outputs) * device.batch
    traffic = device.l2_us(tiles * (channels * conv.depth + count * per_patch))
    together = outputs * at_once * device.batch
    arithmetic = together * conv.depth / device.pe_macs_per_us / lane_share(together, device)
    return traffic + arithmetic * over(count, at_once) * over(tiles, device.pe_count)
