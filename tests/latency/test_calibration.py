"""The fit of the constants, on samples that the model itself made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from laudc.errors import InputError
from laudc.latency import calibration
from laudc.latency.calibration import calibrate, fit, measure_undisturbed
from laudc.latency.constants import Constants, defaults
from laudc.latency.kernel import demands_of, priced
from laudc.latency.machine import here
from laudc.latency.network import NetworkModel
from laudc.latency.probe import Sample
from laudc.schedules import Active
from laudc.targets import TARGETS, Target

Model = Callable[..., NetworkModel]


def samples(model: Model, target: str, truth: Callable[[Constants], Constants], noise: float) -> list[Sample]:
    """Every kernel of a small network at two batches and two rates, as a device with those constants would take."""
    generator = np.random.default_rng(0)
    found: dict[tuple[object, ...], Sample] = {}
    for paradigm, batch in (("spatial", 1), ("spatial", 64), ("channel", 64)):
        bound = model("resnet18", target, batch, paradigm, None)
        device = bound.calls[0].kernel.target
        constants = truth(defaults(device).constants)
        for call in bound.calls:
            kernel = call.kernel
            for rate in (0.3, 1.0):
                cases = ((1.0, Active()),)
                if call.lists is not None:
                    (_, on), *_ = call.lists.expected(dict.fromkeys(bound.maskers, rate))[-1:]
                    cases = ((1.0, on),)  # type: ignore[assignment]
                asked = tuple((weight, demands_of(kernel, on)) for weight, on in cases)
                us = priced(asked, device, constants).total_us
                one, other = us * np.exp(noise * generator.standard_normal(2))
                key = (kernel.schedule, kernel.work, cases)
                found[key] = Sample(kernel=kernel.key, cases=asked, measured_us=float(one), again_us=float(other))
    return list(found.values())


@pytest.mark.slow
def test_known_constants_of_a_cpu_are_found_again(model: Model) -> None:
    def truth(nominal: Constants) -> Constants:
        changed = {name: 0.6 * value for name, value in asdict(nominal).items() if name.endswith("per_us")}
        return replace(nominal, **changed, call_us=4.0, wake_us=9.0)

    measured = samples(model, "cpu", truth, 0.02)
    target = here(TARGETS["cpu"])
    found = fit(target, measured)
    wanted = truth(defaults(target).constants)
    for name in ("macs_per_us", "steps_per_us", "on_chip_bytes_per_us", "call_us", "wake_us"):
        assert getattr(found.constants, name) == pytest.approx(getattr(wanted, name), rel=0.1), name
    assert found.calibrated
    assert found.errors["before_median"] > 0.25
    assert found.errors["after_median"] < 0.025
    assert found.errors["repeat_median"] == pytest.approx(0.02, rel=0.4)
    low, high = found.interval
    assert 0.93 < low < 1 < high < 1.07
    assert found.errors["samples"] == len(measured)


@pytest.mark.slow
def test_known_constants_of_a_gpu_are_found_again(model: Model) -> None:
    def truth(nominal: Constants) -> Constants:
        return replace(nominal, fp32_share=0.4, dram_share=0.6, start_us=3.0)  # type: ignore[call-arg]

    measured = samples(model, "v100", truth, 0.02)
    target = TARGETS["v100"]
    found = fit(target, measured)
    wanted = truth(defaults(target).constants)
    for name in ("fp32_share", "start_us"):
        assert getattr(found.constants, name) == pytest.approx(getattr(wanted, name), rel=0.1), name
    assert found.errors["after_median"] < 0.025 < 0.1 < found.errors["before_median"]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


def test_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (50.0, 50.0, 50.0))
    with pytest.raises(InputError, match=r"the machine is busy \(load 50.0 on \d+ cores\).*; leave it alone"):
        measure_undisturbed(_target())


@pytest.mark.parametrize("wrong", [{"errors": {"repeat_median": 0.2, "after_median": 0.1}}, {"interval": (0.2, 4.2)}])
def test_measurements_that_contradict_each_other_are_not_kept(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"repeat_median": 0.01, "after_median": 0.1}
    fitted = replace(defaults(_target()), calibrated=True, **{"errors": errors, "interval": (0.9, 1.1), **wrong})
    monkeypatch.setattr(calibration, "fit", lambda target, measured: fitted)
    with pytest.raises(InputError, match="no better than the defaults; leave the machine alone"):
        calibrate(_target(), [], {})


@pytest.mark.usefixtures("idle")
def test_a_machine_that_changes_meanwhile_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(({"driver": "1", "clock": "a"}, {"driver": "2", "clock": "a"}))
    monkeypatch.setattr(calibration, "state_of", lambda target: next(states))
    monkeypatch.setattr(calibration, "measure", lambda target, **how: [])
    with pytest.raises(InputError, match="changed while it was measured: driver from 1 to 2; leave it alone"):
        measure_undisturbed(_target())


def _target() -> Target:
    return TARGETS["cpu"]
