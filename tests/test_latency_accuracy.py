"""scripts/latency_accuracy.py: the table of raw numbers, and where a calibration is read from."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from laudc.latency import probe
from laudc.latency.constants import Calibration
from laudc.latency.kernel import priced
from laudc.targets import load_target

ROOT = Path(__file__).resolve().parent.parent


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


def test_the_fit_that_is_kept_is_that_of_its_samples() -> None:
    kept = ROOT / "docs/benchmarks/latency-h200-samples.json"
    target = load_target("h200")
    raw = json.loads((ROOT / "docs/benchmarks/latency-h200.json").read_text())
    samples, state = probe.from_json(json.loads(kept.read_text()))
    assert json.loads(json.dumps(probe.to_json(samples, state))) == json.loads(kept.read_text())
    found = Calibration.from_json(raw["calibration"], target)
    assert state == found.state
    ratios = [priced(one.cases, target, found.constants).total_us / one.measured_us for one in samples]
    assert abs(statistics.median(ratios) - 1) < 0.1


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
