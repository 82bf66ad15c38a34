"""Tiles of a dense convolution or product, searched as the published LAUDNet latency predictor does.

An engine computes a tile of c x h x w outputs of every image of the batch; the tile that takes the least time is
found by trying all. It does not depend on the activation rate, so each search is done once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

from laudc.latency._paper_block import PaperConv
from laudc.latency._paper_device import PaperDevice

Tile = tuple[int, int, int]
"""Channels, rows, columns of outputs."""

_MOST_POWER = 128
_MOST_PARTS = 8


def over(whole: int, part: int) -> int:
    """How many parts make up the whole, the last one perhaps not full."""
    return -(-whole // part)


@cache
def extents(size: int, most_power: int = _MOST_POWER) -> tuple[int, ...]:
    """Extents tried for a dimension: powers of two up to twice its size, its 1st to 7th parts, and 2 to 7."""
    powers = {1 << exponent for exponent in range(most_power.bit_length()) if 1 << exponent <= 2 * size}
    few = min(size, _MOST_PARTS)
    return tuple(sorted(powers | {over(size, parts) for parts in range(1, few)} | set(range(2, few))))


def lane_share(outputs: int, device: PaperDevice) -> float:
    """The share of an engine's lanes that so many outputs keep busy."""
    rounds = over(outputs, device.outputs_in_flight)
    return outputs / (rounds * device.outputs_in_flight)


def sector_share(run: int, row: int, device: PaperDevice) -> float:
    """The share of the sectors read that is wanted, for runs of contiguous values out of rows."""
    sector, gap = device.sector_fp32, max(row - run, 0)
    if run > sector:
        return run / (over(run, sector) * sector)
    return run / min(sector, run + gap)


def tile_inputs(conv: PaperConv, tile: Tile) -> int:
    """Input values that one tile reads per image, its halo among them, from every group it touches."""
    channels, rows, columns = tile
    per_group = conv.c_in // conv.groups
    groups = over(channels, conv.c_out // conv.groups)
    reach = conv.kernel - 1
    return groups * per_group * (rows + reach) * (columns + reach) * conv.stride**2


@cache
def conv_tile(conv: PaperConv, device: PaperDevice) -> Tile:
    """The tile with which the dense convolution takes the least time."""
    return min(_tiles(conv.c_out, conv.height, conv.width), key=lambda tile: on_chip_us(conv, device, tile))


def on_chip_us(
    conv: PaperConv,
    device: PaperDevice,
    tile: Tile,
    *,
    share_in: float = 1.0,
    share_out: float = 1.0,
    busiest: float = 1.0,
) -> float:
    """Traffic to the engines plus arithmetic, for the batch.

    share_in, share_out: channels that are read and computed. busiest: the share of the outputs in the fullest tile.
    """
    channels, rows, columns = tile
    tiles = over(conv.c_out, channels) * over(conv.height, rows) * over(conv.width, columns)
    outputs = channels * rows * columns
    kept_weights = share_in * share_out if device.batch == 1 else 1.0
    values = (
        channels * conv.depth * kept_weights
        + tile_inputs(conv, tile) * device.batch * share_in
        + outputs * device.batch * share_out
    )
    traffic = device.l2_us(tiles * values) / sector_share(columns, conv.width, device)
    macs = outputs * conv.depth * device.batch * share_in * busiest
    arithmetic = macs / device.pe_macs_per_us / lane_share(outputs, device) * over(tiles, device.pe_count)
    return traffic + arithmetic


@cache
def product_us(rows: int, c_in: int, c_out: int, device: PaperDevice) -> float:
    """A fully connected layer on `rows` vectors: as a convolution, but a tile holds some of the vectors."""
    moved = device.dram_us(c_in * c_out + rows * (c_in + c_out))
    tiles = product(extents(rows), extents(c_out))
    return device.launch_us + moved + min(_product_tile_us(rows, c_in, c_out, tile, device) for tile in tiles)


def _product_tile_us(rows: int, c_in: int, c_out: int, tile: tuple[int, int], device: PaperDevice) -> float:
    vectors, channels = tile
    tiles, outputs = over(rows, vectors) * over(c_out, channels), vectors * channels
    traffic = device.l2_us(tiles * (channels * c_in + vectors * c_in + outputs))
    arithmetic = outputs * c_in / device.pe_macs_per_us / lane_share(outputs, device) * over(tiles, device.pe_count)
    return traffic + arithmetic


def _tiles(channels: int, height: int, width: int) -> Iterator[Tile]:
    return product(extents(channels), extents(height), extents(width))
