"""What goes to stdout can be searched and parsed; what goes to stderr stays out of the way."""

from __future__ import annotations

import io
import json
import threading

import pytest

from laudc.report.console import Json, print_json, progress, table


class Terminal(io.StringIO):
    """A terminal that tells when something was shown on it."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "working" in text:
            self.shown.set()
        return super().write(text)


def test_a_piped_table_wraps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    long = "layer3." * 60
    table("Blocks of the network", ["block", "type"], [[long, "float32[1, 3, 224, 224]"]])
    said = capsys.readouterr().out
    assert said.startswith("Blocks of the network\n")
    assert long in said
    assert "float32[1, 3, 224, 224]" in said


def test_a_pipe_is_as_wide_as_columns_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table("Refusals", ["where", "why"], [["layer1", "it is read twice " * 9]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 40


def test_numbers_stand_on_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    table("Times", ["kernel", "us"], [["conv", 7], ["the same", ""], ["gather", 1234]])
    lines = [line for line in capsys.readouterr().out.splitlines() if "conv" in line or "gather" in line]
    assert lines[0].rstrip().endswith("   7")
    assert lines[1].rstrip().endswith("1234")


def test_an_empty_table_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table("Nothing", ["block"], [])
    assert "block" in capsys.readouterr().out


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    value: Json = {"rate": 0.5, "blocks": ["a", None, True]}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_json_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"rate": float("nan")})


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working", after_s=0) as say:
        say("still working")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_short_work_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("working", after_s=3600) as say:
        say("still working")
    assert "working" not in terminal.getvalue()


def test_long_work_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("working", after_s=0):
        assert terminal.shown.wait(30)
