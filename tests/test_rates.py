"""Stratified masks: the number that is on is exact; which ones is random, seeded, and balanced by FLOPs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import laudc
from laudc.dynamic_model import mask_shapes
from laudc.errors import InputError
from laudc.flops import block_macs
from laudc.rates import MaskShape, stratified_masks

LAYERS = [MaskShape(key=f"b{n}", units=(1, 1), macs=100.0 + 40 * (n % 4 == 0)) for n in range(16)]


@given(
    rate=st.floats(0, 1),
    batch=st.integers(1, 5),
    units=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_the_grid_holds_exactly_the_rounded_number(rate: float, batch: int, units: list[int], seed: int) -> None:
    shapes = [MaskShape(key=str(n), units=(size,), macs=1.0 + n) for n, size in enumerate(units)]
    masks = stratified_masks(shapes, batch=batch, rate=rate, seed=seed)
    total = sum(int(mask.sum()) for mask in masks.values())
    assert total == round(rate * batch * sum(units))
    assert all(bool(((mask == 0) | (mask == 1)).all()) for mask in masks.values())


def test_samples_differ_and_share_evenly() -> None:
    (mask,) = stratified_masks([MaskShape(key="b", units=(14, 14), macs=1)], batch=4, rate=0.5, seed=0).values()
    assert [int(sample.sum()) for sample in mask] == [98] * 4
    assert len({tuple(sample.flatten().tolist()) for sample in mask}) == 4


def test_layers_at_batch_one_are_balanced_by_flops() -> None:
    whole = sum(shape.macs for shape in LAYERS)
    for call in range(20):
        masks = stratified_masks(LAYERS, batch=1, rate=0.5, seed=3, call=call)
        spent = sum(shape.macs * float(masks[shape.key].mean()) for shape in LAYERS)
        assert sum(int(mask.sum()) for mask in masks.values()) == 8
        assert spent / whole == pytest.approx(0.5, abs=0.03)


def test_they_are_a_pure_function_of_seed_and_call() -> None:
    def drawn(seed: int, call: int) -> list[float]:
        masks = stratified_masks(LAYERS, batch=2, rate=0.3, seed=seed, call=call)
        return torch.cat([mask.flatten() for mask in masks.values()]).tolist()

    assert drawn(1, 0) == drawn(1, 0)
    assert drawn(1, 0) != drawn(1, 1)
    assert drawn(1, 0) != drawn(2, 0)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, "half", True])
def test_a_rate_that_is_none_is_refused(rate: object) -> None:
    with pytest.raises(InputError, match="not a number from 0 to 1"):
        stratified_masks(LAYERS, batch=1, rate=rate, seed=0)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paradigm", "granularity", "everything", "keeping_first"),
    [("layer", None, 0.56, 0.68), ("spatial", "4-4-2-1", 0.62, 0.73), ("channel", "2", 0.45, 0.60)],
)
def test_the_flop_ratios_of_resnet50_at_half_are_the_known_ones(
    paradigm: str, granularity: str | None, everything: float, keeping_first: float
) -> None:
    """Whole network with its maskers over the static one, mean of 16 draws at batch 1."""
    from torchvision.models import resnet50

    from laudc.convert import convert

    for keep_first, wanted in ((False, everything), (True, keeping_first)):
        model = convert(resnet50(weights=None), paradigm=paradigm, granularity=granularity, keep_first=keep_first)
        shapes = mask_shapes(model.program, model.plan)
        ratios = []
        for call in range(16):
            masks = stratified_masks(shapes, batch=1, rate=0.5, seed=0, call=call)
            blocks = block_macs(model.program, masks)
            spent = sum(float(block.executed) - block.dense for block in blocks)
            ratios.append(1 + spent / model.static_macs())
        assert sum(ratios) / len(ratios) == pytest.approx(wanted, abs=0.02)


def test_a_forced_model_says_what_it_executed() -> None:
    from laudc.testing import TinyNet, conditioned, random_images

    model = laudc.transform(conditioned(TinyNet), random_images(1, 3, 37, 45), paradigm="layer", rate=0.5).eval()
    model(random_images(4, 3, 37, 45))
    assert sum(model.rates.values()) / len(model.rates) == pytest.approx(0.5)
