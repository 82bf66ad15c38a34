"""From demand to microseconds on a CPU, with constants that let a reader compute along."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laudc.latency._cpu import CpuConstants, cpu_time
from laudc.latency._time import Time, added
from laudc.schedules import Demand
from laudc.targets import TARGETS

CPU = replace(TARGETS["cpu"], sm_count=4, l2_kib=1000)
PLAIN = CpuConstants(
    macs_per_us=8000,
    on_chip_bytes_per_us=10_000,
    l2_bytes_per_us=20_000,
    steps_per_us=2000,
    cold_bytes_per_us=10_000,
    warm_bytes_per_us=100_000,
    spilled_bytes_per_us=25_000,
    cache_share=0.5,
    call_us=1,
    wake_us=5,
)


def us(demand: Demand) -> Time:
    return cpu_time(demand, CPU, PLAIN)


def test_the_busiest_core_counts() -> None:
    for tasks, turns in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        assert us(Demand(tasks=tasks, macs=8000)).compute_us == turns * 1.0


def test_what_is_not_shared_is_done_by_one_core() -> None:
    alone = us(Demand(tasks=8, macs=8000, parallel=False))
    assert (alone.compute_us, alone.launch_us) == (8.0, 1)


def test_other_cores_are_woken_where_there_is_more_than_one_task() -> None:
    assert us(Demand(tasks=1)).launch_us == 1
    assert us(Demand(tasks=2)).launch_us == 1 + 5


def test_a_second_phase_is_not_called_again() -> None:
    demand = Demand(tasks=2, steps=4000)
    first, second = (cpu_time(demand, CPU, PLAIN, called=called) for called in (True, False))
    assert first.total_us - second.total_us == PLAIN.call_us


def test_what_a_core_does_adds_up() -> None:
    found = us(Demand(tasks=4, macs=8000, on_chip_bytes=10_000, steps=2000, l2_bytes=20_000))
    assert found == Time(launch_us=1 + 5, compute_us=1.0, on_chip_us=1.0 + 1.0, l2_us=1.0)
    assert found.total_us == 10


def test_activations_come_from_the_cache_as_far_as_it_holds_them() -> None:
    """Half of 1000 KiB at its own speed, the rest at a quarter of it."""
    held = 512_000
    assert us(Demand(read_bytes=300_000, written_bytes=held - 300_000)).l2_us == pytest.approx(5.12)
    assert us(Demand(read_bytes=held, written_bytes=100_000)).l2_us == pytest.approx(5.12 + 4)


def test_weights_come_from_memory() -> None:
    assert us(Demand(weight_bytes=1_000_000)).dram_us == pytest.approx(100)


def test_repeats_share_the_call_and_the_bytes_and_nothing_else() -> None:
    one = us(Demand(tasks=4, macs=8000, weight_bytes=1_000_000, read_bytes=100_000))
    five = us(Demand(tasks=4, macs=8000, weight_bytes=1_000_000, read_bytes=100_000, repeats=5))
    assert five.dram_us == pytest.approx(one.dram_us)
    assert five.l2_us == pytest.approx(one.l2_us)
    assert five.compute_us == pytest.approx(5 * one.compute_us)
    assert five.launch_us == pytest.approx(1 + 5 * 5)


def test_a_cpu_that_nobody_measured_has_shares_of_its_own_peak() -> None:
    slow, fast = (CpuConstants.of(replace(CPU, clock_mhz=clock)) for clock in (1500, 3000))
    rates = ("macs_per_us", "on_chip_bytes_per_us", "l2_bytes_per_us", "steps_per_us")
    assert all(getattr(fast, name) == 2 * getattr(slow, name) for name in rates)
    assert slow.macs_per_us < CPU.fp32_lanes_per_sm * 1500


def test_times_add_and_the_largest_part_names_the_bound() -> None:
    one, other = Time(launch_us=1, dram_us=3), Time(compute_us=2, on_chip_us=2.5, l2_us=1)
    both = added((one, other.scaled(2)))
    assert both == Time(launch_us=1, compute_us=4, on_chip_us=5, l2_us=2, dram_us=3)
    assert (both.total_us, both.bound) == (15, "on-chip")
    assert [time.bound for time in (one, Time(l2_us=1), Time(compute_us=1), Time(launch_us=1))] == [
        "dram",
        "l2",
        "compute",
        "launch",
    ]
