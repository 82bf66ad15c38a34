"""The equality ladder on real networks: static = all ones, masked = lowered = compiled, on images of an odd size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

import laudc
from laudc.compare import relative_error
from laudc.dynamic_model import DynamicModel
from laudc.pipeline import lowering, run
from laudc.program import Program, program_for
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


def climbs() -> Iterator[tuple[str, str, int, str]]:
    """By network and plan, so that rungs of the same stand side by side and share what masking computes."""
    for name in NETWORKS:
        for paradigm, batch in (("spatial", 1), ("spatial", 5), ("channel", 5), ("layer", 1), ("spatial+channel", 1)):
            if (paradigm, batch) != ("spatial", 1):
                yield name, paradigm, batch, "lowered"
            if paradigm != "spatial+channel" and name not in ONLY_LOWERED:
                yield name, paradigm, batch, "compiled"
        if name in ("hand_written", "resnet50"):
            yield name, "spatial+channel", 5, "compiled"
            yield name, "layer+channel", 1, "compiled"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "paradigm", "batch", "rung"), list(climbs()))
@torch.no_grad()
def test_each_rung_computes_what_masking_computes(name: str, paradigm: str, batch: int, rung: str) -> None:
    """Given the same decisions; what is compiled, over poisoned buffers."""
    model, masked = dynamic(name, paradigm), masking(name, paradigm, batch)
    if rung == "lowered":
        lowered, _ = run(masked.program, lowering())
        assert lowered.refusals == ()
        for masks, expected in masked.given.values():
            assert relative_error(lowered(masked.x, masks)[0], expected) <= 1e-5
        assert relative_error(masked.given[1][1], network(name)(masked.x)) <= 1e-5
    else:
        compiled = laudc.compile(model, "cpu", batch=batch)
        for masks, expected in masked.given.values():
            compiled.runner.poison()
            assert relative_error(compiled(masked.x, masks), expected) <= 1e-4


@lru_cache(maxsize=1)
def network(name: str) -> nn.Module:
    return conditioned(NETWORKS[name])


@lru_cache(maxsize=1)
def dynamic(name: str, paradigm: str) -> DynamicModel:
    image = random_images(1, 3, *SIZE)
    return laudc.transform(network(name), image, paradigm=paradigm, granularity=granularity(name, paradigm))


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What masking computes."""

    program: Program
    x: Tensor
    given: dict[float, tuple[dict[str, Tensor], Tensor]]
    """By rate, the decisions and what becomes of them."""


@lru_cache(maxsize=1)
def masking(name: str, paradigm: str, batch: int) -> Masking:
    x = random_images(batch, 3, *SIZE)
    program = program_for(dynamic(name, paradigm).program, tuple(x.shape))
    every = {rate: random_masks_like(program, rate=rate, batch=batch) for rate in RATES}
    given = {rate: (masks, program(x, masks)[0]) for rate, masks in every.items()}
    return Masking(program=program, x=x, given=given)
