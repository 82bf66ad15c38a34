"""From demand to microseconds on a GPU, with a device and constants that let a reader compute along."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from laudc.errors import TargetError
from laudc.latency._cuda import CudaConstants, cuda_time, resident_blocks
from laudc.latency._time import Time
from laudc.schedules import Demand
from laudc.targets import TARGETS, Target

# 1000 clocks a microsecond, 100 multiply-adds a clock on each of 10 multiprocessors
GPU = replace(
    TARGETS["a100"],
    sm_count=10,
    clock_mhz=1000,
    fp32_lanes_per_sm=100,
    fp16_flops_per_clock_per_sm=400,
    tensor_fp16_flops_per_clock_per_sm=2000,
    tensor_bf16_flops_per_clock_per_sm=0,
    tensor_tf32_flops_per_clock_per_sm=1000,
    dram_gb_per_s=100,
    l2_gb_per_s=1000,
    l2_kib=1000,
    launch_us=2,
)
PLAIN = CudaConstants(
    fp32_share=1,
    tensor_share=1,
    waiting_share=0.5,
    on_chip_bytes_per_clock=10,
    steps_per_clock=20,
    dram_share=1,
    l2_share=1,
    start_us=3,
    block_clocks=1,
)
BUSY = Demand(threads=256, macs=100_000)
"""A microsecond a block."""


def us(demand: Demand) -> Time:
    return cuda_time(demand, GPU, PLAIN)


def test_blocks_are_dealt_out() -> None:
    for tasks, deals in ((0, 0), (1, 1), (10, 1), (11, 2), (95, 10)):
        found = us(replace(BUSY, tasks=tasks))
        assert (found.compute_us, found.total_us) == (deals, 5 + deals)


def test_each_unit_has_its_own_speed() -> None:
    for unit, share in (("fp32", 1), ("fp16", 2), ("tensor_fp16", 10), ("tensor_tf32", 5)):
        assert us(replace(BUSY, unit=unit)).compute_us == 1 / share
    assert us(replace(BUSY, efficiency=0.8)).compute_us == pytest.approx(1.25)
    with pytest.raises(TargetError, match="no tensor_bf16 units"):
        us(replace(BUSY, unit="tensor_bf16"))


def test_too_few_warps_show_their_waits() -> None:
    thin = replace(BUSY, threads=64)
    times = [us(replace(thin, tasks=10 * deals)).compute_us for deals in range(1, 9)]
    assert times == [2, 4, 6, 6, 6, 6, 7, 8]  # of 2 warps each, four hide all waits
    wide = replace(thin, shared_bytes=60 * 1024)
    assert resident_blocks(wide, GPU) == 2
    assert us(replace(wide, tasks=80)).compute_us == 16  # never more than two at once


def test_the_longest_part_hides_the_others() -> None:
    demand = replace(BUSY, tasks=10, on_chip_bytes=30_000, l2_bytes=500_000)
    assert us(demand) == Time(launch_us=5, l2_us=5)
    assert us(replace(demand, l2_bytes=0)) == Time(launch_us=5, on_chip_us=3)
    assert us(replace(demand, weight_bytes=600_000)) == Time(launch_us=5, dram_us=6)
    assert us(replace(BUSY, steps=40_000)) == Time(launch_us=5, on_chip_us=2)


def test_memory_is_asked_for_what_the_cache_does_not_hold() -> None:
    half = 512_000
    assert us(Demand(tasks=0, read_bytes=half)).dram_us == 0
    assert us(Demand(tasks=0, read_bytes=half, written_bytes=half / 4)).dram_us == pytest.approx(1.25 * 5.12 / 4)
    assert us(Demand(tasks=0, read_bytes=2 * half)).dram_us == pytest.approx(2 * 5.12)
    assert us(Demand(tasks=0, read_bytes=3 * half)).dram_us == pytest.approx(3 * 5.12)
    assert us(Demand(tasks=0, read_bytes=half, weight_bytes=300_000)).dram_us == pytest.approx(3)


def test_a_block_without_work_is_handed_out_all_the_same() -> None:
    def split(on: int) -> Time:
        return us(replace(BUSY, tasks=on, idle_tasks=4000 - on))

    assert split(0) == split(10) == split(40) == Time(launch_us=5 + 4)
    assert split(50) == Time(launch_us=5, compute_us=5)
    times = [split(on).total_us for on in range(0, 4001, 5)]
    assert all(more >= less for less, more in pairwise(times))


@pytest.mark.parametrize(
    ("demand", "blocks", "scarce"),
    [
        (Demand(threads=256), 8, "threads"),
        (Demand(threads=32), 32, "blocks"),
        (Demand(threads=128, shared_bytes=40 * 1024), 4, "shared memory"),
        (Demand(threads=128, registers=128), 4, "registers"),
    ],
)
def test_as_many_blocks_are_resident_as_the_scarce_resource_leaves_room_for(
    demand: Demand, blocks: int, scarce: str
) -> None:
    assert resident_blocks(demand, GPU) == blocks


@pytest.mark.parametrize(
    ("demand", "scarce"),
    [
        (Demand(threads=2080), "threads"),
        (Demand(threads=128, shared_bytes=163 * 1024 + 1), "shared memory"),
        (Demand(threads=1024, registers=65), "registers"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(demand: Demand, scarce: str) -> None:
    with pytest.raises(TargetError, match=f"does not fit a100; choose a smaller tile: the {scarce} of a"):
        us(demand)


def test_repeats_are_launched_one_after_another() -> None:
    assert us(replace(BUSY, tasks=10, repeats=3)) == Time(launch_us=15, compute_us=3)


CHAINED = replace(
    PLAIN,
    task_us=0.5,
    step_clocks=100,
    tile_l2_share=1,
    chained_l2_share=1,
    chained_dram_share=1,
    finish_bytes_per_clock=10,
    placing_clocks=200,
    idle_clocks=50,
    listed_us=0.25,
    wait_us=0.001,
)
CHAIN = Demand(unit="tensor_fp16", threads=512, macs=1_000_000, chain=4, tasks=10, registers=64)
"""A microsecond of products and .4 of barriers a block, two at once."""


def chained(demand: Demand, target: Target = GPU) -> Time:
    return cuda_time(demand, target, CHAINED)


def test_a_chain_is_waited_for_or_its_products_are() -> None:
    assert resident_blocks(CHAIN, GPU) == 2
    one = chained(CHAIN)
    assert one.compute_us == pytest.approx(0.5 + 1.4)
    assert one.launch_us == pytest.approx(2 + 10 * 0.2 / 20)
    assert chained(replace(CHAIN, tasks=20)).compute_us == pytest.approx(0.5 + 2)  # two hide each other's barriers
    assert chained(replace(CHAIN, tasks=30)).compute_us == pytest.approx(0.5 + 3)
    slow = replace(CHAIN, chain=20)
    assert [chained(replace(slow, tasks=n)).compute_us for n in (10, 20, 30)] == pytest.approx([3.5, 3.5, 6.5])


def test_a_step_is_waited_for_unless_enough_of_them_are_ahead() -> None:
    slow = replace(CHAINED, wait_us=0.6)
    alone = cuda_time(CHAIN, GPU, slow).total_us - chained(CHAIN).total_us
    assert alone == pytest.approx(4 * 0.6 - 1)  # in place of a microsecond of products, which hide behind it
    assert cuda_time(replace(CHAIN, ahead=3), GPU, slow).total_us == pytest.approx(chained(CHAIN).total_us)
    turns = replace(CHAIN, alternating=True)
    added = cuda_time(turns, GPU, slow).total_us - cuda_time(turns, GPU, CHAINED).total_us
    assert added == pytest.approx(4 * (0.6 - 0.001))
    busy = replace(CHAIN, tasks=40)
    assert cuda_time(busy, GPU, slow).total_us < 4 * cuda_time(CHAIN, GPU, slow).total_us


def test_a_chain_begins_when_its_lists_are_read() -> None:
    listed = replace(CHAIN, listed=True)
    assert chained(listed).compute_us == pytest.approx(0.5 + 1.65)
    assert chained(replace(listed, tasks=0)).compute_us == 0


def test_what_waits_for_memory_hides_behind_the_neighbours_on_the_multiprocessor() -> None:
    busy = 0.5 + 1.4
    alone = chained(replace(CHAIN, weight_bytes=500_000))
    assert (alone.dram_us, alone.compute_us) == (pytest.approx(5 + busy), 0)  # no neighbour
    two = chained(replace(CHAIN, tasks=20, weight_bytes=500_000))
    assert two.dram_us == pytest.approx(5 + 2.5 / 2)
    little = chained(replace(CHAIN, tasks=20, weight_bytes=100_000))
    assert (little.compute_us, little.dram_us) == (pytest.approx(2.5 + 1 / 2), 0)
    times = [chained(replace(CHAIN, tasks=20, weight_bytes=1000 * k)).total_us for k in range(0, 800, 7)]
    assert all(more >= less for less, more in pairwise(times))


def test_all_chains_share_the_cache() -> None:
    wide = replace(CHAIN, tasks=40, finish_bytes=50_000)
    assert chained(wide).compute_us == pytest.approx(0.5 + 4 * 6 + 2 / 2)  # 2 MB at 1 MB/us
    crowded = cuda_time(replace(wide, l2_bytes=50_000), GPU, replace(CHAINED, tile_l2_share=10, chained_l2_share=0.1))
    assert crowded.l2_us == pytest.approx(40 + 24.5 / 2)


def test_a_block_of_a_chain_without_work_takes_its_place_for_a_shorter_time() -> None:
    idle = chained(replace(CHAIN, tasks=0, idle_tasks=100))
    assert idle == Time(launch_us=2 + 100 * 0.05 / 20)
    assert chained(replace(CHAIN, tasks=10, idle_tasks=100)).launch_us == pytest.approx(2 + (2 + 5) / 20)


def test_where_launches_overlap_one_more_takes_less() -> None:
    hopper = replace(GPU, arch="sm_90a")
    assert chained(CHAIN).total_us - chained(CHAIN, hopper).total_us == pytest.approx(2 - 0.7)
    assert us(BUSY).total_us - cuda_time(BUSY, hopper, CHAINED).total_us == pytest.approx(2 - 0.7)
