"""How long each kernel of a network takes where it stands: between the others, with the caches as they leave them.

cpu     the clock around every call of a whole run, the median of many runs
cuda    a CUDA graph of the network with a mark behind each kernel, by the GPU's own clock; the mean of many replays

Where launches overlap, a kernel's time begins when all ahead of it is done and ends when it is. What it did before
that, beside the kernels ahead, is not in it. So the times of all kernels add up to the network's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from laudc.compiled import CompiledModel
from laudc.kernels.executable import Step
from laudc.kernels.marks import Marks
from laudc.kernels.replay import Replay
from laudc.kernels.run import overlapping
from laudc.timing import cuda_ms, interleaved_ms

_WARM_UP = 2
_IN_A_GRAPH = 10
LEAST_REPLAYS = 20
"""On a GPU."""


def step_us(compiled: CompiledModel, x: Tensor, masks: Mapping[str, Tensor], *, rounds: int) -> dict[str, float]:
    """Microseconds of every kernel call, by name, for these decisions. rounds: runs of all (GPU: at least 20)."""
    if compiled.target.kind == "cuda":
        return _on_gpu(compiled, x, masks, max(rounds, LEAST_REPLAYS))
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
    """The same by block, in order; what belongs to none is left out. 0 is a block too short to measure."""
    times = step_us(compiled, x, masks, rounds=rounds)
    blocks: dict[str, float] = {}
    for step in compiled.lowering.executable.steps:
        if step.block:
            blocks[step.block] = blocks.get(step.block, 0.0) + times[step.name]
    return blocks


def _on_gpu(compiled: CompiledModel, x: Tensor, masks: Mapping[str, Tensor], rounds: int) -> dict[str, float]:
    overlaps = overlapping(compiled.lowering.executable)
    with compiled.runner.held(x, masks) as steps:
        calls = [call for _, call in steps]
        each = _Marked(calls, range(len(calls)), overlapping=overlaps)
        ends = _Marked(calls, (0,), overlapping=overlaps)
        for _ in range(_WARM_UP + rounds):
            each()
            ends()
        times = unmarked_us(each.between_us(), ends.between_us())
    return dict(zip((step.name for step, _ in steps), times, strict=True))


def unmarked_us(each: np.ndarray, ends: np.ndarray) -> list[float]:
    """What the kernels take without the marks between them, together what all of them do: the marks' part is the same
    for each, but no more than all of it. 0 is a kernel too short to measure.

    each: (replays, kernels), microseconds from mark to mark. ends: (replays, 1), of all of them without marks between.
    """
    steps, whole = (_undisturbed(times) for times in (each, ends))
    marked, mark = steps, 0.0
    while len(marked):
        mark = float(marked.sum() - whole.sum()) / len(marked)
        longer = marked[marked > mark]
        if len(longer) == len(marked):
            break
        marked = longer
    return [max(0.0, float(step) - mark) for step in steps]


def _undisturbed(times: np.ndarray) -> np.ndarray:
    """The mean of those replays, warm, that took neither the shortest nor the longest."""
    order = np.argsort(times[_WARM_UP:].sum(1))
    quarter = len(order) // 4
    mean: np.ndarray = times[_WARM_UP:][order[quarter : len(order) - quarter]].mean(0)
    return mean


class _Marked:
    """Calls as one graph, with marks before some of them and behind the last."""

    def __init__(self, calls: Sequence[Callable[[], object]], marked: Collection[int], *, overlapping: bool) -> None:
        marks = Marks(len(calls) + 1, overlapping=overlapping)

        def launch() -> None:
            for index, call in enumerate(calls):
                if index in marked:
                    marks(index)
                call()
            marks(len(calls))

        self._places = [*sorted(marked), len(calls)]
        self._marks, self._replay = marks, Replay(launch, overlapping=overlapping)
        self._seen: list[Tensor] = []
        self._replay()

    def __call__(self) -> None:
        self._replay()
        self._seen.append(self._marks.ns.clone())

    def between_us(self) -> np.ndarray:
        """(calls of this, places - 1)."""
        times = torch.stack(self._seen)[:, self._places].cpu().numpy()
        return np.diff(times, axis=1) / 1e3
