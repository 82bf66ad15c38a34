"""What a kernel asks of a device in one call, in the device's own terms but not in its time.

A schedule states it beside the code it describes, from the same tile numbers; `laudc.latency` turns it into
microseconds. So the prediction cannot drift from what is compiled.

    phase   one launch on a GPU, one loop over the cores on a CPU; phases run one after another
    task    a piece that one multiprocessor or core does alone: a block of threads, a turn of the loop
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Active:
    """What is on in one call."""

    rows: float | None = None
    """Listed rows over the whole batch; None where there is no list."""
    channels: float | None = None
    """Listed channel groups of each sample; None where there is no list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One phase. Bytes and multiply-adds include what a tile pads."""

    unit: str = "fp32"
    """"fp32", "fp16" (outside the tensor cores), "tensor_fp16", "tensor_bf16" or "tensor_tf32"."""
    tasks: float = 1
    idle_tasks: float = 0
    """Blocks that find no work and leave."""
    macs: float = 0
    """Of one task."""
    on_chip_bytes: float = 0
    """A task moves within its core beside the operands of its multiply-adds: panels, sums that wait."""
    l2_bytes: float = 0
    """A task moves between its core and the cache that all share."""
    steps: float = 0
    """Instructions of a task that are no multiply-adds of a tile: list building, pooling, masks."""
    read_bytes: float = 0
    """The whole phase reads of activations, each byte once."""
    written_bytes: float = 0
    weight_bytes: float = 0
    """The whole phase reads of weights, each byte once."""
    threads: int = 0
    """Of a block."""
    shared_bytes: int = 0
    """Of a block."""
    registers: int = 0
    """Of a thread, as far as the tile decides; 0: few."""
    parallel: bool = True
    """On a CPU: whether all cores share it."""
    repeats: float = 1
    """How often the phase runs, one time after another."""
    chain: int = 0
    """On a GPU: copied steps of a task that follow each other through shared memory, each an equal share of its macs
    and l2_bytes. 0: the loop is not of that kind."""
    alternating: bool = False
    """Whether a step's copies wait for the multiply-adds of the one before; else they hide each other."""
    ahead: int = 1
    """Steps of a chain that are being copied while one is multiplied."""
    listed: bool = False
    """Whether a task with a chain works by lists of its own sample, which it reads first."""
    settled: bool = False
    """Whether a task with a chain finds its rows, by decisions that were made, before the kernel ahead is done."""
    finish_bytes: float = 0
    """What a task with a chain moves behind its loop: sums put down, added up, read back, stored."""
    cluster: int = 1
    """Tasks that are placed together and meet."""
    efficiency: float = 1.0
    """Speed of this tile's multiply-adds where there is work enough, against the best tile of its schedule."""
