"""`laudc verify`: the ladder as a table, and the exit code that names the first rung that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laudc.ladder
from laudc.ladder import Rung

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""


def test_every_rung_of_a_compiled_file_holds(cli: Cli, compiled: Path) -> None:
    said = cli("verify", str(compiled), "--rates", ".5")
    assert (said.exit_code, said.err) == (0, "")
    rungs = [line.split()[:2] for line in said.out.splitlines() if "equal" in line.split()]
    assert [name for name, _ in rungs] == ["static", "pass", "lowered", "kernel", "compiled", "decisions", "file"]
    comparisons = sum(int(count) for _, count in rungs)
    assert said.out.splitlines()[-1] == f"all 7 rungs hold ({comparisons} comparisons)"


def test_a_converted_file_climbs_the_rungs_that_need_no_kernels(cli: Cli, converted: Path) -> None:
    rungs = json.loads(cli("verify", str(converted), "--rates", "0,1", "--json").out)
    assert {rung["rung"] for rung in rungs} == {"static", "pass", "lowered"}
    assert all(rung["passed"] for rung in rungs)


@pytest.mark.parametrize("error", [0.3, float("inf")])
def test_the_first_failing_rung_is_named(
    error: float, cli: Cli, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs = (
        Rung(name="static", where="whole network", error=0.0, bar=1e-4),
        Rung(name="pass", where="fuse_conv_add at blocks.1", error=error, bar=1e-4),
    )
    monkeypatch.setattr(laudc.ladder, "climb", lambda *_, **__: rungs)
    found = cli("verify", str(converted))
    assert found.exit_code == 6
    assert found.err.startswith("error: the rung 'pass' fails at fuse_conv_add at blocks.1: ")
    assert len(found.err.splitlines()) == 1
    assert "FAILS" in found.out
    assert cli("verify", str(converted), "--json").exit_code == 6


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("tiny-spatial.laud", "--rates", "0,2"), 2, "the rate 2.0 is not a number from 0 to 1"),
        (("tiny-spatial.laud", "--rates", "0,nan"), 2, "the rate nan is not a number from 0 to 1"),
        (("tiny-spatial.laud", "--rates", "half"), 2, "the rates 'half' are not numbers; write them like 0,.1,.5,1"),
        (("missing.laud",), 2, "there is no file missing.laud"),
        (("net.py",), 4, "net.py is cut, changed or no .laud file"),
    ],
)
def test_what_cannot_be_verified_is_one_line(
    arguments: tuple[str, ...], exit_code: int, said: str, cli: Cli, converted: Path
) -> None:
    found = cli("verify", *arguments)
    assert said in found.error
    assert found.exit_code == exit_code
