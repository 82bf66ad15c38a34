"""The time of whole networks: it grows with the rate, is the same twice, and adds up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from laudc.latency import kernel as pricing
from laudc.latency._time import added
from laudc.latency.constants import defaults
from laudc.latency.network import NetworkModel, NetworkTime
from laudc.ops.deciding_conv2d import MASK, DecidingConv2dSpec
from laudc.targets import TARGETS

Model = Callable[..., NetworkModel]
DEVICES = ("cpu", "h200", *(pytest.param(name, marks=pytest.mark.slow) for name in ("v100", "jetson-tx2")))
RATES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
FAST = [("tiny", 2)]
SLOW = [("tiny", 128), ("resnet18", 1), ("resnet18", 8), ("resnet50", 1), ("resnet50", 128)]
NETWORKS = [*FAST, *(pytest.param(*network, marks=pytest.mark.slow) for network in SLOW)]


def expected(model: NetworkModel, rate: float) -> NetworkTime:
    return model.expected(defaults(model.calls[0].kernel.target), rate)


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize(("network", "batch"), NETWORKS)
def test_nothing_takes_less_time_when_more_is_on(model: Model, network: str, batch: int, target: str) -> None:
    for paradigm, granularity in (("spatial", None), ("spatial", 1), ("layer", None), ("channel", None)):
        found = model(network, target, batch, paradigm, granularity)
        times = [expected(found, rate) for rate in RATES]
        for less, more in pairwise(times):
            assert more.total_us >= less.total_us * (1 - 1e-12)
            assert all(more.steps[name].total_us >= time.total_us * (1 - 1e-12) for name, time in less.steps.items())
        assert times[-1].total_us > times[0].total_us


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize(
    ("network", "batch"),
    [("resnet18", 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("resnet18", 8), ("resnet18", 128)))],
)
def test_skipping_layers_takes_no_longer_than_skipping_patches(
    model: Model, network: str, batch: int, target: str
) -> None:
    """But for its masker, which reads the map once more where all or nothing is on.

    One percent: tiles are chosen for rate .5, and the mean over a staircase may lie above the stair of the mean.
    """
    layer, *patches = (
        model(network, target, batch, paradigm, side)
        for paradigm, side in (("layer", 0), ("spatial", 1), ("spatial", 4))
    )
    for rate in (0.1, 0.25, 0.5, 0.75, 0.9):
        most = min(expected(one, rate).total_us for one in patches)
        assert expected(layer, rate).total_us <= 1.01 * most


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel"])
@pytest.mark.parametrize("target", DEVICES)
def test_the_same_question_has_the_same_answer_to_the_last_bit(model: Model, target: str, paradigm: str) -> None:
    found = model("tiny", target, 2, paradigm, None)
    first = expected(found, 0.37)
    pricing._time.cache_clear()
    assert expected(found, 0.37) == first


def _masks(model: NetworkModel, batch: int, rate: float, seed: int) -> dict[str, torch.Tensor]:
    """Decisions for every masker, each unit on with the rate."""
    works = [call.kernel.work for call in model.calls if hasattr(call.kernel.work.spec, "key")]
    made = [work.results[MASK if isinstance(work.spec, DecidingConv2dSpec) else 0].shape for work in works]
    shapes = dict(zip(model.maskers, made, strict=True))
    generator = torch.Generator().manual_seed(seed)
    return {key: (torch.rand(shape, generator=generator) < rate).float() for key, shape in shapes.items()}


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel"])
@pytest.mark.parametrize("target", ["cpu", "v100"])
def test_given_masks_cost_on_average_what_is_expected(model: Model, target: str, paradigm: str) -> None:
    found = model("tiny", target, 2, paradigm, None)
    calibration = defaults(found.calls[0].kernel.target)
    draws = [found.given(calibration, _masks(found, 2, 0.5, seed)).total_us for seed in range(60)]
    mean = sum(draws) / len(draws)
    # 60 draws with a spread of a tenth or less: their mean has one of 1.3 %
    assert expected(found, 0.5).total_us == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_all_on_and_all_off_are_the_ends_of_the_rate(model: Model, target: str) -> None:
    for paradigm in ("spatial", "channel"):
        found = model("tiny", target, 2, paradigm, None)
        calibration = defaults(found.calls[0].kernel.target)
        for rate in (0.0, 1.0):
            masks = {key: torch.full_like(mask, rate) for key, mask in _masks(found, 2, 0.5, 0).items()}
            assert found.given(calibration, masks) == expected(found, rate)


def test_blocks_and_what_lies_between_add_up(model: Model) -> None:
    found = model("tiny", "v100", 2, "spatial", None)
    time = expected(found, 0.5)
    assert "" in time.blocks
    assert len(time.blocks) == 1 + len({call.block for call in found.calls if call.block})
    whole = added(time.steps.values())
    assert time.total_us == pytest.approx(whole.total_us)
    for block, total in time.blocks.items():
        mine = added(time.steps[call.name] for call in found.calls if call.block == block)
        assert total == mine


def test_each_masker_has_its_own_rate(model: Model) -> None:
    found = model("tiny", "cpu", 2, "spatial", None)
    calibration = defaults(found.calls[0].kernel.target)
    one, *others = found.maskers
    rates = {one: 1.0, **dict.fromkeys(others, 0.2)}
    low, mixed = expected(found, 0.2), found.expected(calibration, rates)
    changed = {block for block in low.blocks if low.blocks[block] != mixed.blocks[block]}
    assert changed == {one.rpartition(".")[0]}
    assert mixed.total_us > low.total_us


@pytest.mark.slow
def test_every_target_prices_the_whole_network(model: Model) -> None:
    for target in TARGETS:
        found = model("tiny", target, 2, "layer", None)
        time = expected(found, 0.5)
        assert time.steps.keys() == {call.name for call in found.calls}
        assert all(step.total_us > 0 for step in time.steps.values())
