"""`laudc predict` tells what a device will take, and how far to trust that."""

from __future__ import annotations

import csv
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    assert [float(row["dynamic_us"]) for row in rows[:2]] == [one["dynamic_us"] for one in facts["blocks"]]
    assert {row["calibration"] for row in rows} == {"uncalibrated"}


def test_a_second_prediction_is_remembered(cli: Cli) -> None:
    first = cli("predict", "resnet18", "--target", "v100", "--size", "64")
    start = time.perf_counter()
    again = cli("predict", "resnet18", "--target", "v100", "--size", "64")
    assert time.perf_counter() - start < 0.5
    assert again.out == first.out


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
    facts = json.loads(cli("predict", *TINY, "--sweep", "batch", "--json").out)
    assert facts["plot"] == "predict-batch.png"
    assert Path("predict-batch.png").read_bytes().startswith(b"\x89PNG")
    assert {point["x"] for point in facts["points"]} == {1, 2, 4, 8, 16, 32, 64, 128}
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


def test_a_converted_file_has_its_granularity_already(cli: Cli, converted: Path) -> None:
    said = cli("predict", str(converted), "--target", "v100", "--sweep", "granularity")
    assert said.error.startswith("tiny-spatial.laud has its granularity already")


def test_without_matplotlib_a_sweep_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = cli("predict", "resnet18", "--sweep", "rate")
    assert said.exit_code == 5
    assert "pip install 'laudc[plot]'" in said.error
