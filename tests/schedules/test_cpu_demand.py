"""What a CPU's convolution is said to ask, against a walk through the loops that it emits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from laudc.latency._cpu import CpuConstants, cpu_time
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules import SCHEDULES, Active, Choice, Work
from laudc.schedules._cpu_demand import product_demand
from laudc.schedules._cpu_plan import Plan, plan_of
from laudc.targets import TARGETS
from laudc.types import TensorType

CPU = TARGETS["cpu"]
CONV = SCHEDULES["conv-cpu"]
DEPTHWISE = SCHEDULES["depthwise-cpu"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One turn of the parallel loop."""

    rows: int
    columns: int
    """Over all of its groups."""
    vectors: int
    heights: tuple[int, ...]
    """Register tiles of one column tile."""
    chunks: int


def walk(plan: Plan, count: int, kept_in: int | None, kept_out: int | None) -> Iterator[Task]:
    """The tasks of one share, as `each_task`, `_each_chunk` and `Columns` make them."""
    rounds = max(-(-count // (plan.panel_rows * plan.row_parts)), 1)
    rows = max(math.ceil(math.ceil(count / (rounds * plan.row_parts)) / plan.row_unit), 1) * plan.row_unit
    if plan.groups > 1:
        all_units = plan.groups if kept_out is None else -(-kept_out // plan.columns)
    else:
        all_units = plan.column_tiles if kept_out is None else -(-kept_out // (plan.tile_vectors * plan.lanes))
    units = max(-(-all_units // plan.column_parts), 1)
    for unit in range(0, all_units, units):
        here = min(units, all_units - unit)
        if plan.groups > 1:
            columns, vectors = plan.columns * here, plan.vectors * here
        else:
            there = plan.columns if kept_out is None else kept_out
            columns = min(here * plan.tile_vectors * plan.lanes, there - unit * plan.tile_vectors * plan.lanes)
            vectors = -(-columns // plan.lanes)
        for row in range(0, count, rows):
            high = min(rows, count - row)
            assert high <= plan.panel_rows or plan.reads_x_in_place
            yield Task(
                rows=high,
                columns=columns,
                vectors=vectors,
                heights=tuple(tiles(plan, high)),
                chunks=sum(1 for _ in chunks(plan, plan.depth if kept_in is None else kept_in)),
            )


def tiles(plan: Plan, rows: int) -> Iterator[int]:
    """As `Columns._rows`: exact ones end with rows of one; the others end with the lowest that holds the rest."""
    done = 0
    if plan.exact_tiles:
        for height in plan.tile_heights:
            while rows - done >= height:
                yield height
                done += height
        return
    while done < rows:
        yield min(height for height in plan.tile_heights if height >= min(rows - done, plan.tile_rows))
        done += plan.tile_rows


def chunks(plan: Plan, depth: int) -> Iterator[int]:
    for _ in range(plan.taps // plan.chunk_taps):
        yield from (
            range(max(1, -(-depth // plan.chunk_depth)))
            if plan.groups == 1
            else range(-(-plan.depth // plan.chunk_depth))
        )


def clocks(plan: Plan, height: int) -> float:
    """Of a tile and one k, in rows of multiply-adds: what it multiplies, loads, or waits for, whichever is longer."""
    return max(height * plan.tile_vectors, height + plan.tile_vectors, 8) / plan.tile_vectors


def types_for(spec: Conv2dSpec, batch: int, size: tuple[int, int]) -> Work:
    out = spec.map_size if spec.gathered else spec.out_size(*size)
    rows = batch * math.prod(out)
    made = {
        "x": (rows, spec.in_channels * spec.taps) if spec.gathered else (batch, spec.in_channels, *size),
        "rows": (batch + 1 + rows,),
        "channels": (batch, 1 + (spec.in_channels // spec.channels_in if spec.channels_in else decisions_out(spec))),
        "residual": (batch, spec.out_channels, *out),
        "gain": (batch, 1, *out),
    }
    operands = tuple(
        TensorType(shape=made[name], dtype="int32" if name in ("rows", "channels") else "float32")
        for name in spec.operands
    )
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def decisions_out(spec: Conv2dSpec) -> int:
    return spec.out_channels // spec.channels_out if spec.channels_out else 0


@st.composite
def asked(draw: st.DrawFn) -> tuple[Work, Choice, int, Active]:
    """A convolution that the schedule takes, a choice of its or a like one, a batch, and what is on."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    unit = draw(st.sampled_from([1, 2, 8, 16]))
    wide_in, wide_out = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    wide = draw(st.integers(1, 3)) if groups > 1 else 0
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 3)]))
    rows = draw(st.booleans())
    lists = draw(st.sampled_from(["", "", "in", "out", "both"]))
    gathered = rows and not lists and draw(st.booleans())
    if groups > 1:
        wide_in = wide_out = wide * groups
        lists = "both" if lists else ""
        unit = unit * wide if lists else unit
    spec = Conv2dSpec(
        in_channels=(unit // max(wide, 1) if lists and groups > 1 else unit) * wide_in,
        out_channels=(unit // max(wide, 1) if lists and groups > 1 else unit) * wide_out,
        kernel=kernel,
        stride=draw(st.sampled_from([(1, 1), (2, 1)])),
        padding=draw(st.sampled_from([(0, 0, 0, 0), (2, 2, 1, 1)])),
        groups=groups,
        bias=draw(st.booleans()),
        rows=rows,
        gathered=gathered,
        residual=draw(st.sampled_from(["none", "in_place" if rows else "dense"])),
    )
    if lists:
        size = unit // max(wide, 1) * wide if groups > 1 else unit
        spec = replace(
            spec,
            channels_in=size if lists in ("in", "both") else 0,
            channels_out=size if lists in ("out", "both") else 0,
        )
    if lists == "both" and groups == 1:
        spec = replace(spec, out_channels=spec.in_channels)
    size = draw(st.tuples(st.integers(5, 12), st.integers(4, 12)))
    spec = replace(spec, map_size=spec.out_size(*size)) if gathered else spec
    batch = draw(st.integers(1, 4))
    work = types_for(spec, batch, size)
    assume(CONV.refuse(work, CPU) is None)
    choice = dict(draw(st.sampled_from(CONV.choices(work, CPU))))
    choice |= {
        "row_parts": draw(st.integers(1, 4)),
        "column_parts": draw(st.integers(1, 3)) if groups == 1 or lists else 1,
        "chunk": draw(st.sampled_from([16, 48, 640])),
        "panel_tiles": draw(st.integers(1, 8)),
    }
    every = batch * math.prod(spec.out_map(work.operands)[1:])
    shares = batch if lists else 1
    on = draw(st.integers(0, every // shares)) * shares if rows else None
    decisions = work.operands[spec.operands.index("channels")].shape[1] - 1 if lists else 0
    channels = draw(st.integers(0, decisions)) if lists else None
    return work, choice, batch, Active(rows=on, channels=channels)


@settings(max_examples=150)
@given(asked())
def test_the_counts_are_those_of_the_loops(case: tuple[Work, Choice, int, Active]) -> None:
    work, choice, batch, active = case
    spec, plan = work.spec, plan_of(work, choice)
    assert isinstance(spec, Conv2dSpec)
    shares = batch if plan.per_sample else 1
    count = int(batch * plan.pixels if active.rows is None else active.rows) // shares
    kept = [
        None if not size or active.channels is None else int(active.channels) * size
        for size in (spec.channels_in, spec.channels_out)
    ]
    *copying, found = product_demand(plan, batch, active)
    assert len(copying) == plan.copies_weights
    tasks = list(walk(plan, count, *kept))
    assert (found.repeats, found.tasks) == (shares, len(tasks))
    if not tasks:
        assert found.tasks * found.macs == found.read_bytes == found.weight_bytes == found.written_bytes == 0
        return
    first = tasks[0]
    depth = plan.depth if kept[0] is None or plan.groups > 1 else kept[0]
    k = plan.taps * depth
    assert max(task.rows for task in tasks) == first.rows
    per_k = sum(clocks(plan, height) for height in first.heights)
    assert found.macs == pytest.approx(per_k * k * first.vectors * plan.lanes)
    panel = 0 if plan.reads_x_in_place else first.rows * k * (first.columns // plan.columns if plan.groups > 1 else 1)
    waiting = first.rows * first.columns * 2 * (first.chunks - 1)
    assert found.on_chip_bytes == pytest.approx(4 * (panel + waiting))
    made = sum(task.rows * task.columns for task in tasks)
    assert found.written_bytes == pytest.approx(4 * shares * made)
    weights = k * (made // count) * (shares if plan.per_sample else 1)
    assert found.weight_bytes == pytest.approx(4 * weights)
    read = count * shares * (depth * (made // count // plan.columns if plan.groups > 1 else 1))
    residual = shares * made if spec.residual != "none" else 0
    assert found.read_bytes == pytest.approx(4 * (read + residual))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("cores", [1, 2, 4])
def test_more_rows_are_never_less_work_for_the_busiest_core(kernel: tuple[int, int], cores: int) -> None:
    """Where they divide the column tiles evenly. Else (6 cores, 8 tiles) 3 row tasks may fill them better than 2."""
    spec = Conv2dSpec(in_channels=96, out_channels=128, kernel=kernel, padding=(kernel[0] // 2,) * 4, rows=True)
    work = types_for(spec, 2, (14, 12))
    for offered in CONV.choices(work, replace(CPU, sm_count=cores)):
        plan = plan_of(work, offered)
        target = replace(CPU, sm_count=cores)
        times = [
            sum(
                cpu_time(one, target, CpuConstants.of(target)).total_us
                for one in product_demand(plan, 2, Active(rows=rows))
            )
            for rows in range(2 * plan.pixels + 1)
        ]
        assert all(more >= less * (1 - 1e-12) for less, more in pairwise(times))


def test_nothing_on_leaves_the_call() -> None:
    spec = Conv2dSpec(in_channels=64, out_channels=64, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, bias=True)
    work = types_for(spec, 4, (14, 14))
    for choice in CONV.choices(work, CPU):
        (one,) = CONV.demand(work, CPU, choice, Active(rows=0))
        time = cpu_time(one, CPU, CpuConstants.of(CPU))
        assert (time.total_us, time.bound) == (CpuConstants.of(CPU).call_us, "launch")


def test_a_linear_layer_of_few_rows_has_tiles_of_one_row() -> None:
    work = linear(3)
    plan = plan_of(work, CONV.choices(work, CPU)[0])
    assert plan.exact_tiles
    heights = [2, 1] if plan.tile_heights[1] == 2 else [1, 1, 1]
    (three,) = product_demand(plan, 3, Active())
    assert list(tiles(plan, 3)) == heights
    assert three.macs == sum(clocks(plan, height) for height in heights) * 512 * three_columns(plan)


def three_columns(plan: Plan) -> int:
    """Of the busiest task, in whole vectors."""
    return next(walk(plan, 3, None, None)).vectors * plan.lanes


def linear(batch: int) -> Work:
    spec = LinearSpec(in_features=512, out_features=1000, bias=True)
    operands = (TensorType(shape=(batch, 512), dtype="float32"),)
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def test_each_byte_of_weights_is_read_once_a_call_and_with_channel_lists_once_a_sample() -> None:
    dense = types_for(Conv2dSpec(in_channels=64, out_channels=96, kernel=(3, 3)), 4, (14, 14))
    (one,) = CONV.demand(dense, CPU, CONV.choices(dense, CPU)[0], Active())
    assert one.weight_bytes == 4 * 9 * 64 * 96
    spec = Conv2dSpec(in_channels=64, out_channels=96, kernel=(3, 3), channels_in=16)
    work = types_for(spec, 4, (14, 14))
    (half,) = CONV.demand(work, CPU, CONV.choices(work, CPU)[0], Active(channels=2))
    assert (half.weight_bytes, half.repeats) == (4 * 4 * 9 * 32 * 96, 4)


@pytest.mark.parametrize("rows", [0, 1, 37, 400])
def test_a_depthwise_convolution_shares_its_rows_over_the_cores(rows: int) -> None:
    spec = Conv2dSpec(in_channels=40, out_channels=40, groups=40, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True)
    work = types_for(spec, 2, (20, 10))
    choice = DEPTHWISE.choices(work, CPU)[0]
    (one,) = DEPTHWISE.demand(work, CPU, choice, Active(rows=rows))
    assert one.tasks == min(CPU.sm_count, rows)
    assert one.steps == math.ceil(rows / CPU.sm_count) * math.ceil(40 / choice["lanes"]) * 9 * 2
    assert one.read_bytes == one.written_bytes == 4 * 40 * rows
