"""A wrong value to a public function is one line of words, never a traceback from inside."""

from __future__ import annotations

import copy
import inspect
import pickle  # noqa: TID251  to see it refused
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import laudc
from laudc.convert import read_blocks
from laudc.dynamic_model import DynamicModel
from laudc.errors import InputError, PlanError
from laudc.latency.planner import Search
from laudc.plan_file import PlanFile
from laudc.program import input_type
from laudc.targets import TARGETS
from laudc.testing import TinyNet, conditioned, random_images

IMAGE = random_images(1, 3, 32, 32)
laudc_any = cast(Any, laudc)  # the types would refuse what is tried here


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return conditioned(TinyNet)


@pytest.fixture
def dynamic(network: torch.nn.Module) -> DynamicModel:
    return laudc.transform(network, IMAGE).eval()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"granularity": 4}, "the granularity is a int; give a text, such as '4-4-2-1'"),
        ({"granularity": [4, 4]}, "the granularity is a list"),
        ({"paradigm": ["spatial"]}, "the paradigm is a list"),
        ({"example_inputs": (IMAGE,)}, "the example input is a tuple; give one tensor"),
        ({"example_inputs": torch.zeros(0, 3, 32, 32)}, r"the example input is float32\[0, 3, 32, 32\]"),
        ({"target": 7}, "the target is a int"),
        ({"plan": 7}, "the plan is a int; give the path of a file"),
        ({"keep_first": 1}, "the keep_first is a int; give True or False"),
        ({"target": "v100", "batch": 0}, "the batch 0 is not a whole number above 0"),
        ({"batch": 4}, "a batch is planned for only on a named target"),
        ({"paradigm": "auto", "granularity": "4"}, "auto chooses the granularity too"),
        ({"seed": 10**30}, "the seed 10+ is not a whole number from 0"),
        ({"seed": -1}, "the seed -1 is not a whole number"),
        ({"seed": 0.5}, "the seed 0.5 is not a whole number"),
    ],
)
def test_transform_refuses(network: torch.nn.Module, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        laudc_any.transform(network, **options)


def test_transform_wants_a_module() -> None:
    with pytest.raises(InputError, match=r"the model is a str; give a torch\.nn\.Module"):
        laudc_any.transform("resnet50")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": None}, "the model is a NoneType"),
        ({"target": None}, "the target is a NoneType"),
        ({"size": 32}, "the size 32 is not two whole numbers above 0"),
        ({"size": (32.0, 32)}, r"the size \(32.0, 32\) is not two whole numbers"),
        ({"size": (32, 0)}, r"the size \(32, 0\) is not two whole numbers"),
        ({"batch": 0}, "the batch 0 is not a whole number above 0"),
        ({"size": (99_999, 99_999)}, "choose a smaller size"),
    ],
)
def test_compile_refuses(dynamic: DynamicModel, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        laudc_any.compile(**{"model": dynamic, **arguments})


def test_an_empty_batch_and_masks_that_are_no_dict_are_refused(dynamic: DynamicModel) -> None:
    with pytest.raises(InputError, match="the batch is empty"):
        dynamic(torch.zeros(0, 3, 32, 32))
    with pytest.raises(InputError, match="the masks are a list; give a dict"):
        dynamic(IMAGE, [1])


@pytest.mark.parametrize("write", [pickle.dumps, lambda model: torch.save(model, "/dev/null")])  # noqa: TID251
def test_a_dynamic_model_is_not_pickled(dynamic: DynamicModel, write: Callable[[object], object]) -> None:
    with pytest.raises(InputError, match=r"write it with laudc.save\(model, path\)"):
        write(dynamic)
    assert torch.equal(copy.deepcopy(dynamic)(IMAGE), dynamic(IMAGE))


def test_only_what_laudc_made_is_saved_and_only_a_static_network_transformed(
    network: torch.nn.Module, dynamic: DynamicModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the model is a TinyNet; give what `transform` or `compile` returns"):
        laudc_any.save(network, tmp_path / "tiny.laud")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="the model is dynamic already"):
        laudc.transform(dynamic)
    with pytest.raises(InputError, match="layer takes no granularity; leave the granularity out"):
        laudc.transform(network, IMAGE, paradigm="layer", granularity="4")


def test_what_is_saved_is_loaded(dynamic: DynamicModel, tmp_path: Path) -> None:
    laudc.save(dynamic, tmp_path / "tiny.laud")
    with pytest.raises(InputError, match="exists"):
        laudc.save(dynamic, tmp_path / "tiny.laud")
    assert torch.equal(cast(DynamicModel, laudc.load(tmp_path / "tiny.laud"))(IMAGE), dynamic(IMAGE))


def test_transform_takes_these_options() -> None:
    assert str(inspect.signature(laudc.transform)) == (
        "(model: 'nn.Module', example_inputs: 'Tensor | None' = None, *, paradigm: 'str | None' = None, "
        "granularity: 'str | None' = None, rate: 'float | None' = None, keep_first: 'bool' = False, "
        "target: 'str | None' = None, batch: 'int | None' = None, plan: 'str | Path | None' = None, seed: 'int' = 0)"
        " -> 'DynamicModel'"
    )


def test_a_target_is_planned_for_as_the_command_does(network: torch.nn.Module) -> None:
    image = random_images(1, 3, 256, 256)
    plan = laudc.transform(network, image, target="jetson-nano", batch=4, rate=0.25, keep_first=True).plan
    assert plan.made_for is not None
    assert (plan.paradigm, plan.made_for.batch, plan.made_for.rate) == ("auto", 4, 0.25)
    assert (plan.rate, plan.keep_first) == (0.25, True)


def test_a_plan_file_is_obeyed_at_its_own_size(network: torch.nn.Module, tmp_path: Path) -> None:
    program = read_blocks(network, random_images(1, 3, 32, 48))
    search = Search.of(program, TARGETS["v100"], batch=8, rate=0.1)
    blocks = {block.name: (("layer", 0),) for block in program.blocks}
    path = tmp_path / "plan.toml"
    path.write_text(PlanFile(basis=search.basis("tiny"), blocks=blocks, reasons={}).text())
    dynamic = laudc.transform(network, plan=path)
    assert dynamic.plan.made_for == search.basis("tiny")
    assert (dynamic.plan.expected_rate, input_type(dynamic.program).shape[2:]) == (0.1, (32, 48))
    with pytest.raises(PlanError, match="the plan is for images of 32x48, the network reads 32x32"):
        laudc.transform(network, IMAGE, plan=str(path))
    with pytest.raises(InputError, match="a plan says paradigm, granularity, target and batch; leave those"):
        laudc.transform(network, plan=path, target="v100")
