"""The calibration of a device: a file that is read back, or refused, or not used because the machine changed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laudc.errors import StorageError
from laudc.latency import constants, machine
from laudc.latency.constants import Calibration, calibration_for, calibration_path, defaults
from laudc.targets import TARGETS, Target

NAMES = ("cpu", "v100")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path))


def fitted(target: Target) -> Calibration:
    return Calibration(
        constants=replace(defaults(target).constants),
        interval=(0.9, 1.2),
        calibrated=True,
        state={"driver": "570.1"},
        errors={"after_median": 0.07, "after_p90": 0.15},
    )


def write(target: Target, values: object) -> None:
    calibration_path(target).write_text(json.dumps(values))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The state of the machine; every target is its own."""
    state = {"driver": "570.1"}
    monkeypatch.setattr(machine, "state_of", lambda target: state)
    monkeypatch.setattr(machine, "local_target", lambda: TARGETS["v100"])
    return state


@pytest.mark.parametrize("name", NAMES)
def test_a_calibration_is_read_back_as_it_was_written(name: str, here: dict[str, str]) -> None:
    target = TARGETS[name]
    first, *others = defaults(target).to_json()["constants"].items()  # type: ignore[attr-defined]
    changed = replace(
        fitted(target), constants=replace(defaults(target).constants, **{first[0]: math.pi, others[-1][0]: 1e-7})
    )
    write(target, changed.to_json())
    assert calibration_for(target) == changed


@pytest.mark.parametrize("name", NAMES)
def test_without_a_calibration_the_defaults_hold_and_say_so(name: str) -> None:
    target = TARGETS[name]
    found = calibration_for(target)
    assert found == defaults(target)
    assert (found.calibrated, found.words) == (False, "uncalibrated")
    low, high = found.interval
    assert low <= 0.5 < 2 <= high


def test_words_tell_the_error() -> None:
    assert fitted(TARGETS["v100"]).words == "calibrated (single kernels: median error 7%, p90 15%)"


def edited(**changes: Any) -> dict[str, Any]:
    return {**fitted(TARGETS["v100"]).to_json(), **changes}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        edited(format=2),
        edited(interval=[1.0]),
        edited(constants={}),
        edited(constants={**edited()["constants"], "surplus": 1.0}),
        edited(constants=fitted(TARGETS["cpu"]).to_json()["constants"]),
        edited(constants={**edited()["constants"], "start_us": "x"}),
        edited(constants={**edited()["constants"], "start_us": 0.0}),
        edited(constants={**edited()["constants"], "start_us": math.nan}),
        edited(errors=None),
    ],
    ids=["list", "empty", "format", "interval", "none", "one more", "another kind's", "word", "zero", "nan", "errors"],
)
def test_a_file_that_is_no_calibration_is_refused_in_one_line(values: object) -> None:
    write(TARGETS["v100"], values)
    with pytest.raises(StorageError, match=r"^the calibration of v100 is no .*; run `laudc calibrate` again$"):
        calibration_for(TARGETS["v100"])


def test_a_file_that_is_no_json_is_refused() -> None:
    calibration_path(TARGETS["v100"]).write_text("{")
    with pytest.raises(StorageError, match="run `laudc calibrate` again"):
        calibration_for(TARGETS["v100"])


def test_a_calibration_of_another_state_is_not_used_and_the_difference_named(here: dict[str, str]) -> None:
    target = TARGETS["v100"]
    write(target, fitted(target).to_json())
    here["driver"] = "580.2"
    found = calibration_for(target)
    assert found.constants == defaults(target).constants
    assert found.words == "uncalibrated; its calibration was taken with driver 570.1: run `laudc calibrate` again"
    assert found.interval == defaults(target).interval


def test_of_a_device_that_is_elsewhere_the_state_does_not_matter(
    here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS["h200"]
    write(target, fitted(target).to_json())
    here["driver"] = "580.2"
    assert calibration_for(target).calibrated


def test_a_calibration_is_for_one_device_whatever_it_is_called() -> None:
    v100, cpu = TARGETS["v100"], TARGETS["cpu"]
    assert calibration_path(replace(v100, name="mine", title="Mine")) == calibration_path(v100)
    assert calibration_path(replace(v100, dram_gb_per_s=901)) != calibration_path(v100)
    assert calibration_path(replace(cpu, clock_mhz=2900)) == calibration_path(cpu)  # what Linux says of it wanders
    assert calibration_path(replace(cpu, sm_count=3)) != calibration_path(cpu)


def test_without_a_folder_of_its_own_it_lies_beside_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LAUDC_CALIBRATION")
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path / "cache"))
    assert calibration_path(TARGETS["v100"]).parent == tmp_path / "cache" / "calibration"
    assert constants.calibration_for(TARGETS["v100"]) == defaults(TARGETS["v100"])
