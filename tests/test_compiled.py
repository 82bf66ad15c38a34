"""The run-time contract: what a compiled network accepts, refuses, returns and never touches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import laudc
from laudc.compare import relative_error
from laudc.compiled import CompiledModel, lower, passes_for
from laudc.dynamic_model import DynamicModel
from laudc.errors import BuildError, InputError, ToolchainError
from laudc.latency import measure
from laudc.latency.planner import Search
from laudc.passes.fuse_masker_conv import FuseMaskerConv
from laudc.targets import TARGETS
from laudc.testing import TinyNet, conditioned, random_images, random_masks_like

SIZE = (37, 45)
IMAGE = random_images(2, 3, *SIZE)
PARADIGMS = ["spatial", "layer", "channel", "spatial+channel", "layer+spatial", "layer+channel"]


@pytest.fixture(scope="module")
def dynamic() -> DynamicModel:
    return laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel").eval()


@pytest.fixture(scope="module")
def compiled(dynamic: DynamicModel) -> CompiledModel:
    return laudc.compile(dynamic, "cpu", batch=2)


@pytest.mark.parametrize(
    "paradigm", ["spatial", *(pytest.param(name, marks=pytest.mark.slow) for name in PARADIGMS if name != "spatial")]
)
def test_it_equals_dense_and_masked_given_the_decisions(paradigm: str) -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm=paradigm).eval()
    network = laudc.compile(model, "cpu", batch=3)
    x = random_images(3, 3, *SIZE, seed=5)
    for rate in (0.0, 0.1, 0.5, 1.0):
        masks = random_masks_like(model.program, rate=rate, batch=3, seed=int(rate * 10))
        network.runner.poison()
        assert relative_error(network(x, masks), model(x, masks)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["gather-conv", "scatter-add", "masker-conv", "conv-add", "prologue"])
def test_it_stays_equal_with_a_fusion_left_out(dynamic: DynamicModel, fusion: str) -> None:
    network = laudc.compile(dynamic, "cpu", batch=2, without=[fusion])
    masks = random_masks_like(dynamic.program, rate=0.4, batch=2)
    network.runner.poison()
    assert relative_error(network(IMAGE, masks), dynamic(IMAGE, masks).detach()) <= 1e-5


def test_a_network_is_compiled_for_the_rate_that_its_plan_was_made_at(dynamic: DynamicModel) -> None:
    target = TARGETS["v100"]
    made_for = Search.of(dynamic.program, target, batch=2, rate=0.1).basis("tiny")
    for plan, rate in (
        (None, 0.5),
        (dynamic.plan, 0.5),
        (replace(dynamic.plan, made_for=made_for), 0.1),
        (replace(dynamic.plan, made_for=made_for, rate=0.9), 0.9),
    ):
        expected = [one.expected_rate for one in passes_for(target, plan, ()) if isinstance(one, FuseMaskerConv)]
        assert expected == [rate]


def test_skipped_blocks_take_less_of_the_work() -> None:
    """Not a timing: the rows that the convolutions are given."""
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="layer").eval()
    network = laudc.compile(model, "cpu", batch=2)
    listed: dict[float, int] = {}
    for rate in (0.0, 1.0):
        masks = random_masks_like(model.program, rate=rate, batch=2)
        rows = []
        network.runner.trace(IMAGE, masks, lambda step, _, made, rows=rows: rows.append((step, made)))  # type: ignore[misc]
        listed[rate] = sum(int(made[0][2]) for step, made in rows if step.op.spec.name == "row_list")
    assert listed[0.0] == 0
    assert listed[1.0] > 0


def test_decisions_rates_and_logits_of_the_last_call_are_readable(
    dynamic: DynamicModel, compiled: CompiledModel
) -> None:
    compiled(IMAGE)
    dynamic(IMAGE)
    assert compiled.rates == dynamic.rates
    for key, mask in dynamic.decisions.items():
        assert torch.equal(compiled.decisions[key], mask)
        assert torch.allclose(torch.sigmoid(compiled.logits[key]), dynamic.probabilities[key].detach(), atol=1e-5)


def test_given_masks_are_obeyed_and_read_back(dynamic: DynamicModel, compiled: CompiledModel) -> None:
    masks = random_masks_like(dynamic.program, rate=0.5, batch=2)
    compiled(IMAGE, masks)
    assert all(torch.equal(compiled.decisions[key], mask) for key, mask in masks.items())


def test_the_masks_of_the_call_before_can_stay(dynamic: DynamicModel, compiled: CompiledModel) -> None:
    masks = random_masks_like(dynamic.program, rate=0.5, batch=2)
    with torch.no_grad():
        own, forced = (compiled.runner(IMAGE, given)[0] for given in ({}, masks))
        again, decided = compiled.runner(IMAGE, None)
        assert torch.equal(again, forced)
        assert all(torch.equal(decided[key][0], mask) for key, mask in masks.items())
        assert torch.equal(compiled.runner(IMAGE, {})[0], own)


def test_compiling_leaves_the_model_in_its_mode_and_takes_the_weights_as_they_are() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).train()
    modes = [module.training for module in model.modules()]
    network = laudc.compile(model, "cpu", batch=2)
    before = network(IMAGE)
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(network(IMAGE), before)
    assert float(network.lowering.converted(IMAGE)[0].detach().abs().sum()) > 0


def test_outputs_are_fresh_and_inputs_are_only_read(compiled: CompiledModel) -> None:
    x = IMAGE.clone()
    first = compiled(x)
    kept = first.clone()
    compiled(random_images(2, 3, *SIZE, seed=9))
    assert torch.equal(first, kept)
    assert torch.equal(x, IMAGE)


def test_inference_mode_at_the_first_call_does_not_bind_the_later_ones(dynamic: DynamicModel) -> None:
    network = laudc.compile(dynamic, "cpu", batch=2)
    with torch.inference_mode():
        first = network(IMAGE)
    assert torch.equal(network(IMAGE), first)


def test_out_is_written_and_returned(compiled: CompiledModel) -> None:
    out = torch.empty_like(compiled(IMAGE))
    assert compiled(IMAGE, out=out) is out
    assert torch.equal(out, compiled(IMAGE))


def test_out_of_another_shape_is_refused(compiled: CompiledModel) -> None:
    with pytest.raises(InputError, match="out is"):
        compiled(IMAGE, out=torch.empty(7, 10))


def test_strides_and_gradients_of_the_input_do_not_matter(compiled: CompiledModel) -> None:
    wanted = compiled(IMAGE)
    strided = torch.empty(2, 3, SIZE[0], 2 * SIZE[1])[..., ::2].copy_(IMAGE)
    for x in (IMAGE.to(memory_format=torch.channels_last), strided, IMAGE.clone().requires_grad_()):
        found = compiled(x)
        assert torch.equal(found, wanted)
        assert not found.requires_grad


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (random_images(1, 3, *SIZE), r"compiled for .*; fill it up to 2, or compile it again with batch=1"),
        (random_images(5, 3, *SIZE), "split it into batches of 2, or compile it again with batch=5"),
        (random_images(2, 3, 38, 45), "compile it again for that batch and size"),
        (random_images(2, 4, *SIZE), "compiled for"),
        (IMAGE[:0], "compiled for"),
        (IMAGE.double(), "float64"),
        (IMAGE.half(), "float16"),
        (IMAGE.to(torch.uint8), "uint8"),
        (IMAGE.clone().index_fill_(2, torch.tensor([3]), float("nan")), "NaN"),
        (IMAGE.to("meta"), "on meta"),
        ("image.png", "a str"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_one_line(compiled: CompiledModel, x: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        compiled(x)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_masks_that_do_not_fit_are_refused(compiled: CompiledModel) -> None:
    with pytest.raises(InputError, match="there is no masker"):
        compiled(IMAGE, {"nobody": torch.ones(2, 1)})
    compiled(IMAGE)
    key, mask = next(iter(compiled.decisions.items()))
    with pytest.raises(InputError, match="the masks of"):
        compiled(IMAGE, {key: mask[:1]})


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "2"])
def test_a_batch_that_is_none_is_refused(dynamic: DynamicModel, batch: object) -> None:
    with pytest.raises(InputError, match="is not a whole number above 0"):
        laudc.compile(dynamic, batch=batch)  # type: ignore[arg-type]


def test_a_batch_that_overflows_is_refused_with_one_that_fits(dynamic: DynamicModel) -> None:
    with pytest.raises(InputError, match="compile for a batch of at most"):
        laudc.compile(dynamic, batch=10**6)


def test_a_data_type_the_target_lacks_is_refused(dynamic: DynamicModel) -> None:
    with pytest.raises(InputError, match="does not compute in 'float16'"):
        laudc.compile(dynamic, "cpu", dtype="float16")


def test_an_input_is_float32_or_what_the_network_computes_in(dynamic: DynamicModel) -> None:
    device, shape = TARGETS["h200"], tuple(IMAGE.shape)
    lowering = lower(dynamic.program, device, plan=dynamic.plan, shape=shape, dtype="bfloat16", without=())
    network = CompiledModel(
        plan=dynamic.plan, target=device, dtype="bfloat16", without=(), lowering=lowering, binaries={}
    )
    for x in (IMAGE, IMAGE.bfloat16()):
        with pytest.raises(InputError, match="the input is on cpu, compiled for cuda"):
            network._check(x)
    with pytest.raises(InputError, match=r"the input is float16, compiled for bfloat16; .* x.to\(torch.bfloat16\)"):
        network._check(IMAGE.half())


def test_an_input_for_tf32_is_float32(dynamic: DynamicModel) -> None:
    device, shape = TARGETS["h200"], tuple(IMAGE.shape)
    lowering = lower(dynamic.program, device, plan=dynamic.plan, shape=shape, dtype="tf32", without=())
    network = CompiledModel(plan=dynamic.plan, target=device, dtype="tf32", without=(), lowering=lowering, binaries={})
    with pytest.raises(InputError, match="the input is on cpu, compiled for cuda"):
        network._check(IMAGE)
    with pytest.raises(InputError, match=r"the input is float16, compiled for tf32; .* x.to\(torch.float32\)"):
        network._check(IMAGE.half())


def test_what_is_for_a_gpu_says_so_where_there_is_none(dynamic: DynamicModel) -> None:
    if torch.cuda.is_available():
        pytest.fail("run this without a GPU: -m 'not gpu'")
    network = laudc.compile(dynamic, "jetson-tx2", batch=2)
    with pytest.raises(ToolchainError, match="no CUDA device is here"):
        network(IMAGE)


def test_an_operation_without_a_kernel_is_named() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conditioned(TinyNet)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.body(x), 1)

    with pytest.raises((BuildError, laudc.LaudcError), match="cumsum"):
        laudc.compile(laudc.transform(Odd(), IMAGE))


def test_a_static_network_compiles_too() -> None:
    network = conditioned(TinyNet)
    compiled = laudc.compile(network, size=SIZE)
    with torch.no_grad():
        assert relative_error(compiled(IMAGE[:1]), network(IMAGE[:1])) <= 1e-5
    with pytest.raises(InputError, match="static"):
        compiled(IMAGE[:1], {"x": torch.ones(1)})


def test_calls_from_several_threads_do_not_mix(dynamic: DynamicModel, compiled: CompiledModel) -> None:
    images = [random_images(2, 3, *SIZE, seed=seed) for seed in range(4)]
    wanted = [compiled(x) for x in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(25) if not torch.equal(compiled(images[index]), wanted[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_while_its_kernels_are_timed_on_a_gpu_nobody_else_runs_it(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[bool] = []

    class Marked:
        """Replays of calls with marks between them, of a clock that stands."""

        def __init__(self, calls: Sequence[object], marked: Sequence[int], *, overlapping: bool) -> None:
            self._us = np.ones((22, len(marked)))
            self()

        def __call__(self) -> None:
            alone.append(compiled.runner._lock.locked())

        def between_us(self) -> np.ndarray:
            alone.append(compiled.runner._lock.locked())
            return self._us

    monkeypatch.setattr(measure, "_Marked", Marked)
    times = measure._on_gpu(compiled, IMAGE, {}, rounds=3)
    assert list(times) == [step.name for step in compiled.lowering.executable.steps]
    assert len(alone) == 2 * (1 + 2 + 3 + 1)
    assert all(alone)
    assert not compiled.runner._lock.locked()


def test_every_call_with_forced_masks_has_its_own(dynamic: DynamicModel) -> None:
    forced = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial", rate=0.5).eval()
    network = laudc.compile(forced, "cpu", batch=2)
    first, second = (network(IMAGE) is not None and network.decisions for _ in range(2))
    assert any(not torch.equal(first[key], second[key]) for key in first)
    ones = {key: torch.ones_like(mask) for key, mask in first.items()}
    network(IMAGE, ones)
    assert next(network._numbers) == 2  # masks that were all given took no number


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(16, 32, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return torch.relu(self.block(x) + x).mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["gather-conv", "scatter-add"])
def test_grouped_convolutions_stay_equal_with_a_fusion_left_out(fusion: str) -> None:
    dynamic = laudc.transform(conditioned(Grouped), IMAGE, paradigm="spatial").eval()
    network = laudc.compile(dynamic, "cpu", batch=2, without=(fusion,))
    masks = random_masks_like(network.lowering.converted, rate=0.5, batch=2)
    with torch.no_grad():
        assert relative_error(network(IMAGE, masks), dynamic(IMAGE, masks)) <= 1e-5


class PadsNothing(nn.Module):
    """A 2x2 convolution at stride 2 lines up with its shortcut at even sizes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 2, stride=2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 8, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x)).mean((2, 3))


def test_a_size_at_which_decisions_do_not_line_up_is_refused() -> None:
    dynamic = laudc.transform(conditioned(PadsNothing, size=(32, 32)), random_images(1, 3, 32, 32), paradigm="spatial")
    with pytest.raises(InputError, match="decisions would not line up at this size; choose another size"):
        laudc.compile(dynamic, "cpu", size=(33, 33))
    laudc.compile(dynamic, "cpu", size=(34, 40))


def test_memory_is_shared_between_values_that_do_not_meet(compiled: CompiledModel) -> None:
    executable = compiled.lowering.executable
    alone = sum(result.type.nbytes for step in executable.steps for result in step.results)
    assert executable.arena_bytes < alone
