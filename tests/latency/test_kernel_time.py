"""The time of one kernel on a device, from what its schedule asks; for every kernel that small networks need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from laudc.errors import BuildError, TargetError
from laudc.latency import kernel as pricing
from laudc.latency.constants import defaults
from laudc.latency.kernel import expected_time, latency
from laudc.latency.network import NetworkModel
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Active, Work
from laudc.targets import TARGETS
from laudc.types import TensorType

Model = Callable[..., NetworkModel]
SPEC = Conv2dSpec(in_channels=256, out_channels=256, kernel=(3, 3), padding=(1, 1, 1, 1), rows=True, bias=True)
BATCH = 8


def types(dtype: str = "float32", batch: int = BATCH) -> tuple[TensorType, ...]:
    x = TensorType(shape=(batch, 256, 28, 28), dtype=dtype)
    return (x, TensorType(shape=(batch + 1 + batch * 28 * 28,), dtype="int32"))


@pytest.mark.parametrize(
    "target",
    [name if name in ("cpu", "v100", "h200") else pytest.param(name, marks=pytest.mark.slow) for name in TARGETS],
)
def test_every_kernel_of_a_network_says_what_it_asks(model: Model, target: str) -> None:
    seen: Counter[str] = Counter()
    for paradigm in ("spatial", "layer", "channel"):
        for call in model("tiny", target, 2, paradigm, None).calls:
            kernel = call.kernel
            phases = SCHEDULES[kernel.schedule].demand(kernel.work, kernel.target, kernel.choice, Active())
            numbers = [value for phase in phases for value in asdict(phase).values() if not isinstance(value, str)]
            assert all(math.isfinite(value) and value >= 0 for value in numbers), call.name
            written = sum(phase.written_bytes for phase in phases)
            assert written >= sum(type_.nbytes for type_ in kernel.work.results), call.name
            seen[kernel.schedule] += 1
    own = {"conv-cpu", "masks"} if target == "cpu" else {"conv-simt"}
    assert {"global-pooling", "lists", "maskers", "pooling", *own} <= seen.keys()


def test_what_no_list_names_is_not_moved(model: Model) -> None:
    """By any kernel that reads a list of rows."""
    found = 0
    for target in ("cpu", "v100", "h200"):
        for call in model("tiny", target, 2, "spatial", None).calls:
            work = call.kernel.work
            if "rows" in work.spec.operands:
                plan = SCHEDULES[call.kernel.schedule]
                phases = plan.demand(work, call.kernel.target, call.kernel.choice, Active(rows=0))
                assert sum(phase.read_bytes + phase.written_bytes for phase in phases) == 0, call.name
                found += 1
    assert found > 20


@pytest.mark.parametrize("target", ["cpu", "v100", "jetson-tx2", "h200"])
@pytest.mark.parametrize("units", [None, 1, BATCH])
def test_a_kernel_takes_longer_the_more_is_on(target: str, units: int | None) -> None:
    device = TARGETS[target]
    times = [
        latency(SPEC, types(device.default_dtype), device, (step / 20, 1.0), units=units).total_us for step in range(21)
    ]
    assert all(more >= less * (1 - 1e-12) for less, more in pairwise(times))
    assert times[-1] > 2 * times[0] > 0


def test_on_a_gpu_the_time_is_a_staircase_in_the_active_rows() -> None:
    """A step is as many tiles of rows as all multiprocessors take at once."""
    device = TARGETS["v100"]
    work = Work(spec=SPEC, operands=types(), results=SPEC.results(types()))
    choice = next(
        one for one in SCHEDULES["conv-simt"].choices(work, device) if one["tm"] == one["tn"] == 4 and one["bn"] == 64
    )
    constants = defaults(device).constants

    def us(rows: int) -> float:
        case = ((1.0, Active(rows=rows)),)
        return expected_time("conv-simt", work, choice, device, constants, case).compute_us

    rows_a_step = choice["bm"] * device.sm_count // (256 // 64)
    assert rows_a_step * 2 < BATCH * 28 * 28
    one_step = us(1)
    assert us(rows_a_step) == one_step
    assert us(rows_a_step + 1) == us(2 * rows_a_step) == 2 * one_step
    assert us(2 * rows_a_step + 1) == 3 * one_step


@pytest.mark.parametrize("target", ["a100", "h200", "rtx3060"])
def test_bfloat16_takes_as_long_as_float16(target: str) -> None:
    half, brain = (latency(SPEC, types(dtype), TARGETS[target], (0.3, 1.0)) for dtype in ("float16", "bfloat16"))
    assert brain.total_us == half.total_us > 0


def test_the_same_question_has_the_same_answer_to_the_last_bit() -> None:
    def answers() -> list[str]:
        return [
            latency(SPEC, types(TARGETS[name].default_dtype), TARGETS[name], (0.37, 1.0)).total_us.hex()
            for name in TARGETS
        ]

    first = answers()
    pricing._time.cache_clear()
    assert answers() == first


@pytest.mark.parametrize(
    ("facts", "scarce"),
    [
        ({"shared_memory_per_block_kib": 48}, "shared memory"),
        ({"registers_per_sm": 16384, "registers_per_block": 16384}, "registers"),
    ],
)
def test_a_tile_that_does_not_fit_is_refused_and_the_scarce_resource_named(facts: dict[str, int], scarce: str) -> None:
    device = TARGETS["a100"]
    operands = types("float16")
    work = Work(spec=SPEC, operands=operands, results=SPEC.results(operands))
    large = max(SCHEDULES["conv-mma"].choices(work, device), key=lambda one: one["bm"] * one["bn"])
    small = replace(device, **facts)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=f"does not fit a100; choose a smaller tile: the {scarce} of a"):
        expected_time("conv-mma", work, large, small, defaults(small).constants, ((1.0, Active()),))


def test_a_tile_that_is_not_offered_is_refused() -> None:
    with pytest.raises(BuildError, match=r"conv-simt has no tile \{'bm': 7\}"):
        latency(SPEC, types(), TARGETS["v100"], choice={"bm": 7})


def test_a_choice_is_priced_as_it_is() -> None:
    device = TARGETS["v100"]
    work = Work(spec=SPEC, operands=types(), results=SPEC.results(types()))
    first, *others = SCHEDULES["conv-simt"].choices(work, device)
    assert latency(SPEC, types(), device) == latency(SPEC, types(), device, choice=first)
    assert all(latency(SPEC, types(), device, choice=other) != latency(SPEC, types(), device) for other in others)


def test_channels_that_are_off_save_time_on_both_sides() -> None:
    spec = replace(SPEC, rows=False, channels_in=64, channels_out=64)
    lists = (TensorType(shape=(BATCH, 256, 28, 28), dtype="float32"), TensorType(shape=(BATCH, 5), dtype="int32"))
    for target in ("cpu", "v100"):
        full, half = (latency(spec, lists, TARGETS[target], (1.0, rate)).total_us for rate in (1.0, 0.5))
        assert 0.25 < half / full < 0.55


def test_a_part_of_the_network_without_lists_takes_the_same_at_any_rate() -> None:
    spec = replace(SPEC, rows=False)
    dense = latency(spec, types()[:1], TARGETS["v100"], (1.0, 1.0))
    assert latency(spec, types()[:1], TARGETS["v100"], (0.1, 0.1)) == dense
    listed = latency(SPEC, types(), TARGETS["v100"], (1.0, 1.0))
    assert listed.total_us == pytest.approx(dense.total_us, rel=0.01)


def test_what_every_case_costs_alike_is_not_rounded() -> None:
    """A mean of equal times is that time, to the last bit, however many cases there are."""
    work = Work(spec=SPEC, operands=types(), results=SPEC.results(types()))
    device = TARGETS["v100"]
    choice = SCHEDULES["conv-simt"].choices(work, device)[0]
    constants = defaults(device).constants
    alone = expected_time("conv-simt", work, choice, device, constants, ((1.0, Active(rows=5)),))
    thirds = ((1 / 3, Active(rows=4)), (1 / 3, Active(rows=5)), (1 / 3, Active(rows=6)))
    assert expected_time("conv-simt", work, choice, device, constants, thirds) == alone
