"""What a CUDA convolution is said to ask, against counting its tiles."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from laudc.schedules import SCHEDULES, Active, Demand
from laudc.schedules._cuda_problem import problem_of
from laudc.targets import TARGETS, Target

sys.path.insert(0, str(Path(__file__).parent.parent / "gpu"))
from conv_case import Case, conv
from conv_cases import CHANNELS, GENERAL, TENSOR_CORE, TF32
from resnet50_cases import RESNET50

KINDS = (
    ("conv-simt", TARGETS["v100"], "float32"),
    ("conv-mma", TARGETS["a100"], "float16"),
    ("conv-wgmma", TARGETS["h200"], "float16"),
)
TF32_KINDS = (("conv-mma", TARGETS["a100"], "tf32"), ("conv-wgmma", TARGETS["h200"], "tf32"))
LISTED_KINDS = (
    ("conv-mma-channels", TARGETS["a100"], "float16"),
    ("conv-wgmma-channels", TARGETS["h200"], "float16"),
)
CASES = (*GENERAL, *TENSOR_CORE, *CHANNELS, *TF32, *RESNET50)
KIND = pytest.mark.parametrize(("schedule", "target", "dtype"), KINDS + TF32_KINDS)
EVERY_KIND = pytest.mark.parametrize(("schedule", "target", "dtype"), KINDS + TF32_KINDS + LISTED_KINDS)
LISTED_KIND = pytest.mark.parametrize(("schedule", "target", "dtype"), LISTED_KINDS)


def served(schedule: str, target: Target, dtype: str) -> list[Case]:
    found = [case for case in CASES if SCHEDULES[schedule].refuse(case.work(1, dtype), target) is None]
    assert len(found) > 10
    return found


def demand(schedule: str, target: Target, dtype: str, case: Case, *, batch: int, active: Active) -> list[Demand]:
    """Of every tile that is offered."""
    work = case.work(batch, dtype)
    plan = SCHEDULES[schedule]
    found = [plan.demand(work, target, choice, active) for choice in plan.choices(work, target)]
    assert all(len(phases) == 1 for phases in found)
    return [phases[0] for phases in found]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@KIND
def test_blocks_are_the_tiles_that_cover_what_is_on(schedule: str, target: Target, dtype: str, share: float) -> None:
    batch = 3
    for case in served(schedule, target, dtype):
        work = case.work(batch, dtype)
        p = problem_of(work)
        shares = batch if p.per_sample else 1
        rows = round(share * p.capacity / shares) * shares if p.rows else p.capacity
        on = round(share * p.decisions)
        active = Active(rows=float(rows) if p.rows else None, channels=float(on) if p.decisions else None)
        columns, groups, depth = p.group_columns, p.groups, p.depth
        if p.channels_out and p.groups == 1:
            columns = on * p.channels_out
        if p.channels_out and p.groups > 1:
            groups = on * p.channels_out // p.group_columns
        if p.channels_in and p.groups == 1:
            depth = p.taps * on * p.channels_in
        beside = p.masker if schedule == "conv-simt" else 0
        found = demand(schedule, target, dtype, case, batch=batch, active=active)
        for choice, one in zip(SCHEDULES[schedule].choices(work, target), found, strict=True):
            if "bm" not in choice:
                continue
            tall, every = (shares * -(-(some // shares) // choice["bm"]) for some in (rows, p.capacity))
            split = choice.get("split", 1)
            assert one.tasks == tall * groups * -(-(columns + beside) // choice["bn"]) * split
            blocks = every * p.groups * -(-(p.group_columns + beside) // choice["bn"]) * split
            assert one.idle_tasks == (0 if choice.get("resident") else blocks - one.tasks)
            wide = choice["bn"] + (8 if p.masker and not beside else 0)
            whole = choice.get("bk", 32 if dtype == "tf32" else 64)
            assert one.macs == choice["bm"] * wide * whole * -(-depth // (whole * split))
            assert one.threads % 32 == 0 < one.threads <= 1024


@EVERY_KIND
def test_every_byte_that_is_there_moves_at_full_rate(schedule: str, target: Target, dtype: str) -> None:
    size = {"float32": 4, "float16": 2, "tf32": 4}[dtype]
    for case in served(schedule, target, dtype):
        work = case.work(2, dtype)
        for one in demand(schedule, target, dtype, case, batch=2, active=Active()):
            assert one.written_bytes == sum(type_.nbytes for type_ in work.results)
            matrices = (shape for name, shape in work.spec.weights().items() if name.endswith("weight"))
            assert one.weight_bytes == size * sum(map(math.prod, matrices))
            assert one.read_bytes > 0


@pytest.mark.parametrize(("schedule", "target"), [kind[:2] for kind in (*KINDS[1:], *LISTED_KINDS)])
def test_bfloat16_asks_what_float16_asks_of_units_of_its_own(schedule: str, target: Target) -> None:
    for case in served(schedule, target, "bfloat16"):
        halves = demand(schedule, target, "float16", case, batch=2, active=Active())
        found = demand(schedule, target, "bfloat16", case, batch=2, active=Active())
        assert {one.unit for one in found} == {"tensor_bf16"}
        assert [replace(one, unit="tensor_fp16") for one in found] == halves


@pytest.mark.parametrize(("schedule", "target"), [kind[:2] for kind in (*KINDS[1:], *LISTED_KINDS)])
def test_tf32_moves_twice_the_bytes_of_float16_and_has_units_of_its_own(schedule: str, target: Target) -> None:
    for case in served(schedule, target, "tf32"):
        if SCHEDULES[schedule].refuse(case.work(2, "float16"), target) is None:
            work, halves = (case.work(2, dtype) for dtype in ("tf32", "float16"))
            offered = SCHEDULES[schedule].choices(halves, target)
            for choice in SCHEDULES[schedule].choices(work, target):
                if choice in offered:
                    half = SCHEDULES[schedule].demand(halves, target, choice, Active())[0]
                    one = SCHEDULES[schedule].demand(work, target, choice, Active())[0]
                    assert (one.unit, half.unit) == ("tensor_tf32", "tensor_fp16")
                    assert one.read_bytes == 2 * half.read_bytes
                    assert one.weight_bytes == 2 * half.weight_bytes


@EVERY_KIND
def test_more_rows_are_more_blocks_and_fewer_without_work(schedule: str, target: Target, dtype: str) -> None:
    """But a grid that walks over the tiles that are on has none without work."""
    for case in served(schedule, target, dtype):
        work = case.work(2, dtype)
        p = problem_of(work)
        if not p.rows:
            continue
        decided = sum(type_.nbytes for type_ in work.results[1:]) if p.deciding else 0
        steps = sorted({0, 1, p.capacity, *(p.capacity * step // 7 for step in range(7))})
        every = [demand(schedule, target, dtype, case, batch=2, active=Active(rows=rows)) for rows in steps]
        assert all(one.tasks == one.read_bytes == one.weight_bytes == 0 for one in every[0])
        assert all(one.written_bytes == decided for one in every[0])
        for less, more in pairwise(every):
            for one, other in zip(less, more, strict=True):
                assert other.tasks >= one.tasks
                if one.idle_tasks:
                    assert one.tasks + one.idle_tasks == other.tasks + other.idle_tasks


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@LISTED_KIND
def test_tiles_of_a_sample_are_as_deep_and_wide_as_its_list(
    schedule: str, target: Target, dtype: str, share: float
) -> None:
    batch = 3
    for case in CHANNELS:
        work = case.work(batch, dtype)
        p = problem_of(work)
        on = round(share * p.decisions)
        rows = p.pixels // 2 if p.rows else p.pixels
        columns = on * p.channels_out if p.channels_out else p.columns
        depth = p.taps * (on * p.channels_in if p.channels_in else p.channels)
        active = Active(rows=float(rows * batch) if p.rows else None, channels=float(on))
        found = demand(schedule, target, dtype, case, batch=batch, active=active)
        for choice, one in zip(SCHEDULES[schedule].choices(work, target), found, strict=True):
            across = math.ceil(columns / choice["bn"])
            walk = across if choice["walk"] else 1
            assert one.tasks == batch * math.ceil(rows / choice["bm"]) * across / walk
            every = batch * math.ceil(p.pixels / choice["bm"]) * math.ceil(p.columns / choice["bn"]) / walk
            assert one.tasks + one.idle_tasks == every
            deep = choice["bm"] * 64 * math.ceil(depth / 64)
            assert columns * deep <= one.macs * across / walk <= across * choice["bn"] * deep


def test_a_count_that_cuts_a_block_makes_it_narrower_with_wgmma_only() -> None:
    case = conv("cut", in_channels=512, out_channels=256, channels_out=16, size=(14, 14))
    for (schedule, target, dtype), widths in zip(LISTED_KINDS, ({128}, {32, 64}), strict=True):
        found = demand(schedule, target, dtype, case, batch=8, active=Active(channels=2.0))
        choices = SCHEDULES[schedule].choices(case.work(8, dtype), target)
        wide = [(one, choice) for one, choice in zip(found, choices, strict=True) if choice["bn"] >= 128]
        assert {one.macs / choice["bm"] / 512 for one, choice in wide} == widths
