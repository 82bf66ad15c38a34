"""Networks as the compiler would emit them, without weights, for whoever prices them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
import torchvision

from laudc import pipeline
from laudc.convert import read_blocks
from laudc.kernels.cpu_features import detect_cpu
from laudc.latency._frame import frame_of
from laudc.latency.network import NetworkModel, network_model
from laudc.latency.planner import converted
from laudc.paradigms import PARADIGMS
from laudc.passes.bind_kernels import BindKernels
from laudc.plan import Decision, Plan
from laudc.program import Program, program_for
from laudc.targets import TARGETS, Target
from laudc.testing import TinyNet

Model = Callable[..., NetworkModel]


@pytest.fixture(scope="package", autouse=True)
def _uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever has calibrated this machine tests the same model as everybody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUDC_CALIBRATION", str(tmp_path_factory.getbasetemp() / "nothing"))
        yield


def device(name: str) -> Target:
    target = TARGETS[name]
    return detect_cpu().refine(target) if target.kind == "cpu" else target


@cache
def captured(network: str) -> Program:
    make = {"tiny": TinyNet, "resnet18": torchvision.models.resnet18, "resnet50": torchvision.models.resnet50}[network]
    return read_blocks(make().eval(), torch.zeros(1, 3, 64, 64))


@cache
def _model(network: str, target: str, batch: int, paradigm: str, granularity: int | None) -> NetworkModel:
    found = device(target)
    frame = frame_of(program_for(captured(network), (batch, 3, 64, 64), dtype=found.default_dtype)).program
    way = PARADIGMS[paradigm]
    decisions = tuple(
        Decision(
            block=block.name,
            paradigm=paradigm,
            granularity=way.default_granularity(block) if granularity is None else granularity,
        )
        for block in frame.blocks
    )
    program = converted(frame, Plan(paradigm=paradigm, decisions=decisions))
    options = {"target": found, "expected_rate": 0.5}
    bound, _ = pipeline.run(program, (*pipeline.lowering(options), BindKernels(target=found, expected_rate=0.5)))
    return network_model(bound)


@pytest.fixture(scope="session")
def model() -> Model:
    """(network, target, batch, paradigm, granularity or None) -> the model of its frame on 64 x 64 images."""
    return _model
