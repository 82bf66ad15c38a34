"""`laudc plan`: the file it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laudc.plan_file import read_plan

Cli = Callable[..., Any]
"""A command line -> `Said`, of conftest.py."""
TINY = ("plan", "net.py:Tiny", "--size", "32")


@pytest.fixture(autouse=True)
def _uncalibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path_factory.getbasetemp() / "plan-cache"))
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path / "nothing"))


def test_it_writes_a_plan_and_says_why(cli: Cli, folder: Path) -> None:
    said = cli(*TINY, "--target", "jetson-tx2", "--batch", "64", "--rate", ".25")
    assert (said.exit_code, said.err) == (0, "")
    plan = read_plan(folder / "plan.toml")
    basis = plan.basis
    assert (basis.model, basis.target, basis.batch, basis.size) == ("net.py:Tiny", "jetson-tx2", 64, (32, 32))
    assert (basis.rate, basis.paradigm, basis.calibration) == (0.25, "auto", "uncalibrated")
    assert list(plan.blocks) == ["blocks.0", "blocks.1"]
    assert any(plan.blocks.values())
    lines = said.out.splitlines()
    for block, pairs in plan.blocks.items():
        row = next(line for line in lines if line.strip().startswith(block))
        assert (" of static with " in row) == bool(pairs)
    total = next(line for line in lines if line.startswith("whole network, predicted: static "))
    assert total.count(" ms (") == 2
    assert "jetson-tx2 is uncalibrated: expect from 0.5 to 2 times what is predicted" in lines
    assert lines[-1] == "wrote plan.toml"


def test_the_same_question_makes_the_same_file(cli: Cli, folder: Path) -> None:
    for name in ("one.toml", "two.toml"):
        assert cli(*TINY, "--target", "v100", "--batch", "8", "-o", name).exit_code == 0
    assert (folder / "one.toml").read_bytes() == (folder / "two.toml").read_bytes()


def test_a_plan_that_was_made_is_written_again_without_torch(cli: Cli, folder: Path) -> None:
    arguments = ("plan", "resnet18", "--size", "64", "--target", "v100", "--paradigm", "layer")
    first = cli(*arguments)
    made = (folder / "plan.toml").read_bytes()
    program = f"import sys; sys.modules['torch'] = None; from laudc.cli import main; main({[*arguments, '--force']!r})"
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ}
    )  # readline puts a COLUMNS behind it
    assert (again.stdout, again.stderr) == (first.out, "")
    assert (folder / "plan.toml").read_bytes() == made


def test_another_question_has_another_plan(cli: Cli) -> None:
    def facts(**other: str) -> object:
        asked = {"target": "jetson-tx2", "paradigm": "layer", "size": "32"} | other
        words = [word for name, value in asked.items() for word in (f"--{name}", value)]
        return json.loads(cli("plan", "net.py:Tiny", *words, "--json", "--force").out)

    others = ({"rate": "0.4"}, {"batch": "2"}, {"target": "v100"}, {"size": "64"}, {"paradigm": "channel"})
    plan = facts()
    assert all(facts(**other) != plan for other in others)


def test_json_holds_the_same_facts(cli: Cli, folder: Path) -> None:
    said = cli(*TINY, "--target", "jetson-tx2", "--batch", "64", "--rate", ".25", "--paradigm", "layer", "--json")
    facts = json.loads(said.out)
    plan = read_plan(folder / "plan.toml")
    assert (facts["file"], facts["hash"], facts["target"]) == ("plan.toml", plan.hash, "jetson-tx2")
    assert [block["decisions"] for block in facts["blocks"]] == [
        [f"{paradigm} {size}" for paradigm, size in pairs] for pairs in plan.blocks.values()
    ]
    assert all(set(block["weighed"]) == {"layer"} for block in facts["blocks"])
    for side in ("static_ms", "planned_ms"):
        assert facts[f"{side}_interval"] == [share * facts[side] for share in facts["interval"]]
    assert facts["planned_ms"] < facts["static_ms"]


def test_where_nothing_gains_every_block_stays_static_and_it_says_so(cli: Cli, folder: Path) -> None:
    said = cli(*TINY, "--target", "v100", "--rate", "1")
    assert said.exit_code == 0
    assert set(read_plan(folder / "plan.toml").blocks.values()) == {()}
    assert "dynamic is predicted to be no faster than static" in said.out
    assert said.out.count("static: the best, ") == 2


def test_without_a_target_it_plans_for_this_machine(cli: Cli, folder: Path) -> None:
    assert cli(*TINY, "--paradigm", "layer").exit_code == 0
    assert read_plan(folder / "plan.toml").basis.target in ("cpu", "h200")


def test_a_file_that_is_there_is_replaced_only_with_force(cli: Cli, folder: Path) -> None:
    (folder / "plan.toml").write_text("mine")
    arguments = (*TINY, "--target", "v100", "--paradigm", "layer")
    assert cli(*arguments).error == (
        "plan.toml exists; give another name, or replace it (--force, in Python force=True)"
    )
    assert (folder / "plan.toml").read_text() == "mine"
    assert cli(*arguments, "--force").exit_code == 0
    assert read_plan(folder / "plan.toml").basis.paradigm == "layer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "v10"), "no target 'v10'"),
        (("--rate", "1.5"), "the rate 1.5 is not a number from 0 to 1"),
        (("--rate", "nan"), "the rate nan is not a number from 0 to 1"),
        (("--margin", "1"), "the margin 1.0 is no share from 0 to 1"),
        (("--paradigm", "spacial"), "no paradigm 'spacial'"),
        (("--target", "cpu", "--dtype", "float16"), "cpu does not compute in 'float16'"),
        (("-o", "none/plan.toml"), "there is no folder none"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_nothing_written(
    cli: Cli, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = cli(*TINY, *arguments)
    assert found.exit_code != 0
    assert said in found.error
    assert not (folder / "plan.toml").exists()


def test_a_network_without_blocks_is_refused(cli: Cli) -> None:
    assert "no residual block" in cli("plan", "net.py:Plain", "--size", "32", "--target", "v100").error
