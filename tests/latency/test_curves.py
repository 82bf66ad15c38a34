"""A curve is the model at its points, rises, and has the slope of its secants between them."""

from __future__ import annotations

import functools
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from laudc.errors import InputError
from laudc.latency.constants import defaults
from laudc.latency.curves import Curves, LatencyCurve, curves
from laudc.latency.network import NetworkModel
from laudc.latency.planner import Search, bound, typed_for
from laudc.targets import load_target
from laudc.testing import tiny_converted

CASES = [("v100", 64, "spatial"), ("v100", 64, "layer"), ("v100", 4, "channel"), ("cpu", 2, "spatial")]
SURFACE = ("v100", 2, "spatial+channel")
LINE = LatencyCurve(maskers=("a.spatial",), rates=((0.0, 0.25, 1.0),), us=(10.0, 20.0, 26.0))


@functools.cache
def network(target: str, batch: int, paradigm: str) -> tuple[NetworkModel, Search]:
    """TinyNet, bound for a device with the constants that come with laudc."""
    device = load_target(target)
    search = Search(
        target=device, calibration=defaults(device), batch=batch, size=(64, 64), dtype="float32", rate=0.5
    )  # fmt: skip
    return bound(typed_for(tiny_converted(paradigm), search), search), search


@functools.cache
def found(target: str, batch: int, paradigm: str) -> Curves:
    model, search = network(target, batch, paradigm)
    return curves(model, search.calibration)


def tensors(*rates: float) -> list[Tensor]:
    return [torch.tensor(rate, dtype=torch.float64) for rate in rates]


@pytest.mark.parametrize("case", [*CASES, SURFACE], ids=str)
def test_a_curve_is_the_exact_prediction_at_its_points(case: tuple[str, int, str]) -> None:
    model, search = network(*case)
    known = found(*case).blocks
    assert known
    for block, curve in list(known.items())[:3]:
        for rates in product(*curve.rates):
            exact = model.only(block).expected(search.calibration, dict(zip(curve.maskers, rates, strict=True)))
            assert curve.at(*tensors(*rates)).item() == pytest.approx(exact.total_us, rel=1e-9)


@pytest.mark.parametrize("case", [*CASES, SURFACE], ids=str)
def test_a_curve_never_falls(case: tuple[str, int, str]) -> None:
    for curve in found(*case).blocks.values():
        us = torch.tensor(curve.us, dtype=torch.float64).reshape([len(axis) for axis in curve.rates])
        assert us[(-1,) * us.ndim] > us[(0,) * us.ndim]
        for axis in range(us.ndim):
            assert us.diff(dim=axis).min() >= -1e-9


@pytest.mark.parametrize("case", CASES, ids=str)
def test_curves_and_the_rest_are_the_whole_network(case: tuple[str, int, str]) -> None:
    model, search = network(*case)
    made = found(*case)
    everything = made.fixed_us + sum(
        curve.at(*tensors(*(1.0 for _ in curve.maskers))).item() for curve in made.blocks.values()
    )
    assert everything == pytest.approx(model.expected(search.calibration, 1.0).total_us, rel=1e-9)


def test_two_decisions_in_one_block_make_a_surface() -> None:
    curve = next(iter(found(*SURFACE).blocks.values()))
    assert [masker.rpartition(".")[2] for masker in curve.maskers] == ["channel", "spatial"]
    rows, channels = torch.tensor([[0.1], [0.9]]), torch.tensor([0.0, 0.5, 1.0])
    assert curve.at(rows, channels).shape == (2, 3)


def test_the_points_lie_a_wave_apart() -> None:
    model, search = network("v100", 64, "spatial")
    curve = found("v100", 64, "spatial").blocks["stage1.0.branch"]
    longest = max(
        model.only("stage1.0.branch").expected(search.calibration, 1.0).steps.items(), key=lambda p: p[1].total_us
    )
    call = next(call for call in model.calls if call.name == longest[0])
    (phase,) = call.kernel.plan.demand(
        call.kernel.work, search.target, call.kernel.choice, call.lists.expected({"stage1.0.branch.spatial": 1.0})[0][1]
    )  # fmt: skip
    wave = search.target.sm_count / phase.tasks
    (points,) = curve.rates
    assert min(high - low for low, high in pairwise(points)) >= min(wave, 1.0)


def test_a_device_that_does_more_at_once_has_fewer_points() -> None:
    wide, narrow = (found(target, 64, "spatial").blocks["stage1.0.branch"] for target in ("h200", "jetson-nano"))
    assert len(wide.us) < len(narrow.us)


@pytest.mark.parametrize(("rate", "slope"), [(0.0, 40.0), (0.1, 40.0), (0.25, 8.0), (0.6, 8.0), (1.0, 8.0)])
def test_the_gradient_is_the_slope_of_the_secant(rate: float, slope: float) -> None:
    at = torch.tensor(rate, requires_grad=True)
    LINE.at(at).backward()
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(slope, rel=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    curve = next(iter(found(*SURFACE).blocks.values()))
    inside = [torch.tensor([0.23, 0.61, 0.87], dtype=torch.float64, requires_grad=True) for _ in curve.rates]
    assert torch.autograd.gradcheck(curve.at, inside)


def test_a_batch_of_rates_is_looked_up_at_once() -> None:
    rates = torch.tensor([[0.0, 0.125], [0.25, 1.0]])
    assert LINE.at(rates).tolist() == [[10.0, 15.0], [20.0, 26.0]]


def test_curves_survive_json() -> None:
    made = found("v100", 64, "layer")
    assert Curves.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "values",
    [{}, {"blocks": {"a": {}}, "fixed_us": 1.0}, {"blocks": {"a": LINE.to_json() | {"us": [1.0]}}, "fixed_us": 1.0}],
)
def test_what_is_no_curve_is_said(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"no latency curve"):
        Curves.from_json(values)


def test_another_number_of_rates_is_said() -> None:
    with pytest.raises(InputError, match=r"the curve has 1 axes, not 2; give the rates of a.spatial"):
        LINE.at(torch.tensor(0.5), torch.tensor(0.5))
