"""What is timed, in which order, what of it is kept; and once, on this CPU, the real thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from laudc.compiled import CompiledModel, build, lower
from laudc.convert import convert
from laudc.errors import BuildError, ToolchainError
from laudc.kernels.build import Binary
from laudc.kernels.executable import Step
from laudc.kernels.kernel import Kernel, Tile
from laudc.latency import tuning
from laudc.latency.constants import tuned_path
from laudc.latency.tuned import Tuned, tuned_for
from laudc.latency.tuning import MARGIN, Task, fastest, masks_at, right_calls, tasks_of, tune
from laudc.ops.activation import ActivationSpec
from laudc.schedules import Work
from laudc.static_network import in_laudc
from laudc.targets import TARGETS
from laudc.testing import Residual, Sketch, conv_norm, tiny
from laudc.types import TensorType

H200 = TARGETS["h200"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path))


@cache
def lowered(paradigm: str = "spatial") -> CompiledModel:
    """Not built."""
    dynamic = convert(
        tiny(), torch.zeros(1, 3, 64, 64), paradigm=paradigm, granularity={"spatial": "2", "channel": "4"}.get(paradigm)
    )
    lowering = lower(dynamic.program, H200, plan=dynamic.plan, shape=(2, 3, 64, 64), dtype="float16", without=())
    return CompiledModel(plan=dynamic.plan, target=H200, dtype="float16", without=(), lowering=lowering, binaries={})


class Bench:
    """Times without a device: by tile, and by a clock that goes one minute a kernel."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.timed: list[tuple[str, str]] = []
        self.us: Callable[[Task], Mapping[int, float]] = lambda task: dict.fromkeys(range(len(task.tiles)), 10.0)
        """By tile, of those that are right."""
        self.minutes = 0.0
        patch.setattr(tuning, "build_all", lambda kernels: {})
        patch.setattr(tuning, "right_calls", self._right_calls)
        patch.setattr(tuning, "side_by_side_us", lambda calls, kind, rounds: {name: calls[name]() for name in calls})
        patch.setattr(CompiledModel, "runner", Runner([]))
        patch.setattr(tuning, "_walk", self._walk)
        patch.setattr(tuning.time, "monotonic", lambda: 60 * self.minutes)

    def _right_calls(self, task: Task, step: Step, binaries: object) -> dict[int, Callable[[], float]]:
        self.timed.append((task.step, task.band))
        self.minutes += 1
        us = self.us(task)
        return {index: lambda index=index: us[index] for index in us}  # type: ignore[misc]

    def _walk(self, model: CompiledModel, rate: float, visit: Callable[..., object]) -> None:
        for step in model.lowering.executable.steps:
            visit(step, lambda: None)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def store() -> Tuned:
    return tuned_for(H200)


def test_every_kernel_is_a_task_once_a_band() -> None:
    tasks, known = tasks_of([lowered()], store(), tuning.RATES)
    assert known == 0
    kinds = {(str(task.kernel.work), task.band) for task in tasks}
    assert len(kinds) == len(tasks)
    assert {task.band for task in tasks} == {"all", "rows 0.25", "rows 0.5", "rows 0.75", "rows 1"}
    assert [task.rate for task in tasks] == sorted(task.rate for task in tasks)
    assert all(2 <= len(task.tiles) <= 10 for task in tasks)


def test_channels_have_their_bands() -> None:
    tasks, _ = tasks_of([lowered("channel")], store(), (0.5, 1.0))
    assert {task.band for task in tasks} == {"all", "channels 0.5", "channels 1"}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("paradigm", ["spatial", "layer"])
def test_every_masker_keeps_its_share_and_something(paradigm: str, rate: float) -> None:
    for mask in masks_at(lowered(paradigm), rate).values():
        assert int(mask.sum()) == max(1, round(rate * mask.numel()))


def test_the_best_candidates_of_all_schedules_follow_the_default() -> None:
    tasks, _ = tasks_of([lowered()], store(), (0.5,))
    wide = next(task for task in tasks if len({tile.schedule for tile in task.tiles}) > 1)
    default = wide.kernel.plan.choices(wide.kernel.work, H200)[0]
    assert (wide.tiles[0].schedule, dict(wide.tiles[0].choice)) == (wide.kernel.schedule, dict(default))
    assert {tile.origin for tile in wide.tiles} == {"tuned"}


def test_the_fastest_tile_is_kept_and_compiled(bench: Bench) -> None:
    bench.us = lambda task: {index: 10.0 - (index == 1) for index in range(len(task.tiles))}
    outcome = tune([lowered()], store(), rates=(0.5,))
    assert (outcome.known, outcome.left, outcome.unsure) == (0, 0, 0)
    assert {(timed.us, timed.default_us) for _, timed in outcome.timed} == {(9.0, 10.0)}
    model = lowered()
    assert model.plan is not None
    again = lower(
        model.lowering.converted, H200, plan=model.plan, shape=model.shape, dtype=model.dtype, without=()
    ).executable
    tuned = {step.name: step.kernel for step in again.steps if step.kernel.origin == "tuned"}
    tasks, _ = tasks_of([model], Tuned(target=H200), (0.5,))
    assert {task.step for task in tasks} <= tuned.keys()
    for task in tasks:
        tile = task.tiles[1]
        assert (tuned[task.step].schedule, tuned[task.step].choice) == (tile.schedule, tile.choice)
    assert {step.kernel.origin for step in again.steps if step.name not in tuned} <= {"default", "fallback"}


def test_what_is_known_is_not_timed_again(bench: Bench) -> None:
    first = tune([lowered()], store(), rates=(0.5,))
    seen = list(bench.timed)
    assert len(seen) == len(first.timed)
    again = tune([lowered()], store(), rates=(0.5,))
    assert (again.timed, again.known, bench.timed) == ([], len(seen), seen)
    more = tune([lowered()], store(), rates=(0.5, 1.0))
    assert 0 < len(more.timed) == len(bench.timed) - len(seen)


def test_an_interrupted_run_keeps_what_it_has(bench: Bench) -> None:
    def interrupted(task: Task) -> Mapping[int, float]:
        if len(bench.timed) == 4:
            raise KeyboardInterrupt
        return {0: 10.0}

    bench.us = interrupted
    with pytest.raises(KeyboardInterrupt):
        tune([lowered()], store(), rates=(0.5,))
    assert len(store().tiles) == 3
    bench.us = lambda task: {0: 10.0}
    outcome = tune([lowered()], store(), rates=(0.5,))
    assert outcome.known == 3
    assert bench.timed[4] == bench.timed[3]


def test_when_the_time_is_up_the_rest_is_left(bench: Bench) -> None:
    outcome = tune([lowered()], store(), minutes=2.5)
    assert len(outcome.timed) == len(store().tiles) == 3
    tasks, known = tasks_of([lowered()], store(), tuning.RATES)
    assert (outcome.left, known) == (len(tasks), 3)


def test_where_the_default_is_not_right_nothing_is_kept(bench: Bench) -> None:
    bench.us = lambda task: {1: 5.0}
    outcome = tune([lowered()], store(), rates=(0.5,))
    assert (outcome.timed, outcome.unsure) == ([], len(bench.timed))
    assert not tuned_path(H200).exists()


# ---- the candidates of one kernel


RELU = ActivationSpec(function="relu")
SHAPE = (1, 2, 3, 3)


class Runner:
    """Whose n-th kernel makes the right result plus `wrong[n]`."""

    def __init__(self, wrong: list[float]) -> None:
        self.wrong = wrong

    def instead(self, step: object, kernel: Kernel, function: object) -> Callable[[], int]:
        return lambda: kernel.choice["tile"]

    def watched(self, step: object, call: Callable[[], int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        x = torch.linspace(-1, 1, 18).view(SHAPE)
        return (x,), (torch.relu(x) + self.wrong[call()],)

    def restored(self) -> nullcontext[None]:
        return nullcontext()


def right(wrong: list[float], monkeypatch: pytest.MonkeyPatch, *, lacking: int = -1) -> list[int]:
    type_ = TensorType(shape=SHAPE, dtype="float32")
    tiles = tuple(Tile(schedule="pointwise", choice={"tile": n}, origin="tuned") for n in range(len(wrong)))
    kernel = Kernel(
        schedule="pointwise",
        work=Work(spec=RELU, operands=(type_,), results=(type_,)),
        batch=1,
        choice={"tile": 0},
        target=TARGETS["cpu"],
    )
    model = SimpleNamespace(runner=Runner(wrong), target=TARGETS["cpu"], dtype="float32")
    task = Task(model=cast(CompiledModel, model), step="act", kernel=kernel, band="all", tiles=tiles, rate=1.0)
    sketch = Sketch()
    node = sketch.op("act", RELU, sketch.input(*SHAPE))
    step = SimpleNamespace(op=sketch.returns(node).op(node), masker="")
    binaries: dict[str, Any] = {one.key: None for n, one in enumerate(task.kernels) if n != lacking}
    monkeypatch.setattr(tuning, "load_functions", lambda binaries, device: dict.fromkeys(binaries))
    return list(right_calls(task, cast(Step, step), binaries))


def test_a_wrong_tile_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert right([0, 1e-3, 1e-7, torch.nan], monkeypatch) == [0, 2]


def test_a_tile_that_was_not_built_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert right([0, 0, 0], monkeypatch, lacking=1) == [0, 2]


def test_a_tile_that_does_not_compile_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_all(kernels: list[str]) -> dict[str, Binary]:
        if "bad" in kernels:
            raise BuildError("TVM does not compile it", "report it")
        return {name: cast(Binary, name) for name in kernels}

    monkeypatch.setattr(tuning, "build_all", build_all)
    assert tuning._built(cast(Any, ["a", "bad", "b"])) == {"a": "a", "b": "b"}


def test_without_a_compiler_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_all(kernels: object) -> dict[str, Binary]:
        raise ToolchainError("no C++ compiler is here", "install g++")

    monkeypatch.setattr(tuning, "build_all", build_all)
    with pytest.raises(ToolchainError):
        tuning._built([])


def chosen(monkeypatch: pytest.MonkeyPatch, *passes: dict[str, float]) -> tuple[int, float, float]:
    """Of tiles whose times are these, in one pass after another, each over the calls that are left."""
    waiting = iter(passes)

    def side_by_side_us(calls: Mapping[str, object], kind: str, rounds: int) -> dict[str, float]:
        times = next(waiting)
        assert times.keys() == calls.keys()
        return times

    monkeypatch.setattr(tuning, "side_by_side_us", side_by_side_us)
    found = fastest({int(name): lambda: None for name in passes[0]}, kind="cpu")
    assert next(waiting, None) is None
    return found.index, found.us, found.default_us


def test_the_default_stays_unless_another_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {"0": 10.0, "1": 10 * (1 - MARGIN) + 0.01}) == (0, 10.0, 10.0)


def test_the_fastest_has_to_be_so_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"0": 10.0, "1": 8.0, "2": 7.0}
    assert chosen(monkeypatch, first, {"0": 10.0, "2": 7.5}) == (2, 7.5, 10.0)
    assert chosen(monkeypatch, first, {"0": 7.6, "2": 7.5}) == (0, 7.6, 7.6)


# ---- the real thing


@pytest.mark.slow
def test_a_network_is_tuned_on_this_cpu_and_computes_the_same() -> None:
    from laudc.latency.machine import here

    target = here(TARGETS["cpu"])
    block = Residual(conv_norm(16, 16, 3), conv_norm(16, 16, 3))
    network = nn.Sequential(conv_norm(3, 16, 3, stride=2), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dynamic = convert(network.eval(), torch.zeros(1, 3, 32, 32), paradigm="spatial", granularity="2")

    def made() -> CompiledModel:
        lowering = lower(dynamic.program, target, plan=dynamic.plan, shape=(2, 3, 32, 32), dtype="float32", without=())
        return CompiledModel(
            plan=dynamic.plan, target=target, dtype="float32", without=(), lowering=lowering, binaries=build(lowering)
        )

    before = made()
    tasks, _ = tasks_of([before, in_laudc(before)], tuned_for(target), (0.5,))
    outcome = tune([before, in_laudc(before)], tuned_for(target), rates=(0.5,))
    assert (len(outcome.timed), outcome.unsure, outcome.left) == (len(tasks), 0, 0)
    assert all(0 < timed.us <= timed.default_us for _, timed in outcome.timed)
    after = made()
    origins = {step.name: step.kernel.origin for step in after.lowering.executable.steps}
    assert all(origins[task.step] == "tuned" for task in tasks if task.model is before)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(after(x), before(x), atol=1e-5, rtol=1e-4)
    assert tune([after], tuned_for(target), rates=(0.5,)).timed == []
