"""The devices of the published predictor: a file in which every number is stated with its source, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from laudc.errors import InputError, TargetError
from laudc.latency._paper_device import _FILE
from laudc.latency.paper import paper_devices
from laudc.targets import TARGETS


def test_the_devices_are_targets_too() -> None:
    assert sorted(paper_devices()) == ["jetson-nano", "jetson-tx2", "rtx3060", "rtx3090", "v100"]
    assert set(paper_devices()) <= set(TARGETS)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, str], Path]:
    """A copy of the devices' file with one piece of text replaced; its path."""

    def write(before: str, after: str) -> Path:
        text = _FILE.read_text()
        assert before in text
        path = tmp_path / "devices.toml"
        path.write_text(text.replace(before, after, 1))
        return path

    return write


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("clock_mhz = { value = 1500", "clock_mhz = { value = 1.5", "v100: clock_mhz is 1.5"),
        ("clock_mhz = { value = 1500", "clock_ghz = { value = 1.5", "v100: no fact 'clock_ghz'"),
        ("pe_count = { value = 80,", "pe_count = { value = 80.5,", "v100: pe_count is 80.5"),
        ('pe_count = { value = 80, source = "LAUDNet released predictor: n_pes" }', "pe_count = 80",
         "v100: pe_count does not state a value and its source"),
        ('value = 80, source = "LAUDNet released predictor: n_pes"', 'value = 80, source = " "',
         "v100: pe_count has no source"),
        ('pe_count = { value = 80, source = "LAUDNet released predictor: n_pes" }\n', "",
         "v100: no fact 'pe_count'"),
        ("[v100]", "v101 = 3\n[v100]", "common: no fact 'v101'"),
        ("[common]", "v101 = 3\n[common]", "v101 is not a table"),
        ("sector_fp32 =", "sector_fp16 =", "common: no fact 'sector_fp16'"),
        ("[v100]", "[v100", "not TOML"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_hold_names_the_device_and_the_field(
    edited: Callable[[str, str], Path], before: str, after: str, said: str
) -> None:
    with pytest.raises(TargetError) as caught:
        paper_devices(edited(before, after))
    assert said in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.toml"):
        paper_devices(tmp_path / "none.toml")
