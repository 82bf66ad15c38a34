"""How long each kernel of a network takes where it stands: between the others, with the caches as they leave them.

cpu     the clock around every call of a whole run, the median of many runs
cuda    a CUDA graph of some calls of one kernel, so that no launch from the host is in it; the median of replays
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from laudc.compiled import CompiledModel
from laudc.kernels.executable import Step
from laudc.timing import cuda_ms, interleaved_ms

_WARM_UP = 2
_IN_A_GRAPH = 10
_REPLAYS = 5


def step_us(compiled: CompiledModel, x: Tensor, masks: Mapping[str, Tensor], *, rounds: int) -> dict[str, float]:
    """Microseconds of every kernel call, by name, for these decisions."""
    if compiled.target.kind == "cuda":
        return _on_gpu(compiled, x, masks)
    seen: dict[str, list[float]] = {}

    def timed(step: Step, call: Callable[[], object]) -> None:
        start = time.perf_counter_ns()
        call()
        seen.setdefault(step.name, []).append((time.perf_counter_ns() - start) / 1e3)

    for number in range(_WARM_UP + rounds):
        if number == _WARM_UP:
            seen.clear()
        compiled.runner.walk(x, masks, timed)
    return {name: statistics.median(times) for name, times in seen.items()}


def side_by_side_us(calls: Mapping[str, Callable[[], object]], *, kind: str, rounds: int) -> dict[str, float]:
    """Median microseconds of calls that do the same work on the same buffers, interleaved; each was made before."""
    if kind == "cuda":
        graphs = {name: _graph_of(call) for name, call in calls.items()}
        samples = interleaved_ms(
            {name: _each_round(graph.replay) for name, graph in graphs.items()}, rounds=rounds, clock=cuda_ms
        )
        return {name: 1e3 * statistics.median(times) / _IN_A_GRAPH for name, times in samples.items()}
    samples = interleaved_ms({name: _each_round(call) for name, call in calls.items()}, rounds=rounds)
    return {name: 1e3 * statistics.median(times) for name, times in samples.items()}


def _each_round(call: Callable[[], object]) -> Callable[[int], object]:
    return lambda number: call()


def _graph_of(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Some calls in a row; the kernel was loaded by one before."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_IN_A_GRAPH):
            call()
    return graph


def block_us(compiled: CompiledModel, x: Tensor, masks: Mapping[str, Tensor], *, rounds: int) -> dict[str, float]:
    """The same by block, in order; what belongs to none is left out."""
    times = step_us(compiled, x, masks, rounds=rounds)
    blocks: dict[str, float] = {}
    for step in compiled.lowering.executable.steps:
        if step.block:
            blocks[step.block] = blocks.get(step.block, 0.0) + times[step.name]
    return blocks


def _on_gpu(compiled: CompiledModel, x: Tensor, masks: Mapping[str, Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}

    def timed(step: Step, call: Callable[[], object]) -> None:
        call()
        graph = _graph_of(call)
        times = []
        for _ in range(_REPLAYS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(1e3 * begin.elapsed_time(end) / _IN_A_GRAPH)
        found[step.name] = statistics.median(times)

    compiled.runner.walk(x, masks, timed)
    return found
