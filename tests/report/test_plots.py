"""Plots are files that come out the same every time, and say what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from laudc.errors import InputError, ToolchainError
from laudc.report.plots import check_plot, ratio_plot

PANELS = {
    "layer1.2": {"spatial": [(0.0, 0.3), (1.0, 1.1)], "layer": [(0.0, 0.1), (1.0, 1.0)]},
    "whole network": {"spatial": [(0.0, 0.5), (1.0, 1.2)]},
}


def drawn(suffix: str, *, log_x: bool = False) -> bytes:
    return ratio_plot(suffix, "resnet50, uncalibrated", PANELS, x_label="rate", y_label="dynamic / static", log_x=log_x)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_same_lines_make_the_same_bytes(suffix: str, magic: bytes) -> None:
    first = drawn(suffix)
    assert first.startswith(magic)
    assert drawn(suffix) == first
    assert b"Matplotlib" not in first.replace(b"www.matplotlib.org", b"")


def test_every_panel_and_line_is_named() -> None:
    text = drawn(".svg", log_x=True).decode()
    for name in ("layer1.2", "whole network", "spatial", "layer", "rate", "resnet50, uncalibrated"):
        assert f"<!-- {name} -->" in text


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "plot.PNG"])
def test_another_kind_of_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is neither a .png nor a .svg; name such a file"):
        check_plot(Path(name))


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"matplotlib is not installed.*; pip install matplotlib"):
        check_plot(Path("plot.png"))
