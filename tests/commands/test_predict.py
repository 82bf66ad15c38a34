"""`laudc predict` tells what a device will take, and how far to trust that."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laudc.commands.predict import _even
from laudc.latency.prediction import BlockPrediction
from laudc.report import console

Cli = Callable[..., Any]  # conftest.Said
TINY = ("net.py:Tiny", "--size", "32", "--target", "v100")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from earlier runs, and no calibration of this machine's user counts."""
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path_factory.getbasetemp() / "predict-cache"))


def test_it_prints_blocks_totals_and_how_far_to_trust_them(cli: Cli) -> None:
    said = cli("predict", *TINY, "--batch", "64", "--rate", "0.25")
    assert said.exit_code == 0
    lines = said.out.splitlines()
    assert lines[0] == (
        "net.py:Tiny, spatial, on NVIDIA Tesla V100 SXM2 16 GB: batch 64, rate 0.25, float32, images of 32x32"
    )
    assert [line.split()[0] for line in lines if line.startswith(" blocks")] == ["blocks.0", "blocks.1"]
    assert "whole network, predicted: static" in said.out
    assert lines[-1] == "v100 is uncalibrated: expect from 0.5 to 2 times what is predicted"


def test_it_says_plainly_where_dynamic_is_slower(cli: Cli) -> None:
    said = cli("predict", *TINY, "--rate", "1")
    assert "dynamic is predicted to be slower than static at this rate" in said.out
    assert "slower than static at this rate: blocks.0, blocks.1" in said.out


def test_json_and_csv_hold_the_same_numbers(cli: Cli) -> None:
    said = cli("predict", *TINY, "--paradigm", "layer", "--json", "--csv", "tiny.csv")
    facts = json.loads(said.out)
    assert facts["calibration"] == "uncalibrated"
    assert facts["dynamic_us_interval"] == [0.5 * facts["dynamic_us"], 2 * facts["dynamic_us"]]
    assert [one["decisions"] for one in facts["blocks"]] == ["layer", "layer"]
    rows = list(csv.DictReader(Path("tiny.csv").read_text().splitlines()))
    assert [row["block"] for row in rows] == ["blocks.0", "blocks.1", "whole network"]
    for row, one in zip(rows, facts["blocks"], strict=False):
        assert row.keys() - one.keys() == {"target", "calibration"}
        assert {name: row[name] for name in one} == {name: str("" if it is None else it) for name, it in one.items()}
    assert {row["calibration"] for row in rows} == {"uncalibrated"}


def test_a_second_prediction_is_remembered_and_needs_no_torch(cli: Cli) -> None:
    arguments = ["predict", "resnet18", "--target", "v100", "--size", "64"]
    first = cli(*arguments)
    program = f"import sys; sys.modules['torch'] = None; from laudc.cli import main; main({arguments!r})"
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ}
    )  # readline puts a COLUMNS behind it
    assert (again.stdout, again.stderr) == (first.out, "")


def test_a_converted_file_brings_its_plan(cli: Cli, converted: Path) -> None:
    said = cli("predict", str(converted), "--target", "v100", "--json")
    assert said.exit_code == 0
    by_name = cli("predict", *TINY, "--json")
    assert json.loads(said.out)["dynamic_us"] == json.loads(by_name.out)["dynamic_us"]


def test_a_plan_file_brings_target_batch_and_rate(cli: Cli) -> None:
    assert cli("plan", *TINY, "--batch", "8", "--rate", "0.3").exit_code == 0
    facts = json.loads(cli("predict", "--plan", "plan.toml", "--json").out)
    assert (facts["model"], facts["target"], facts["batch"], facts["rate"]) == ("net.py:Tiny", "v100", 8, 0.3)
    elsewhere = json.loads(cli("predict", "--plan", "plan.toml", "--target", "jetson-tx2", "--json").out)
    assert elsewhere["target"] == "jetson-tx2"


def test_a_plan_of_another_network_is_refused(cli: Cli) -> None:
    cli("plan", *TINY)
    said = cli("predict", "resnet18", "--plan", "plan.toml")
    assert said.exit_code == 2
    assert said.error.startswith("the plan is for net.py:Tiny (digest ")
    assert "), this is resnet18 (digest " in said.error


@pytest.mark.parametrize(("axis", "largest"), [("rate", 1), ("granularity", 16)])
def test_a_sweep_draws_and_tabulates(axis: str, largest: float, cli: Cli) -> None:
    said = cli("predict", *TINY, "--sweep", axis, "-o", "sweep.svg", "--csv", "sweep.csv")
    assert said.exit_code == 0, said.err
    assert "wrote sweep.svg" in said.out
    assert "uncalibrated" in Path("sweep.svg").read_text()
    rows = list(csv.DictReader(Path("sweep.csv").read_text().splitlines()))
    assert max(float(row[axis]) for row in rows) == largest
    assert {"spatial", "channel"} <= {row["line"] for row in rows} | {row["panel"] for row in rows}


@pytest.mark.slow
def test_a_sweep_over_the_batch_draws_and_tabulates(cli: Cli) -> None:
    facts = json.loads(cli("predict", *TINY, "--sweep", "batch", "--json", "-o", "predict-batch.png").out)
    assert facts["plot"] == "predict-batch.png"
    assert Path("predict-batch.png").read_bytes().startswith(b"\x89PNG")
    assert {point["batch"] for point in facts["points"]} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert {point["line"] for point in facts["points"]} == {"spatial", "layer", "channel"}


def test_an_ablation_names_every_fusion(cli: Cli) -> None:
    cases = json.loads(cli("predict", *TINY, "--ablate", "fusion", "--json").out)["cases"]
    us = {case["without"]: case["dynamic_us"] for case in cases}
    assert {"nothing", "gather-conv", "masker-conv", "scatter-add", "all of them"} <= us.keys()
    assert us["all of them"] > us["nothing"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        ((), 2, "there is nothing to predict; name a network, a converted .laud file, or --plan FILE"),
        (("resnet18", "--rate", "1.5"), 2, "the rate 1.5 is not a number from 0 to 1"),
        (("resnet18", "--rate", "-0.1"), 2, "the rate -0.1 is not a number from 0 to 1"),
        (("resnet18", "--rate", "nan"), 2, "the rate nan is not a number from 0 to 1"),
        (("resnet18", "--sweep", "rates"), 2, "no sweep 'rates'; did you mean rate?"),
        (("resnet18", "--ablate", "layout"), 2, "no ablation 'layout'; there are fusion"),
        (("resnet18", "--sweep", "rate", "--ablate", "fusion"), 2, "a sweep and an ablation are two things"),
        (("resnet18", "--sweep", "rate", "-o", "a.pdf"), 2, "a.pdf is neither a .png nor a .svg"),
        (("resnet18", "--sweep", "rate", "-o", "no/where.png"), 7, "there is no folder no; make it first"),
        (("resnet18", "-o", "a.png"), 2, "-o names the plot of a sweep, and none was asked for"),
        (("resnet18", "--csv", "no/where.csv"), 7, "there is no folder no; make it first"),
        (("resnet18", "--csv", "net.py"), 2, "net.py exists; give another name, or replace it"),
        (("plan.toml",), 2, "plan.toml is no network; give it as --plan plan.toml"),
        (("resnet18", "--paradigm", "auto", "--granularity", "4"), 2, "the planner chooses the granularity, too"),
        (("resnet18", "--costing", "papers"), 2, "no costing 'papers'; did you mean paper?"),
        (("resnet18", "--costing", "paper", "--target", "v10"), 2, "no device of the paper 'v10'; did you mean v100?"),
        (("resnet18", "--costing", "paper"), 2, "the paper's costing does not know this machine; give --target"),
        (("--costing", "paper", "--target", "v100"), 2, "there is nothing to predict"),
        (("resnet18", "--costing", "paper", "--sweep", "rate"), 2, "the paper's costing takes no --sweep"),
        (("regnet_y_400mf", "--costing", "paper", "--target", "v100"), 2, "regnet_y_400mf needs its granularity"),
        (("resnet18", "--plan", "none.toml"), 2, "none.toml cannot be read"),
        (("resnet18", "--paradigm", "token"), 2, "no paradigm 'token'"),
        (("resnet18", "--target", "v10"), 2, "no target 'v10'"),
        (("resnet18", "--target", "v100", "--dtype", "float64"), 2, "v100 does not compute in 'float64'"),
        (("resnet18", "--plan", "plan.toml", "--paradigm", "layer"), 2, "plan.toml says what is skipped; leave"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: tuple[str, ...], exit_code: int, words: str, cli: Cli) -> None:
    said = cli("predict", *arguments)
    assert said.error.startswith(words)
    assert said.exit_code == exit_code


def test_the_planner_may_choose_what_is_skipped(cli: Cli) -> None:
    asked = ("--batch", "8", "--rate", "0.3", "--json")
    said = cli("predict", *TINY, "--paradigm", "auto", *asked)
    assert said.exit_code == 0, said.err
    plan = json.loads(cli("plan", *TINY, *asked).out)
    facts = json.loads(said.out)
    assert facts["dynamic_us"] == pytest.approx(1e3 * plan["planned_ms"])
    assert [one["decisions"] for one in facts["blocks"]] == [" + ".join(one["decisions"]) for one in plan["blocks"]]


@pytest.mark.parametrize(
    ("break_even", "words"),
    [(None, "never"), (1.0, "always"), (0.0, "below 0.001"), (0.0048828125, "0.0049"), (0.4560546875, "0.46")],
)
def test_a_break_even_rate_has_two_digits_however_small(break_even: float | None, words: str) -> None:
    block = BlockPrediction(
        block="a", decisions="layer", static_us=1, dynamic_us=1, bound="dram", break_even=break_even
    )
    assert _even(block) == words


def test_the_help_says_which_tiles_the_break_even_rate_is_for(cli: Cli) -> None:
    said = " ".join(cli("predict", "--help").out.split())
    assert "A break-even rate is for the tiles that are chosen at the rate asked for." in said


@pytest.mark.parametrize("axis", ["rate", "granularity"])
def test_a_sweep_tells_how_far_it_is(axis: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    @contextmanager
    def progress(description: str) -> Iterator[Callable[[str], None]]:
        yield heard.append

    monkeypatch.setattr(console, "progress", progress)
    cli("predict", *TINY, "--rate", "0.45", "--sweep", axis, "--json")
    total = {"rate": 3, "granularity": 2}[axis]
    assert heard == [console.bar(f"predicting over the {axis}", ready, total) for ready in range(total)]


def test_a_converted_file_has_its_granularity_already(cli: Cli, converted: Path) -> None:
    said = cli("predict", str(converted), "--target", "v100", "--sweep", "granularity")
    assert said.error.startswith("tiny-spatial.laud has its granularity already")


def test_without_matplotlib_a_sweep_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = cli("predict", "resnet18", "--sweep", "rate")
    assert said.exit_code == 5
    assert said.error.endswith("pip install matplotlib")


@pytest.mark.parametrize("form", [("--json",), ("--csv", "points.csv")])
def test_points_alone_need_no_matplotlib(form: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = cli("predict", *TINY, "--sweep", "rate", *form)
    assert said.exit_code == 0, said.err
    assert not list(Path().glob("predict-*"))
