"""Which tile of each kernel is fastest on the device that is here: the best candidates by prediction, timed.

The network runs at a rate, and where a kernel comes its candidates take its place one after another: on the same
operands and lists, between the caches that the others leave. Only what agrees with the reference is timed. What was
found is kept at once, so whatever ends this ends no more than the kernel at hand.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from laudc.compiled import CompiledModel
from laudc.errors import BuildError, ToolchainError
from laudc.kernels.build import Binary, build_all
from laudc.kernels.executable import Step
from laudc.kernels.kernel import Kernel, Tile, offers_key
from laudc.kernels.run import Visit, load_functions
from laudc.latency.constants import calibration_for
from laudc.latency.measure import side_by_side_us
from laudc.latency.network import lists_at
from laudc.latency.search import candidates
from laudc.latency.tuned import Timed, Tuned, band_of, key_of, type_words
from laudc.rates import stratified_masks
from laudc.reference import BARS, expected_results, kernel_error

RATES = (0.25, 0.5, 0.75, 1.0)
_MOST = 10
"""Tiles of one kernel, the default among them."""
MARGIN = 0.03
"""How much faster another tile has to be before it replaces the default."""
_ROUNDS = 20
_TOGETHER = 8
"""Kernels whose tiles are built at once, and then timed in one run of the network."""
DEFAULT = 0
"""Its index among a task's tiles."""

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One kernel in one band of rates."""

    model: CompiledModel
    """The first that has it; and so is the step."""
    step: str
    kernel: Kernel
    band: str
    tiles: tuple[Tile, ...]
    """The default first."""
    rate: float
    """Of the maskers, for its lists to be so."""

    @property
    def kernels(self) -> list[Kernel]:
        """As each of the tiles has it."""
        return [replace(self.kernel, schedule=tile.schedule, choice=tile.choice) for tile in self.tiles]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fastest:
    """One of a task's tiles, by its index; medians in microseconds."""

    index: int
    us: float
    default_us: float


@dataclass(kw_only=True)
class Outcome:
    """What came of it, in kernels."""

    timed: list[tuple[Kernel, Timed]] = field(default_factory=list)
    """Each with its fastest tile."""
    known: int = 0
    """Timed before."""
    unsure: int = 0
    """Whose default does not agree with the reference on this network's values."""
    left: int = 0
    """For which the time was too short."""


def tune(
    models: Sequence[CompiledModel],
    store: Tuned,
    *,
    rates: Sequence[float] = RATES,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Outcome:
    """Time what is not in the store, and keep it there. The models' target is here, and nobody else uses it.

    rates: of all maskers; each fills the bands that no earlier one did. minutes: after so many no kernel is begun.
    """
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    tasks, known = tasks_of(models, store, rates)
    tuner = _Tuner(store=store, until=until, say=say, total=len(tasks), outcome=Outcome(known=known))
    for group in _groups(tasks):
        tuner.take(group)
    return tuner.outcome


def tasks_of(models: Sequence[CompiledModel], store: Tuned, rates: Sequence[float]) -> tuple[list[Task], int]:
    """What is to be timed, each kernel and band once, by model and rate; and how many of them the store has."""
    calibration = calibration_for(store.target)
    tasks: dict[str, Task] = {}
    known = set()
    for model, rate in itertools.product(models, rates):
        lowered = model.lowering.lowered
        nodes, cases_of = {node.name: node for node in lowered.nodes}, lists_at(lowered, rate)
        for step in model.lowering.executable.steps:
            kernel, cases = step.kernel, cases_of(nodes[step.name])
            band = band_of(kernel.work, kernel.batch, cases)
            key = key_of(kernel.work, band)
            if key in tasks or key in known:
                continue
            tiles = tuple(candidates(kernel.work, store.target, calibration, cases, most=_MOST))
            if len(tiles) < 2:
                continue
            if store.tile(kernel.work, kernel.batch, cases) is not None:
                known.add(key)
            else:
                tasks[key] = Task(model=model, step=step.name, kernel=kernel, band=band, tiles=tiles, rate=rate)
    return list(tasks.values()), len(known)


def _groups(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """Of one model at one rate each, in order."""
    for _, same in itertools.groupby(tasks, key=lambda task: (id(task.model), task.rate)):
        alike = list(same)
        yield from (alike[start : start + _TOGETHER] for start in range(0, len(alike), _TOGETHER))


@dataclass(kw_only=True)
class _Tuner:
    store: Tuned
    until: float
    say: Callable[[str], None]
    total: int
    outcome: Outcome

    def take(self, group: Sequence[Task]) -> None:
        """Build what these tasks ask for, then time it in one run of their network."""
        if self._is_late():
            self.outcome.left += len(group)
            return
        self._tell("building")
        binaries = _built([kernel for task in group for kernel in task.kernels])
        tasks = {task.step: task for task in group}

        def visit(step: Step, call: Call) -> None:
            if step.name in tasks:
                self._time(step, tasks[step.name], binaries)
            call()

        _walk(group[0].model, group[0].rate, visit)

    def _time(self, step: Step, task: Task, binaries: Mapping[str, Binary]) -> None:
        if self._is_late():
            self.outcome.left += 1
            return
        self._tell(f"timing {step.name}")
        calls = right_calls(task, step, binaries)
        if DEFAULT not in calls:
            self.outcome.unsure += 1
            return
        with task.model.runner.restored():
            found = fastest(calls, kind=task.model.target.kind)
        timed = _timed(task, found, len(calls), self.store)
        self.store.keep(task.kernel.work, timed)
        self.outcome.timed.append((task.kernels[found.index], timed))

    def _is_late(self) -> bool:
        return time.monotonic() > self.until

    def _tell(self, what: str) -> None:
        self.say(f"{what}: {len(self.outcome.timed)} of {self.total} kernels timed")


def _walk(model: CompiledModel, rate: float, visit: Visit) -> None:
    """A run on noise at that rate."""
    device = model.target.kind
    x = torch.randn(model.shape, generator=torch.Generator().manual_seed(0))
    masks = {key: mask.to(device) for key, mask in masks_at(model, rate).items()}
    with torch.no_grad():
        model.runner.walk(x.to(device), masks, visit)


def masks_at(model: CompiledModel, rate: float) -> dict[str, Tensor]:
    """Of each masker by itself, so that every kernel has about that share to do, and none has nothing."""
    batch, found = model.shape[0], dict[str, Tensor]()
    for shape in model.mask_shapes:
        least = 1 / (batch * math.prod(shape.units))
        found |= stratified_masks([shape], batch=batch, rate=max(rate, least), seed=0)
    return found


def right_calls(task: Task, step: Step, binaries: Mapping[str, Binary]) -> dict[int, Call]:
    """The task's tiles, by index, as calls in the place of the step: of those that were built and that agree with the
    reference where the step stands in a run."""
    runner, dtype = task.model.runner, task.model.dtype
    built = {index: kernel for index, kernel in enumerate(task.kernels) if kernel.key in binaries}
    needed = {kernel.key: binaries[kernel.key] for kernel in built.values()}
    functions = load_functions(needed, device=task.model.target.kind)
    calls: dict[int, Call] = {}
    expected: tuple[Tensor, ...] = ()
    given = masks_at(task.model, task.rate).get(step.masker) if step.masker else None
    for index, kernel in built.items():
        call = runner.instead(step, kernel, functions[kernel.key])
        with runner.restored():
            operands, results = runner.watched(step, call)
        expected = expected or expected_results(step.op, operands, dtype=dtype, given=given)
        if kernel_error(step.op, operands, results, expected, given) <= BARS[dtype]:
            calls[index] = call
    return calls


def fastest(calls: Mapping[int, Call], *, kind: str) -> Fastest:
    """The default, unless another is clearly faster; and once more beside it alone, since the best of many may only be
    the luckiest."""
    us = _median_us(calls, kind)
    best = min(us, key=lambda index: us[index])
    if _is_clear(us, best):
        us = _median_us({index: calls[index] for index in (DEFAULT, best)}, kind)
    index = best if _is_clear(us, best) else DEFAULT
    return Fastest(index=index, us=us[index], default_us=us[DEFAULT])


def _is_clear(us: Mapping[int, float], index: int) -> bool:
    return us[index] < (1 - MARGIN) * us[DEFAULT]


def _median_us(calls: Mapping[int, Call], kind: str) -> dict[int, float]:
    named = {str(index): call for index, call in calls.items()}
    return {int(name): us for name, us in side_by_side_us(named, kind=kind, rounds=_ROUNDS).items()}


def _timed(task: Task, found: Fastest, candidates: int, store: Tuned) -> Timed:
    work, tile = task.kernel.work, task.tiles[found.index]
    return Timed(
        op=str(work.spec),
        types=type_words(work),
        band=task.band,
        code=offers_key(work, store.target),
        schedule=tile.schedule,
        choice=dict(tile.choice),
        us=found.us,
        default_us=found.default_us,
        candidates=candidates,
    )


def _built(kernels: Sequence[Kernel]) -> Mapping[str, Binary]:
    """The binaries by key; a tile that does not compile is none to choose."""
    try:
        return build_all(kernels)
    except ToolchainError:
        raise
    except BuildError:
        found: dict[str, Binary] = {}
        for kernel in kernels:
            with suppress(BuildError):
                found |= build_all([kernel])
        return found
