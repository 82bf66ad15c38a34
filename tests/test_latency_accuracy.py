"""scripts/latency_accuracy.py: the table of raw numbers, and where a calibration is read from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from laudc.latency import probe
from laudc.latency.calibration import fit
from laudc.latency.constants import Calibration, Constants, defaults
from laudc.latency.kernel import priced
from laudc.targets import load_target

ROOT = Path(__file__).resolve().parent.parent
H200 = load_target("h200")


@pytest.fixture
def accuracy(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("latency_accuracy")


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_the_table_that_is_kept_is_that_of_its_raw_numbers(accuracy: ModuleType, target: str) -> None:
    kept = ROOT / f"docs/benchmarks/latency-{target}.json"
    raw = json.loads(kept.read_text())
    assert accuracy.table(raw) == kept.with_suffix(".md").read_text()
    raw["machine"]["gpu"] = "a GPU"
    assert accuracy.table(raw).startswith("# Predicted against measured latency on a GPU, float16\n")


def kept_fit() -> tuple[list[probe.Sample], Calibration]:
    """What was measured on an H200, and the constants that its predictions are made with."""
    kept = json.loads((ROOT / "docs/benchmarks/latency-h200-samples.json").read_text())
    raw = json.loads((ROOT / "docs/benchmarks/latency-h200.json").read_text())
    samples, state = probe.from_json(kept)
    assert json.loads(json.dumps(probe.to_json(samples, state))) == kept
    found = Calibration.from_json(raw["calibration"], H200)
    assert found.state == state
    return samples, found


def test_the_errors_that_are_told_are_those_of_the_constants_that_are_kept() -> None:
    samples, found = kept_fit()

    def errors(constants: Constants) -> tuple[float, float]:
        predicted = np.array([priced(one.cases, H200, constants).total_us for one in samples])
        off = np.abs(predicted / [one.measured_us for one in samples] - 1)
        return float(np.median(off)), float(np.quantile(off, 0.9))

    told = (found.errors["after_median"], found.errors["after_p90"])
    assert errors(found.constants) == pytest.approx(told, abs=0.005)  # the page tells whole per cent
    assert errors(defaults(H200).constants) != pytest.approx(told, abs=0.005)


@pytest.mark.slow
def test_the_fit_that_is_kept_is_that_of_its_samples() -> None:
    samples, found = kept_fit()

    def ratios(constants: Constants) -> list[float]:
        kept = asdict(found.constants)
        return [number / kept[name] for name, number in asdict(constants).items()]

    # an eighth: the defaults, which the fit leans on where samples say little, have moved a little since
    assert ratios(fit(H200, samples).constants) == pytest.approx([1.0] * len(ratios(found.constants)), rel=0.125)
    assert ratios(defaults(H200).constants) != pytest.approx([1.0] * len(ratios(found.constants)), rel=0.5)


def test_only_pricing_reads_the_calibration_that_is_given(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUDC_CALIBRATION", "/before")
    with accuracy._calibrated(tmp_path):
        assert os.environ["LAUDC_CALIBRATION"] == str(tmp_path)
    assert os.environ["LAUDC_CALIBRATION"] == "/before"
    monkeypatch.delenv("LAUDC_CALIBRATION")
    with accuracy._calibrated(None):
        assert "LAUDC_CALIBRATION" not in os.environ
    assert "LAUDC_CALIBRATION" not in os.environ
