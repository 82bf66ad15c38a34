"""Microseconds of a demand on a GPU: its multiprocessors and its memories work at the same time.

    phase         launch + start + max(deals * task on one multiprocessor, l2 bytes / l2, dram bytes / dram, all blocks)
    with a chain  launch + placing + first + busy and memory, of which the shorter hides but for 1 / blocks at once

The blocks are dealt out over the multiprocessors, so the busiest gets ceil(blocks / multiprocessors) of them (the
staircase in the number of active rows). A block that finds no work still has to be handed out. As many run on it at
once as shared memory, registers and threads leave room for; with too few warps its waits show. The part that is
longest counts, the others hide behind it. A block with a chain copies, multiplies and stores in turns: while one waits
for memory only its neighbours on the multiprocessor work on.

Where launches overlap, a kernel's time begins when those ahead of it are done; it has been placed by then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from laudc.errors import TargetError
from laudc.kernels.overlap import FIRST_ARCH
from laudc.latency._time import Time
from laudc.targets import Target

if TYPE_CHECKING:
    from laudc.schedules import Demand

_WARP = 32
_BLOCK_KIB = 1.0
"""Shared memory that the system takes for each block."""
_ENOUGH_WARPS = 8
_OVERLAPPED_LAUNCH_US = 0.7
"""One more kernel in a graph whose launches overlap, in place of the target's launch_us. On an H200; empty ones .55."""
_SETTLED_US = 0.9
"""Of `task_us`, what a kernel has done before those ahead of it are. On an H200."""
_UNPLACED_US = 0.95
"""Of a settled kernel none of whose samples is on: until it is placed, behind one that was done at once. On an H200."""
_STRAY = 3
"""Multiprocessors, times the size of a cluster, that stay empty because clusters do not go across the chip's parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaConstants:
    """What a data sheet does not tell. The defaults are estimates; `calibrate` fits them on a device."""

    kept: ClassVar[frozenset[str]] = frozenset({"listed_us"})
    """What is not fitted: in a network the weights that a list names come from memory, and cannot be asked for before
    the list is there; kernels that are measured again and again by themselves find them in the cache."""

    fp32_share: float = 0.6
    """Of the peak outside the tensor cores that the best tile reaches."""
    tensor_share: float = 1.12
    """Of the peak of the tensor cores that the best tile reaches."""
    waiting_share: float = 0.7
    """What is left where too few warps are resident to hide waits."""
    on_chip_bytes_per_clock: float = 128.0
    """Of one multiprocessor."""
    steps_per_clock: float = 48.0
    """Instructions of single threads a clock, on one multiprocessor."""
    dram_share: float = 0.85
    l2_share: float = 0.7
    start_us: float = 1.5
    """From the launch of a kernel until its blocks compute, and from the last result until the next may start."""
    block_clocks: float = 0.65
    """Handing out one block, with work or without: what blocks that find none cost; others hide it."""
    task_us: float = 1.01
    """Of a kernel with chains: until the first product, and from the last one to the end. In between blocks hide it."""
    listed_us: float = 1.6
    """Of a block with a chain that works by its sample's own lists: until it knows what to copy."""
    step_clocks: float = 44.0
    """A step of a chain, beside its copies and its multiply-adds: barriers."""
    wait_us: float = 0.83
    """From asking for a step's operands until they are there, where nothing else asks."""
    tile_l2_share: float = 2.04
    """Of a multiprocessor's part of the cache's speed, what copies reach; neighbours ask for the same lines."""
    finish_bytes_per_clock: float = 17.3
    """Of a multiprocessor, behind a chain."""
    chained_l2_share: float = 3.77
    """Of the cache's speed, what the copies of all chains reach together; clusters and neighbours share some."""
    chained_dram_share: float = 1.33
    """What kernels with chains reach while they move; that they stand still in between is counted beside it."""
    meeting_us: float = 0.99
    """The blocks of a cluster wait for each other."""
    placing_clocks: float = 1720.0
    """Of a block with a chain and work, on its place in a multiprocessor."""
    idle_clocks: float = 789.0
    """Of one that finds none."""


def cuda_time(demand: Demand, target: Target, constants: CudaConstants) -> Time:
    """One phase, all its repeats. TargetError where a block does not fit the multiprocessor."""
    c, clock = constants, target.clock_mhz
    resident = resident_blocks(demand, target)
    if demand.chain:
        return _chained(demand, target, constants, resident).scaled(demand.repeats)
    deals = math.ceil(demand.tasks / target.sm_count)
    busy = _with_waits(deals, resident, demand.threads, c) if demand.macs else deals
    compute = busy * demand.macs / (_macs_per_clock(demand, target, c) * demand.efficiency * clock)
    on_chip = deals * (
        demand.on_chip_bytes / (c.on_chip_bytes_per_clock * clock) + demand.steps / (c.steps_per_clock * clock)
    )
    moved = demand.read_bytes + demand.written_bytes + demand.weight_bytes
    l2 = max(moved, demand.tasks * demand.l2_bytes) / (target.l2_gb_per_s * c.l2_share * 1e3)
    dram = _bytes_beyond(demand, target) / (target.dram_gb_per_s * c.dram_share * 1e3)
    handing_out = (demand.tasks + demand.idle_tasks) * c.block_clocks / clock
    longest = max(compute, on_chip, l2, dram, handing_out)
    return Time(
        launch_us=_launch_us(target) + c.start_us + (longest if longest == handing_out else 0.0),
        compute_us=longest if longest == compute != handing_out else 0.0,
        on_chip_us=longest if longest == on_chip not in (handing_out, compute) else 0.0,
        l2_us=longest if longest == l2 not in (handing_out, compute, on_chip) else 0.0,
        dram_us=longest if longest == dram not in (handing_out, compute, on_chip, l2) else 0.0,
    ).scaled(demand.repeats)


def _chained(demand: Demand, target: Target, c: CudaConstants, resident: int) -> Time:
    """Blocks that copy and multiply step by step: what a multiprocessor gets through, or how long its blocks take one
    behind the other, `resident` of them at a time."""
    clock = target.clock_mhz
    multiplied = demand.macs / (_macs_per_clock(demand, target, c) * demand.efficiency * clock)
    part = target.l2_gb_per_s * c.tile_l2_share * 1e3 / target.sm_count
    copied = demand.l2_bytes / (part * demand.efficiency)
    finished = demand.finish_bytes / (c.finish_bytes_per_clock * clock)
    work = max(multiplied, copied)
    waited = max(copied, demand.chain * c.wait_us / demand.ahead)
    alone = multiplied + waited if demand.alternating else max(multiplied, waited)
    alone += c.listed_us * demand.listed + demand.chain * c.step_clocks / clock + finished
    places = target.sm_count
    if demand.cluster > 1:
        alone += c.meeting_us
        places -= _STRAY * demand.cluster
    deals = math.ceil(demand.tasks / places)
    first = max(0.0, c.task_us - _SETTLED_US * demand.settled)
    busy = first + max(deals * (work + finished), math.ceil(deals / resident) * alone) if deals else 0.0
    l2 = demand.tasks * (demand.l2_bytes + demand.finish_bytes) / (target.l2_gb_per_s * c.chained_l2_share * 1e3)
    dram = _bytes_beyond(demand, target) / (target.dram_gb_per_s * c.chained_dram_share * 1e3)
    placing = demand.tasks * c.placing_clocks + demand.idle_tasks * c.idle_clocks
    moved = max(l2, dram)
    shown = min(busy, moved) / max(1, min(resident, deals))
    return Time(
        launch_us=_launch_us(target)
        + (_UNPLACED_US if demand.settled and not deals else 0.0)
        + placing / (target.sm_count * resident * clock),
        compute_us=busy + shown if busy >= moved and multiplied >= copied else 0.0,
        l2_us=busy + shown if busy >= moved and multiplied < copied else moved + shown if l2 > max(busy, dram) else 0.0,
        dram_us=moved + shown if dram > busy and dram >= l2 else 0.0,
    )


def _launch_us(target: Target) -> float:
    """What one more kernel of a graph takes before it does anything."""
    return _OVERLAPPED_LAUNCH_US if target.capability >= FIRST_ARCH else target.launch_us


def _bytes_beyond(demand: Demand, target: Target) -> float:
    """What comes from memory: the weights, and of the rest nothing where it fills half of the cache, all where it
    fills the whole: what is read again first was written first, and is the first to be gone."""
    moved, half = demand.read_bytes + demand.written_bytes, target.l2_kib * 1024 / 2
    return demand.weight_bytes + moved * min(1.0, max(0.0, moved / half - 1))


def _with_waits(deals: int, resident: int, threads: int, c: CudaConstants) -> float:
    """Blocks in the time of as many that hide their waits; some more blocks never take less time than some."""
    too_few = math.ceil(_ENOUGH_WARPS * _WARP / max(threads, _WARP)) - 1
    shown = deals if resident <= too_few else min(deals, too_few)
    return max(deals, shown / c.waiting_share)


def resident_blocks(demand: Demand, target: Target) -> int:
    """How many blocks of it a multiprocessor holds at once."""
    threads = max(demand.threads, _WARP)
    limits = {
        "threads": target.max_threads_per_sm // threads,
        "blocks": target.max_blocks_per_sm,
    }
    if demand.shared_bytes:
        kib = demand.shared_bytes / 1024
        fits = kib <= target.shared_memory_per_block_kib
        limits["shared memory"] = int(target.shared_memory_per_sm_kib // (kib + _BLOCK_KIB)) if fits else 0
    if demand.registers:
        limits["registers"] = target.registers_per_sm // (demand.registers * threads)
    scarce = min(limits, key=lambda name: limits[name])
    if not limits[scarce]:
        raise TargetError(
            f"a block of {threads} threads and {demand.shared_bytes} bytes of shared memory does not fit {target.name}",
            f"choose a smaller tile: the {scarce} of a multiprocessor are too few",
        )
    return limits[scarce]


def _macs_per_clock(demand: Demand, target: Target, c: CudaConstants) -> float:
    """Of one multiprocessor, by the best tile."""
    if demand.unit.startswith("tensor_"):
        flops: float = getattr(target, f"{demand.unit}_flops_per_clock_per_sm")
        if not flops:
            raise TargetError(f"{target.name} has no {demand.unit} units", "choose another data type")
        return flops / 2 * c.tensor_share
    if demand.unit == "fp16":
        return target.fp16_flops_per_clock_per_sm / 2 * c.fp32_share
    return target.fp32_lanes_per_sm * c.fp32_share
