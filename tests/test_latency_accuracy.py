"""scripts/latency_accuracy.py: the table of raw numbers, and where a calibration is read from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def accuracy(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("latency_accuracy")


def test_the_table_that_is_kept_is_that_of_its_raw_numbers(accuracy: ModuleType) -> None:
    kept = ROOT / "docs/benchmarks/latency-cpu.json"
    raw = json.loads(kept.read_text())
    assert accuracy.table(raw) == kept.with_suffix(".md").read_text()
    raw["machine"]["gpu"] = "a GPU"
    assert accuracy.table(raw).startswith("# Predicted against measured latency on a GPU, float16\n")


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
