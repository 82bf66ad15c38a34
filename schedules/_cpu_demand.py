"""What the CPU's convolutions ask: the same cutting as in `_cpu_task` and `_cpu_columns`, counted.

A task of `rows` rows and `units` column tiles, for every chunk of K:  fill the panel,  then for each column tile and
each register tile:  load the sums (from the second chunk on), multiply, store them.
"""

from __future__ import annotations

import math

from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules._cpu_plan import Plan
from laudc.schedules._demand import Active, Demand
from laudc.schedules.base import Choice, Work

_FLOAT = 4
_CORE_CACHE = 768 * 1024
"""Weights that a core's own cache keeps from one task to the next."""
MASKER = 4
_LATENCY = 8
"""Multiply-adds under way in a core before the first is done: fewer sums than this wait for each other."""


def product_demand(plan: Plan, batch: int, active: Active) -> tuple[Demand, ...]:
    """The phases of a convolution or a linear layer."""
    rows = batch * plan.pixels if active.rows is None else active.rows
    shares = batch if plan.per_sample else 1
    depth: float = plan.depth
    columns: float = plan.columns
    if active.channels is not None and plan.groups == 1:
        depth = active.channels * plan.spec.channels_in if plan.spec.channels_in else depth
        columns = active.channels * plan.spec.channels_out if plan.spec.channels_out else columns
    copying = _copy_demand(plan, shares, depth, columns) if plan.copies_weights else ()
    return (*copying, _share_demand(plan, rows / shares, shares, depth, columns, active))


def _share_demand(plan: Plan, count: float, shares: int, depth: float, columns: float, active: Active) -> Demand:
    """One phase a share; `count` rows each."""
    row_tasks, rows = _row_tasks(plan, count)
    units, all_units = _column_units(plan, columns, active)
    tasks = row_tasks * math.ceil(all_units / units)
    width = _columns_of(plan, columns, units, all_units)
    padded = math.ceil(width / plan.lanes) * plan.lanes if plan.groups == 1 else plan.vectors * plan.lanes * units
    chunks = _chunks(plan, depth)
    k = plan.taps * depth
    panel_k = k * (units if plan.groups > 1 else 1)
    panel = 0.0 if plan.reads_x_in_place else rows * panel_k * _FLOAT
    waiting = rows * width * 2 * (chunks - 1) * _FLOAT
    weights = k * width * _FLOAT
    groups = all_units if plan.groups > 1 else 1
    logits = 1 if plan.spec.masker else 0
    all_weights = k * (columns * groups + logits) * _FLOAT
    again = weights if weights > _CORE_CACHE else 0.0
    # each tile begins with the bias (and residual) and ends with the function, vector by vector
    around = (6 if plan.spec.residual != "none" else 3) * _padded_rows(plan, rows) * padded / plan.lanes * chunks
    masker = MASKER * rows * k / plan.lanes if plan.spec.masker else 0.0
    some = float(row_tasks > 0 and all_units > 0)
    residual = columns * groups if plan.spec.residual != "none" else 0.0
    pixel = depth * groups
    return Demand(
        tasks=tasks,
        macs=_padded_rows(plan, rows) * k * padded,
        on_chip_bytes=panel + waiting,
        l2_bytes=again,
        steps=masker + around,
        read_bytes=some * count * shares * _FLOAT * (pixel + residual),
        written_bytes=count * shares * (columns * groups + logits) * _FLOAT,
        weight_bytes=some * all_weights * (shares if plan.per_sample else 1),
        repeats=shares,
    )


def _row_tasks(plan: Plan, count: float) -> tuple[int, float]:
    """How many tasks the rows of a share make, and the rows of each but the last."""
    parts = max(math.ceil(count / (plan.panel_rows * plan.row_parts)), 1) * plan.row_parts
    rows = max(math.ceil(math.ceil(count / parts) / plan.row_unit), 1) * plan.row_unit
    return math.ceil(count / rows), min(rows, count)


def _column_units(plan: Plan, columns: float, active: Active) -> tuple[int, int]:
    """Column tiles (or groups) of a task, and of a share."""
    if plan.groups == 1:
        all_units = math.ceil(columns / (plan.tile_vectors * plan.lanes))
    elif active.channels is not None and plan.spec.channels_out:
        all_units = math.ceil(active.channels * plan.spec.channels_out / plan.columns)
    else:
        all_units = plan.groups
    return max(math.ceil(all_units / plan.column_parts), 1), all_units


def _columns_of(plan: Plan, columns: float, units: int, all_units: int) -> float:
    if plan.groups > 1:
        return plan.columns * units
    return columns if units >= all_units else units * plan.tile_vectors * plan.lanes


def _chunks(plan: Plan, depth: float) -> int:
    return plan.taps // plan.chunk_taps * max(1, math.ceil(depth / plan.chunk_depth))


def _padded_rows(plan: Plan, rows: float) -> float:
    """Rows that the register tiles of a task compute, a low tile counted for as long as it takes.

    Of each k a tile loads its vectors and its rows, two a clock, and multiplies two a clock.
    """
    whole, left = divmod(math.ceil(rows), plan.tile_rows)
    heights = [plan.tile_rows] * whole
    if plan.exact_tiles:
        for height in plan.tile_heights[1:]:
            heights += [height] * (left // height)
            left %= height
    elif left:
        heights.append(min(height for height in plan.tile_heights if height >= left))
    vectors = plan.tile_vectors
    return sum(max(height * vectors, height + vectors, _LATENCY) / vectors for height in heights)


def _copy_demand(plan: Plan, shares: int, depth: float, columns: float) -> tuple[Demand, ...]:
    """A sample's weights copied together, number by number."""
    tasks = math.ceil(columns / plan.lanes)
    moved = plan.taps * depth * plan.lanes
    return (Demand(tasks=tasks, steps=2 * moved, on_chip_bytes=2 * moved * _FLOAT, repeats=shares),)


def depthwise_demand(work: Work, choice: Choice, active: Active) -> tuple[Demand, ...]:
    """The phases of a depthwise convolution."""
    spec = work.spec
    assert isinstance(spec, Conv2dSpec), spec
    batch, height, width = spec.out_map(work.operands)
    listed = spec.channels_in > 0 and active.channels is not None
    shares = batch if listed else 1
    rows = (batch * height * width if active.rows is None else active.rows) / shares
    channels = active.channels * spec.channels_in if listed and active.channels is not None else spec.out_channels
    share = math.ceil(rows / choice["parts"])
    vectors = math.ceil(channels / choice["lanes"])
    once = rows * shares * channels * _FLOAT
    return (
        Demand(
            tasks=min(choice["parts"], math.ceil(rows)),
            # of each tap a vector of weights and, for a run of pixels, one of x are loaded for each multiply-add
            steps=share * vectors * spec.taps * 2,
            read_bytes=once,
            written_bytes=once,
            weight_bytes=spec.taps * channels * shares * _FLOAT,
            repeats=shares,
        ),
    )
