"""The trainable network: decides, can be told, trains, and leaves the user's own model alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import laudc
from laudc.dynamic_model import DynamicModel
from laudc.errors import InputError
from laudc.testing import TinyNet, conditioned, random_images, state_hash

IMAGE = random_images(2, 3, 37, 45)


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "spatial+channel", "layer+spatial"])
def test_rate_one_is_the_static_network(paradigm: str) -> None:
    network = conditioned(TinyNet)
    model = laudc.transform(network, IMAGE, paradigm=paradigm, rate=1.0)
    with torch.no_grad():
        assert torch.allclose(model(IMAGE), network(IMAGE), rtol=0, atol=1e-5 * float(network(IMAGE).abs().max()))


def test_untrained_maskers_keep_nearly_everything() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel").eval()
    model(IMAGE)
    probabilities = torch.cat([p.flatten() for p in model.probabilities.values()])
    assert float(probabilities.mean()) > 0.9
    assert min(model.rates.values()) > 0.9


def test_decisions_can_be_set_and_are_read_back() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).eval()
    model(IMAGE)
    key, mask = next(iter(model.decisions.items()))
    wanted = torch.zeros_like(mask)
    model(IMAGE, masks={key: wanted})
    assert torch.equal(model.decisions[key], wanted)
    assert model.rates[key] == 0.0


def test_masks_of_no_masker_or_of_another_shape_are_refused() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).eval()
    with pytest.raises(InputError, match="there is no masker 'nobody'"):
        model(IMAGE, masks={"nobody": torch.ones(2, 1, 1)})
    key = next(iter(model(IMAGE) is not None and model.decisions))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the masks of"):
        model(IMAGE, masks={key: torch.ones(5, 1, 1)})


def test_any_input_size_works_in_training() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel").eval()
    for size in ((32, 32), (50, 61)):
        assert model(random_images(1, 3, *size)).shape == (1, model(IMAGE).shape[1])


@pytest.mark.parametrize("paradigm", ["spatial", "spatial+channel"])
def test_forced_masks_and_their_cost_follow_the_input_size(paradigm: str) -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm=paradigm, rate=0.5).eval()
    model(random_images(1, 3, 64, 70))
    half = sum(float(block.executed) for block in model.block_macs())
    assert sum(model.rates.values()) / len(model.rates) == pytest.approx(0.5, abs=0.1)
    model(random_images(1, 3, 37, 45))
    assert half > 1.5 * sum(float(block.executed) for block in model.block_macs())


def test_masks_that_are_no_decisions_are_refused() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).eval()
    model(IMAGE)
    key, mask = next(iter(model.decisions.items()))
    for bad in (mask * 0.5, mask * float("nan"), mask.tolist()):
        with pytest.raises(InputError, match="the masks of"):
            model(IMAGE, masks={key: bad})  # type: ignore[dict-item]


def test_training_samples_and_passes_gradients_to_maskers() -> None:
    torch.manual_seed(0)
    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel").train()
    model.temperature = 5.0
    model(IMAGE).square().mean().backward()
    grads = [p.grad for name, p in model.named_parameters() if "masker" in name]
    assert all(grad is not None for grad in grads)
    assert any(float(grad.abs().sum()) > 0 for grad in grads if grad is not None)
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in model.decisions.values())


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(value: float) -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE)
    with pytest.raises(InputError, match="temperature"):
        model.temperature = value


def test_a_train_step_leaves_the_users_model_alone() -> None:
    network = conditioned(TinyNet)
    before = state_hash(network)
    model = laudc.transform(network, IMAGE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(IMAGE).square().mean().backward()
    optimizer.step()
    assert state_hash(network) == before


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert float(model(IMAGE).abs().sum()) > 0
    assert twin.program.text() == model.program.text()
    compiled = laudc.compile(twin.eval())
    assert float(compiled(IMAGE[:1]).abs().sum()) == 0


def test_it_takes_the_state_of_the_static_network() -> None:
    network, other = conditioned(TinyNet), conditioned(TinyNet, seed=1)
    model = laudc.transform(other, IMAGE, rate=1.0).eval()
    missing, unexpected = model.load_state_dict(network.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all("masker" in name for name in missing)
    with torch.no_grad():
        assert torch.allclose(model(IMAGE), network(IMAGE), rtol=0, atol=1e-5 * float(network(IMAGE).abs().max()))
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(network.state_dict())


def test_a_state_of_its_own_is_taken_whole_also_inside_another_module() -> None:
    model, twin = (laudc.transform(conditioned(TinyNet, seed=seed), IMAGE) for seed in (0, 1))
    twin.load_state_dict(model.state_dict())
    assert state_hash(twin) == state_hash(model)
    around = torch.nn.Sequential(laudc.transform(conditioned(TinyNet, seed=1), IMAGE))
    static = {f"0.{name}": tensor for name, tensor in conditioned(TinyNet).state_dict().items()}
    assert around.load_state_dict(static | {"head": torch.zeros(1)}, strict=False).unexpected_keys == ["head"]
    assert torch.equal(around.state_dict()["0.graph.head.3.weight"], static["0.head.3.weight"])


def test_a_static_name_beside_its_dynamic_one_is_unexpected() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE)
    state = model.state_dict()
    name = "stem.0.0.weight"
    found = model.load_state_dict(state | {name: torch.zeros_like(state[f"graph.{name}"])}, strict=False)
    assert found.unexpected_keys == [name]
    assert float(model.state_dict()[f"graph.{name}"].abs().max()) > 0


def test_parameters_that_their_user_froze_stay_frozen(tmp_path: Path) -> None:
    network = conditioned(TinyNet)
    frozen = {name for name, parameter in network.named_parameters() if name.startswith(("stem", "stage1"))}
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    model = laudc.transform(network, IMAGE)
    laudc.save(model, tmp_path / "frozen.laud")
    for one in (model, copy.deepcopy(model), laudc.load(tmp_path / "frozen.laud")):
        assert isinstance(one, DynamicModel)
        found = {name for name, parameter in one.named_parameters() if not parameter.requires_grad}
        assert found == {f"graph.{name}" for name in frozen}


def test_it_prints_a_summary_then_modules_with_their_specs() -> None:
    model = laudc.transform(conditioned(TinyNet), IMAGE)
    text, count = str(model), len(model.program.blocks)
    assert text.splitlines()[1].strip() == f"spatial, {count} of {count} blocks dynamic, the maskers decide"
    forced = str(laudc.transform(conditioned(TinyNet), IMAGE, paradigm="layer", rate=0.5))
    assert forced.splitlines()[1].strip().endswith("blocks dynamic, random masks at rate 0.5")
    assert "patch_masker(" in text
    assert "conv2d(" in text
