"""scripts/latency_accuracy.py: the table of raw numbers, and where a calibration is read from."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import laudc
from laudc.compiled import Lowering, lower
from laudc.dynamic_model import DynamicModel
from laudc.latency import probe
from laudc.latency.calibration import fit
from laudc.latency.constants import Calibration, Constants, defaults
from laudc.latency.kernel import priced
from laudc.program import input_type
from laudc.targets import load_target
from laudc.testing import TinyNet, conditioned

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


@pytest.mark.parametrize(("machine", "words"), [
    ({"cpu": "x86_64"}, "Times are medians of 7 runs."),
    ({"gpu": "a GPU"}, "Times are means of the middle half of 7 replays of a CUDA graph."),
])  # fmt: skip
def test_the_table_says_what_a_time_is(accuracy: ModuleType, machine: dict[str, str], words: str) -> None:
    raw = json.loads((ROOT / "docs/benchmarks/latency-h200.json").read_text())
    assert f"\n{words} *Again*" in accuracy.table(raw | {"machine": machine, "rounds": 7})


@pytest.fixture(scope="module")
def measured() -> Callable[[], dict[str, Any]]:
    """What a small network was measured as, anew at each call, and never was: its times are made up."""
    network = tiny_layers()
    steps = network.executable.steps
    raw = {
        "case": {"network": "tiny", "paradigm": "layer", "granularity": None, "batch": 2},
        "schedules": {step.name: step.kernel.schedule for step in steps},
        "tiles": {step.name: dict(step.kernel.choice) for step in steps},
        "plans": [{"plan": "tiny", "group": "tiny", "held_out": True, "measured_us": 9.0, "again_us": 9.0, "rate": 0.5,
                   "blocks": {step.block: [4.0, 4.0] for step in steps if step.block}}],
    }  # fmt: skip
    return lambda: copy.deepcopy(raw)


def tiny_dynamic() -> DynamicModel:
    return laudc.transform(conditioned(TinyNet), torch.zeros(1, 3, 64, 64), paradigm="layer")


def tiny_layers() -> Lowering:
    model = tiny_dynamic()
    shape = (2, *input_type(model.program).shape[1:])
    return lower(model.program, H200, plan=model.plan, shape=shape, dtype="float16", without=())


@pytest.fixture
def priced_again(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[dict[str, Any]], tuple[dict[str, Any], str]]:
    """What --price makes of one measured case, and what it says on standard error."""
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path))
    monkeypatch.setattr(accuracy, "dynamic", lambda case: tiny_dynamic())
    kept = tmp_path / "latency-h200.json"

    def run(case: dict[str, Any]) -> tuple[dict[str, Any], str]:
        kept.write_text(json.dumps({"machine": {"gpu": "a GPU"}, "rounds": 20, "cases": [case]}))
        monkeypatch.setattr("sys.argv", ["accuracy", "--target", "h200", "--price", "-o", str(tmp_path)])
        with suppress(SystemExit):
            accuracy.main()
        return json.loads(kept.read_text())["cases"][0], capsys.readouterr().err

    return run


def test_what_was_measured_is_priced_again(measured: Any, priced_again: Any) -> None:
    case, said = priced_again(measured())
    assert said == ""
    assert case["plans"][0]["predicted_us"] > 0
    assert all(len(times) == 3 for times in case["plans"][0]["blocks"].values())
    older = {name: value for name, value in measured().items() if name != "schedules"}
    assert priced_again(older)[0]["plans"] == case["plans"]


@pytest.mark.parametrize("change", ["renamed", "dropped", "another schedule", "a tile of another schedule"])
def test_other_kernels_than_those_that_were_measured_are_not_priced(
    measured: Any, priced_again: Any, change: str
) -> None:
    case = measured()
    name = next(name for name, tile in case["tiles"].items() if "bm" in tile)
    match change:
        case "renamed":
            case["tiles"]["before"] = case["tiles"].pop(name)
        case "dropped":
            case["tiles"]["before"] = {"parallel": 0}
        case "another schedule":
            case["schedules"][name] = "conv-before"
        case _:
            del case["schedules"]
            case["tiles"][name] = {"parallel": 0}
    number, first = {"renamed": (2, name), "dropped": (1, "before")}.get(change, (1, name))
    after, said = priced_again(case)
    assert after == case
    assert said == (
        f"tiny layer batch 2 was measured with other kernels: {number} differ, such as {first}; "
        "measure it again, without --price\n"
    )


def test_kernels_that_raw_numbers_do_not_name_may_be_others(measured: Any, priced_again: Any) -> None:
    case = measured() | {"tiles": {}}
    assert priced_again(case) == (
        case,
        "tiny layer batch 2 was measured with kernels that it does not name; measure it again, without --price\n",
    )


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
        off = np.abs(predicted / np.maximum([one.measured_us for one in samples], 0.3) - 1)  # no kernel takes less
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
