"""A prediction compares a network with its static self, and is worked out once."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laudc.capture import capture
from laudc.latency.ablation import FUSED, UNFUSED, ablate_fusion
from laudc.latency.constants import defaults
from laudc.latency.planner import Search
from laudc.latency.prediction import Pair, Prediction, pair_of, predict
from laudc.latency.remembered import remembered
from laudc.latency.sweeps import NETWORK, rate_sweep
from laudc.passes.find_blocks import FindBlocks
from laudc.plan import Plan, make_plan
from laudc.program import Program
from laudc.targets import load_target
from laudc.testing import random_images, tiny, tiny_converted

V100 = load_target("v100")
SEARCH = Search(target=V100, calibration=defaults(V100), batch=64, size=(64, 64), dtype="float32", rate=0.25)


@functools.cache
def asked() -> tuple[Program, Plan]:
    program = tiny_converted("spatial")
    return program, make_plan(program.blocks)


@functools.cache
def pair() -> Pair:
    return pair_of(*asked(), SEARCH)


def test_the_totals_are_the_blocks_and_what_is_outside() -> None:
    found = predict(pair(), SEARCH)
    assert found.dynamic_us == pytest.approx(found.outside_us + sum(one.dynamic_us for one in found.blocks))
    assert [one.decisions for one in found.blocks[:2]] == ["spatial 2", "spatial 1"]


def test_the_break_even_rate_is_where_the_ratio_passes_one() -> None:
    found = predict(pair(), SEARCH)
    between = [one for one in found.blocks if one.break_even not in (None, 1.0)]
    assert between
    for one in between:
        assert one.break_even is not None
        static = pair().static.only(one.block).expected(SEARCH.calibration, 1.0).total_us
        below, above = (
            pair().dynamic.only(one.block).expected(SEARCH.calibration, rate).total_us
            for rate in (one.break_even, one.break_even + 2e-3)
        )
        assert below < static <= above


def test_a_plan_that_decides_nothing_costs_what_static_costs() -> None:
    program, plan = asked()
    captured = FindBlocks().run(capture(tiny(), random_images(1, 3, 64, 64)))
    found = predict(pair_of(captured, replace(plan, decisions=()), SEARCH), SEARCH)
    assert found.ratio == 1
    assert [one.break_even for one in found.blocks] == [None] * len(program.blocks)
    assert found.slower == ()


def test_a_prediction_survives_json() -> None:
    found = predict(pair(), SEARCH)
    assert Prediction.from_json(found.to_json()) == found


def test_a_rate_sweep_rises_in_every_panel() -> None:
    program, plan = asked()
    points = rate_sweep(program, {"spatial": plan}, SEARCH)
    panels = {one.panel for one in points}
    assert NETWORK in panels
    for panel in panels:
        ratios = [one.ratio for one in points if one.panel == panel]
        assert ratios == sorted(ratios)


def test_without_its_fusions_a_network_is_no_faster() -> None:
    cases = {case.without: case.dynamic_us for case in ablate_fusion(*asked(), SEARCH)}
    assert next(iter(cases)) == FUSED
    assert cases[UNFUSED] > cases[FUSED]


def test_an_answer_is_worked_out_once_and_again_for_other_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path))
    calls = []

    def make() -> dict[str, Any]:
        calls.append(1)
        return {"us": 0.1}

    known = SEARCH.calibration
    other = replace(known, constants=replace(known.constants, start_us=9.0))
    assert [remembered({"a": 1}, V100, known, make) for _ in range(2)] == [{"us": 0.1}] * 2
    assert len(calls) == 1
    remembered({"a": 2}, V100, known, make)
    remembered({"a": 1}, V100, other, make)
    remembered({"a": 1}, load_target("jetson-tx2"), known, make)
    assert len(calls) == 4
