"""What the CUDA convolutions ask: tiles of rows x columns over the active rows, counted as the kernels cut them."""

from __future__ import annotations

import math
from dataclasses import replace

from laudc.schedules._cuda_channel_tile import ChannelTile
from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import SimtTile, TensorTile
from laudc.schedules._demand import Active, Demand
from laudc.types import DTYPE_BYTES

_SECTOR = 32
"""Bytes that memory hands out at once."""
_SUMMED = 1.6
"""How much longer it takes to store what is also added up, sample by sample."""
_OTHER_REGISTERS = 40
"""Addresses, counters and operands of a thread beside its sums."""


def tensor_core_demand(p: Problem, tile: TensorTile, speed: float, active: Active) -> tuple[Demand, ...]:
    """Tiles on tensor cores; the whole batch is one run of rows."""
    rows = _rows(p, active)
    row_tiles, column_tiles = math.ceil(rows / tile.bm), math.ceil(p.columns / tile.bn)
    every = math.ceil(p.capacity / tile.bm)
    depth = math.ceil(p.depth / p.step / tile.split) * p.step
    size = DTYPE_BYTES[p.dtype]
    finished = size * tile.bm * tile.bn * _passes(p) / tile.split
    if tile.split > 1:
        finished += 2 * 4 * tile.bm * tile.bn
    return (
        replace(
            _unique(p, rows, p.group_channels, p.columns),
            unit=_unit(p),
            tasks=row_tiles * column_tiles * tile.split,
            idle_tasks=0 if tile.blocks else (every - row_tiles) * column_tiles * tile.split,
            macs=tile.bm * (tile.bn + tile.extra) * depth,
            l2_bytes=size * (tile.bm + tile.bn + tile.extra) * depth,
            chain=depth // p.step,
            alternating=tile.lag == 0,
            ahead=max(1, tile.stages - 1 - tile.lag),
            settled=p.settled and tile.overlapping and not tile.blocks,
            finish_bytes=finished,
            cluster=tile.split,
            threads=tile.threads,
            shared_bytes=tile.shared_bytes,
            registers=tile.bm * (tile.bn + tile.extra) // tile.threads + _OTHER_REGISTERS,
            efficiency=speed / 100,
        ),
    )


def channel_demand(p: Problem, tile: ChannelTile, speed: float, active: Active) -> tuple[Demand, ...]:
    """Tiles of each sample on tensor cores; what is past its rows or its columns is not loaded."""
    rows = _rows(p, active)
    channels, columns = _kept(p, active)
    row_tiles = math.ceil(rows / p.batch / tile.bm) * p.batch
    column_tiles = math.ceil(columns / tile.bn)
    every = math.ceil(p.pixels / tile.bm) * p.batch * math.ceil(p.columns / tile.bn)
    depth = math.ceil(p.taps * channels / p.step) * p.step
    last = columns - (column_tiles - 1) * tile.bn
    multiplied = (column_tiles - 1) * tile.bn + next((width for width in tile.widths if width >= last), 0)
    walk = max(tile.walk, 1)
    tasks = row_tiles * column_tiles / walk
    tall, wide = rows / max(row_tiles, 1), columns / max(column_tiles, 1)
    size = DTYPE_BYTES[p.dtype]
    listed = _sector_share(p.channels_in * size) if p.channels_in else 1.0
    return (
        replace(
            _unique(p, rows, channels, columns),
            unit=_unit(p),
            tasks=tasks,
            idle_tasks=max(0, every / walk - tasks),
            macs=walk * tile.bm * multiplied / max(column_tiles, 1) * depth,
            l2_bytes=size * depth * (tall + walk * wide / listed),
            chain=max(1, walk * depth // p.step),
            alternating=tile.lag == 0,
            ahead=max(1, tile.stages - 1 - tile.lag),
            listed=True,
            finish_bytes=walk * size * tall * wide * _passes(p) * (_SUMMED if p.sums else 1),
            threads=tile.threads,
            shared_bytes=tile.shared_bytes,
            registers=tile.bm * tile.bn // tile.threads + _OTHER_REGISTERS,
            efficiency=speed / 100,
        ),
    )


def simt_demand(p: Problem, tile: SimtTile, speed: float, active: Active) -> tuple[Demand, ...]:
    """Tiles in fp32 arithmetic; of each sample, where it has its own channels."""
    shares = p.batch if p.per_sample else 1
    rows = _rows(p, active)
    depth_channels, columns = _kept(p, active)
    groups = _kept_groups(p, active)
    row_tiles = math.ceil(rows / shares / tile.bm) * shares
    column_tiles = math.ceil((columns + p.masker) / tile.bn) * groups
    every = math.ceil(p.capacity / shares / tile.bm) * shares * math.ceil((p.group_columns + p.masker) / tile.bn)
    depth = math.ceil(p.taps * depth_channels / tile.bk) * tile.bk
    size = DTYPE_BYTES[p.dtype]
    listed = _sector_share(p.channels_in * size) if p.channels_in and p.groups == 1 else 1.0
    tasks = row_tiles * column_tiles
    return (
        replace(
            _unique(p, rows, depth_channels * groups / p.groups, columns * groups),
            tasks=tasks,
            idle_tasks=max(0, every * p.groups - tasks),
            macs=tile.bm * tile.bn * depth,
            # through registers into shared memory, and from there once a thread
            on_chip_bytes=4 * depth * (tile.bm + tile.bn + tile.bm * tile.bn * (1 / tile.tm + 1 / tile.tn)),
            l2_bytes=size * depth * (tile.bm + tile.bn / listed) + size * tile.bm * tile.bn * _passes(p),
            threads=tile.threads,
            shared_bytes=tile.shared_bytes,
            registers=tile.tm * tile.tn + tile.tm + tile.tn + _OTHER_REGISTERS,
            efficiency=speed / 100,
        ),
    )


def direct_demand(p: Problem, tall: int, vector: int, threads: int, active: Active) -> tuple[Demand, ...]:
    """Thin groups: a thread sums `tall` rows of `vector` columns, and every operand comes from the caches."""
    rows = _rows(p, active)
    groups = _kept_groups(p, active)
    columns = p.group_columns * groups
    size = DTYPE_BYTES[p.dtype]
    tasks = math.ceil(math.ceil(rows / tall) * math.ceil(columns / vector) / threads)
    every = math.ceil(math.ceil(p.capacity / tall) * math.ceil(p.columns / vector) / threads)
    depthwise = p.group_columns == p.group_channels == 1
    reads = tall * (vector if depthwise else 1) + vector
    return (
        replace(
            _unique(p, rows, p.group_channels * groups / p.groups, columns),
            tasks=tasks,
            idle_tasks=every - tasks,
            macs=threads * tall * vector * p.depth,
            on_chip_bytes=threads * p.depth * reads * size,
            l2_bytes=threads * tall * vector * size * (p.taps if depthwise else 1),
            threads=threads,
            registers=2 * tall * vector + _OTHER_REGISTERS,
        ),
    )


def _unit(p: Problem) -> str:
    return {"float16": "tensor_fp16", "bfloat16": "tensor_bf16", "float32": "tensor_tf32"}[p.dtype]


def _rows(p: Problem, active: Active) -> float:
    return p.capacity if active.rows is None else active.rows


def _kept(p: Problem, active: Active) -> tuple[float, float]:
    """Channels and columns of one group that are on; a grouped one keeps or drops whole groups."""
    if active.channels is None or p.groups > 1:
        return p.group_channels, p.group_columns
    channels = active.channels * p.channels_in if p.channels_in else p.group_channels
    return channels, active.channels * p.channels_out if p.channels_out else p.group_columns


def _kept_groups(p: Problem, active: Active) -> float:
    if active.channels is None or p.groups == 1 or not p.channels_out:
        return p.groups
    return math.ceil(active.channels * p.channels_out / p.group_columns)


def _passes(p: Problem) -> int:
    """How often a result's place is touched: written, and read where there is a residual."""
    return 1 if p.residual == "none" else 2


def _unique(p: Problem, rows: float, channels: float, columns: float) -> Demand:
    """Bytes that have to come from and go to memory, each once: the pixels under the active windows and no others."""
    size = DTYPE_BYTES[p.dtype]
    if p.gathered:
        pixels = rows * p.taps
    else:
        spread = p.stride[0] * p.stride[1] if p.taps > 1 else 1
        pixels = min(rows * spread, p.batch * p.height * p.width)
    return Demand(
        read_bytes=size
        * (pixels * channels * p.groups + (rows * columns if p.residual != "none" else 0) + rows * p.shortcut),
        written_bytes=size * rows * columns
        + 4 * rows * p.masker
        + 8 * rows / p.pixels * (p.columns * p.sums + p.running)
        + _decided_bytes(p),
        weight_bytes=size * (p.taps * channels + p.shortcut) * (columns + p.masker) if rows else 0,
    )


def _decided_bytes(p: Problem) -> int:
    """Of the decisions, their logits, the list of samples, and the running logits."""
    return (4 * 3 * p.batch + 4 + 8 * p.batch * p.deciding) if p.deciding else 0


def _sector_share(run_bytes: int) -> float:
    """The part of the sectors that a run of so many neighbouring bytes uses."""
    return run_bytes / (math.ceil(run_bytes / _SECTOR) * _SECTOR)
