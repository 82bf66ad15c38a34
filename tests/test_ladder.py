"""The ladder holds for what is right, and falls where something is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import laudc
from laudc.compiled import CompiledModel
from laudc.dynamic_model import DynamicModel
from laudc.errors import EqualityError
from laudc.kernels.run import Runner
from laudc.ladder import climb, require
from laudc.ops.conv2d import Conv2d
from laudc.testing import TinyNet, conditioned, random_images

IMAGE = random_images(1, 3, 37, 45)
RATES = (0.0, 0.5)


@pytest.fixture(scope="module")
def dynamic() -> DynamicModel:
    return laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel").eval()


@pytest.fixture
def compiled(dynamic: DynamicModel) -> CompiledModel:
    return laudc.compile(dynamic, batch=2)


@pytest.mark.slow
def test_a_right_network_climbs_to_the_top(compiled: CompiledModel) -> None:
    rungs = climb(compiled, rates=RATES)
    assert all(rung.passed for rung in rungs)
    assert {rung.name for rung in rungs} == {"static", "pass", "lowered", "kernel", "compiled", "decisions", "file"}
    require(rungs)


def test_an_uncompiled_network_climbs_the_first_three(dynamic: DynamicModel) -> None:
    assert {rung.name for rung in climb(dynamic, rates=RATES)} == {"static", "pass", "lowered"}


def _broken(compiled: CompiledModel, step_name: str) -> CompiledModel:
    """The same network with one weight of one kernel wrong."""
    executable = compiled.lowering.executable
    steps = []
    for step in executable.steps:
        if step.name == step_name:
            assert isinstance(step.op, Conv2d)
            op = step.op.replaced()
            weight = op.weight.detach().clone()
            weight[0] += weight.abs().max()
            op.register_parameter("weight", torch.nn.Parameter(weight))
            step = replace(step, op=op)
        steps.append(step)
    runner = Runner(replace(executable, steps=tuple(steps)), compiled.binaries, device="cpu")
    runner.executable = executable  # the ladder compares with the right weights
    return replace(compiled, _runner=runner)


def test_a_wrong_kernel_is_named_with_its_block(compiled: CompiledModel) -> None:
    victim = next(step for step in compiled.lowering.executable.steps if step.block and isinstance(step.op, Conv2d))
    rungs = climb(_broken(compiled, victim.name), rates=(1.0,))
    assert not rungs[-1].passed
    assert rungs[-1].name == "kernel"
    assert victim.name in rungs[-1].where
    assert victim.block in rungs[-1].where
    with pytest.raises(EqualityError, match="the rung 'kernel' fails"):
        require(rungs)


def test_a_network_that_overflows_fails_whatever_the_error(dynamic: DynamicModel) -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).eval()
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if name.endswith("weight")).fill_(3e38)
    rungs = climb(model, rates=RATES)
    assert rungs[-1].error == float("inf")
    assert not rungs[-1].passed


def test_a_wrong_pass_is_named(dynamic: DynamicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from laudc.ops.batch_norm import BatchNorm

    right = BatchNorm.scale_and_shift
    monkeypatch.setattr(BatchNorm, "scale_and_shift", lambda self: (right(self)[0] * 1.1, right(self)[1]))
    rungs = climb(dynamic, rates=RATES)
    assert rungs[-1].name == "pass"
    assert "fold_batchnorm" in rungs[-1].where
