"""The equality ladder on real networks: static = all ones, masked = lowered = compiled, on images of an odd size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision import models

import laudc
from laudc.compare import relative_error
from laudc.pipeline import lowering, run
from laudc.program import program_for
from laudc.testing import TinyNet, conditioned, random_images, random_masks_like

SIZE = (200, 232)
RATES = (0, 0.1, 0.5, 1)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(weights=None),
    "resnet34": lambda: models.resnet34(weights=None),
    "resnet50": lambda: models.resnet50(weights=None),
    "resnet101": lambda: models.resnet101(weights=None),
    "resnext50": lambda: models.resnext50_32x4d(weights=None),
    "wide_resnet50": lambda: models.wide_resnet50_2(weights=None),
    "dilated_resnet50": lambda: models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]),
    "timm_resnet26d": lambda: timm.create_model("resnet26d"),
    "timm_resnetv2_50": lambda: timm.create_model("resnetv2_50"),
    "hand_written": TinyNet,
}
ONLY_LOWERED = {"dilated_resnet50", "timm_resnet26d"}  # their kernels are those of the others, at other sizes
CHANNELS = {"resnext50": "4-8-16-32"}
"""A decision of a grouped convolution is on whole groups."""


def granularity(name: str, paradigm: str) -> str | None:
    """Given, since planning would take longer than what is tested."""
    given = {"spatial": "4", "channel": CHANNELS.get(name, "8")}
    return "+".join(given[one] for one in paradigm.split("+") if one in given) or None


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("paradigm", "batch"), [("spatial", 5), ("channel", 5), ("layer", 1), ("spatial+channel", 1)])
@torch.no_grad()
def test_lowered_computes_what_masking_computes(name: str, paradigm: str, batch: int) -> None:
    model, x = conditioned(NETWORKS[name]), random_images(batch, 3, *SIZE)
    program = laudc.transform(model, x[:1], paradigm=paradigm, granularity=granularity(name, paradigm)).program
    masked = program_for(program, tuple(x.shape))
    lowered, _ = run(masked, lowering())
    assert lowered.refusals == ()
    for rate in RATES:
        masks = random_masks_like(masked, rate=rate, batch=batch)
        expected = masked(x, masks)[0]
        assert relative_error(lowered(x, masks)[0], expected) <= 1e-5
        if rate == 1:
            assert relative_error(expected, model(x)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - ONLY_LOWERED))
@pytest.mark.parametrize(("paradigm", "batch"), [("spatial", 1), ("spatial", 5), ("channel", 5), ("layer", 1)])
@torch.no_grad()
def test_compiled_computes_what_masking_computes(name: str, paradigm: str, batch: int) -> None:
    climb_compiled(name, paradigm, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hand_written", "resnet50"])
@pytest.mark.parametrize(("paradigm", "batch"), [("spatial+channel", 5), ("layer+channel", 1)])
@torch.no_grad()
def test_compiled_computes_what_masking_computes_in_combination(name: str, paradigm: str, batch: int) -> None:
    climb_compiled(name, paradigm, batch)


def climb_compiled(name: str, paradigm: str, batch: int) -> None:
    """Given the same decisions, over poisoned buffers."""
    x = random_images(batch, 3, *SIZE)
    network, chosen = conditioned(NETWORKS[name]), granularity(name, paradigm)
    dynamic = laudc.transform(network, x[:1], paradigm=paradigm, granularity=chosen)
    compiled = laudc.compile(dynamic, "cpu", batch=batch)
    masked = program_for(dynamic.program, tuple(x.shape))
    for rate in RATES:
        masks = random_masks_like(masked, rate=rate, batch=batch)
        compiled.runner.poison()
        assert relative_error(compiled(x, masks), masked(x, masks)[0]) <= 1e-4
