"""`laudc predict --costing paper` tells what the published model says."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laudc.latency import paper

Cli = Callable[..., Any]  # conftest.Said
PAPER = ("--costing", "paper", "--target")


def test_it_prints_blocks_and_their_sum(cli: Cli) -> None:
    said = cli("predict", "resnet18", *PAPER, "jetson-tx2", "--rate", "0.25")
    assert said.exit_code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "resnet18, spatial, on the paper's jetson-tx2: batch 1, rate 0.25; ms an image"
    assert sum(line.startswith(" layer") for line in lines) == 8
    assert lines[-1].startswith("residual blocks, by the paper's model: static ")


def test_its_numbers_are_the_models(cli: Cli) -> None:
    said = cli("predict", "regnet_y_400mf", *PAPER, "v100", "--granularity", "4-4-2-1", "--json", "--csv", "paper.csv")
    facts = json.loads(said.out)
    blocks, device = paper.regnet_y("regnet_y_400mf"), paper.paper_device("v100")
    dynamic = paper.network_dynamic_us(blocks, device, "spatial", (4, 4, 2, 1), 0.5) / 1e3
    assert facts["static_ms"] == pytest.approx(paper.network_static_us(blocks, device) / 1e3)
    assert facts["dynamic_ms"] == pytest.approx(dynamic)
    assert (facts["costing"], facts["batch"], len(facts["blocks"])) == ("paper", 128, 16)
    *rows, total = csv.DictReader(Path("paper.csv").read_text().splitlines())
    assert total["block"] == "residual blocks"
    for row, one in zip(rows, facts["blocks"], strict=True):
        assert {name: row[name] for name in one} == {name: str(value) for name, value in one.items()}


def test_layers_need_no_granularity(cli: Cli) -> None:
    said = cli("predict", "regnet_y_800mf", *PAPER, "v100", "--paradigm", "layer", "--json")
    assert {one["decisions"] for one in json.loads(said.out)["blocks"]} == {"layer"}


def test_paradigms_that_the_paper_does_not_combine_are_refused(cli: Cli) -> None:
    said = cli("predict", "resnet18", *PAPER, "v100", "--paradigm", "spatial+channel")
    assert said.error.startswith("no paradigm of the paper 'spatial+channel'")
