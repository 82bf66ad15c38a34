"""scripts/gpu_proof.py on a CPU: what is right passes, and what is made wrong on purpose is caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

import pytest
import torch
from torch import Tensor

import laudc
from laudc.compiled import CompiledModel
from laudc.convert import convert
from laudc.models import condition_random
from laudc.testing import tiny


@pytest.fixture
def proof(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("gpu_proof")


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    dynamic = convert(tiny(), torch.randn(1, 3, 32, 32), paradigm="spatial", granularity="2", rate=0.5)
    condition_random(dynamic.program)
    return laudc.compile(dynamic.eval(), "cpu", 2)


def test_a_right_network_passes_every_part(proof: ModuleType, model: CompiledModel) -> None:
    result = proof.prove(model, count=30, distinct=8)
    parts = result["parts"]
    assert list(parts) == ["errors", "replays", "memory", "streams"]
    assert [part["passed"] for part in parts.values()] == [True] * 4
    assert [draw["masks"] for draw in parts["errors"]["draws"]][::6] == ["rate 0.5", "the maskers' own"]
    assert {draw["executed_rate"] for draw in parts["errors"]["draws"]} >= {0.0, 1.0}
    assert parts["replays"]["repeats"] == 22
    assert parts["streams"]["calls"] == 100


@pytest.mark.parametrize("wrong", ["a value", "NaN", "the masks of another call"])
def test_one_wrong_call_is_found(
    proof: ModuleType, model: CompiledModel, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    calls: list[Mapping[str, Tensor]] = []

    class Wrong(CompiledModel):
        def __call__(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, **options: object) -> Tensor:
            calls.append(masks or {})
            bad = len(calls) == 11
            found = super().__call__(x, calls[0] if bad and wrong.startswith("the masks") else masks)
            if bad and wrong == "a value":
                found[0, 0] += found.abs().max()
            if bad and wrong == "NaN":
                found[0, 0] = float("nan")
            return found

    monkeypatch.setattr(model, "__class__", Wrong)
    with torch.inference_mode():
        replays, _ = proof.replays(proof.Subject(model), 20, 20)
    assert replays["wrong"] == 1
    assert not replays["passed"]


def test_a_network_is_made_by_its_name(script: Callable[[str], ModuleType]) -> None:
    networks = script("gpu_networks")
    for name in ("resnet101-layer-r0.4-b1", "resnet50-spatial+channel-4+16-r0.5-b8"):
        assert str(networks.Case.named(name)) == name
    with pytest.raises(laudc.LaudcError, match="is no network's name"):
        networks.Case.named("resnet101")
