"""What each block gets: the finest choice that is nearly the fastest, or to stay static, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laudc.convert import read_blocks
from laudc.errors import InputError, PlanError
from laudc.latency import planner
from laudc.latency._time import Time
from laudc.latency.constants import defaults
from laudc.latency.network import NetworkTime
from laudc.latency.planner import Search, choose_blocks, plan_of, planned, whole_network
from laudc.ops._masker import Masker
from laudc.ops.channel_masker import ChannelMaskerSpec
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.plan import Plan
from laudc.program import Program
from laudc.targets import TARGETS
from laudc.testing import TinyNet

V100 = TARGETS["v100"]
SEARCH = Search(
    target=V100, calibration=defaults(V100), batch=2, size=(64, 64), dtype="float32", rate=0.5, paradigm="auto"
)
Price = Callable[[str, str, int], float]
"""Block, paradigm and decisions of one side (spatial), of all (channel) or 0 (layer) -> microseconds; static: 100."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def program() -> Program:
    return read_blocks(TinyNet().eval(), torch.zeros(1, 3, 64, 64))


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Price], list[int]]:
    """Puts a price list in the place of the model; every call of it adds to the list that comes back."""

    def prices(cost: Price) -> list[int]:
        calls: list[int] = []

        def price(program: Program, search: Search, plan: Plan | None = None) -> NetworkTime:
            us = {block.name: 100.0 for block in program.blocks}
            for _, op in program.ops():
                if isinstance(op, Masker):
                    block, _, paradigm = op.key.rpartition(".")
                    spec = op.spec
                    if isinstance(spec, ChannelMaskerSpec):
                        us[block] = cost(block, paradigm, spec.decisions)
                    elif isinstance(spec, PatchMaskerSpec):
                        us[block] = cost(block, paradigm, spec.granularity)
            calls.append(len(us))
            times = {name: Time(compute_us=value) for name, value in us.items()}
            return NetworkTime(steps=times, blocks=times)

        monkeypatch.setattr(planner, "price", price)
        return calls

    return prices


def chosen(program: Program, search: Search = SEARCH) -> dict[str, str]:
    return {one.block: one.chosen.words if one.chosen else "static" for one in choose_blocks(program, search)}


def test_the_finest_within_the_margin_of_the_fastest_is_chosen(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    prices = {1: 70.0, 2: 63.0, 4: 62.9, 8: 60.0}

    def cost(block: str, paradigm: str, size: int) -> float:
        return prices.get(size, 90.0) if paradigm == "spatial" else 90.0

    priced(cost)
    first = choose_blocks(program, replace(SEARCH, paradigm="spatial", margin=0.049))[0]
    assert first.chosen is not None
    assert first.chosen.words == "spatial 4"
    for margin, words in ((0.051, "spatial 2"), (0.0, "spatial 8"), (0.2, "spatial 1")):
        again = planner._choose(first.block, first.static, first.weighed, margin)
        assert again.chosen is not None
        assert again.chosen.words == words


def test_among_as_many_decisions_the_faster_one_is_chosen(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    """16 channels by ones are 16 decisions, as are 4 x 4 patches."""

    def cost(block: str, paradigm: str, size: int) -> float:
        return {"spatial": 51.0 if size == 8 else 99.0, "channel": 50.0 if size == 16 else 99.0}.get(paradigm, 99.0)

    priced(cost)
    assert chosen(program)["stage1.0.branch"] == "channel 1"


def test_a_block_that_nothing_speeds_up_stays_static_and_says_why(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    def cost(block: str, paradigm: str, size: int) -> float:
        if block == "stage4.0.branch":
            return 100.0 if paradigm == "layer" else 130.0
        return 50.0

    priced(cost)
    choices = {one.block: one for one in choose_blocks(program, SEARCH)}
    static = choices["stage4.0.branch"]
    assert static.chosen is None
    assert static.why == "static: the best, layer, is predicted at 1.00 of it (compute bound)"
    assert all(one.chosen for name, one in choices.items() if name != "stage4.0.branch")
    plan = plan_of(tuple(choices.values()), SEARCH)
    assert {decision.block for decision in plan.decisions} == choices.keys() - {"stage4.0.branch"}
    assert [(refusal.where, refusal.reason) for refusal in plan.refusals] == [("stage4.0.branch", static.why)]


def test_a_finer_choice_that_would_be_slower_than_static_is_not_taken(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    priced(lambda block, paradigm, size: 99.0 if paradigm == "layer" else 101.0)
    assert set(chosen(program).values()) == {"layer"}


def test_a_reason_names_the_fastest_where_another_is_taken(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    priced(lambda block, paradigm, size: {("spatial", 4): 61.0, ("layer", 0): 60.0}.get((paradigm, size), 90.0))
    first = choose_blocks(program, SEARCH)[0]
    assert first.why == "spatial 4: 0.61 of static with 64 decisions; fastest layer, 0.60 with 1"


def test_paradigms_that_are_named_are_weighed_together(program: Program, priced: Callable[[Price], list[int]]) -> None:
    priced(lambda block, paradigm, size: 50.0)
    found = choose_blocks(program, replace(SEARCH, paradigm="layer+channel"))
    assert {len(one.chosen.candidate) for one in found if one.chosen} == {2}
    assert found[0].chosen is not None
    assert found[0].chosen.words == "layer + channel 1"
    assert found[0].chosen.decisions == 1 + 16
    assert [one.words for one in choose_blocks(program, replace(SEARCH, paradigm="layer"))[0].weighed] == ["layer"]


def test_a_choice_that_was_made_is_kept(program: Program, priced: Callable[[Price], list[int]]) -> None:
    calls = priced(lambda block, paradigm, size: 50.0)
    search = replace(SEARCH, paradigm="layer")
    first = choose_blocks(program, search)
    made = len(calls)
    assert choose_blocks(program, search) == first
    assert len(calls) == made > 0
    for other in (
        replace(search, rate=0.4), replace(search, batch=1), replace(search, margin=0.1),
        replace(search, target=replace(V100, dram_gb_per_s=901)),
    ):  # fmt: skip
        before = len(calls)
        choose_blocks(program, other)
        assert len(calls) > before


def test_without_a_named_device_every_block_that_can_be_dynamic_is(
    program: Program, priced: Callable[[Price], list[int]]
) -> None:
    priced(lambda block, paradigm, size: 150.0 if size else 149.0)
    plan = planned(program, SEARCH, binding=False)
    assert {decision.block for decision in plan.decisions} == {block.name for block in program.blocks}
    assert (plan.target, plan.made_for) == (None, None)
    with pytest.raises(PlanError, match=r"no block is predicted to gain on v100 at rate 0.5: stage1.0.branch comes"):
        planned(program, SEARCH, binding=True)


def test_a_plan_for_a_named_device_says_what_it_is_for(program: Program, priced: Callable[[Price], list[int]]) -> None:
    priced(lambda block, paradigm, size: 50.0)
    plan = planned(program, SEARCH, binding=True, seed=3, rate=0.25)
    assert plan.made_for is not None
    assert (plan.target, plan.seed, plan.rate) == ("v100", 3, 0.25)
    basis = plan.made_for
    assert (basis.target, basis.batch, basis.size, basis.dtype, basis.rate) == ("v100", 2, (64, 64), "float32", 0.5)
    assert Plan.from_json(plan.to_json()) == replace(plan, refusals=())


@pytest.mark.parametrize(("target", "batch"), [("v100", 512), ("cpu", 8)])
def test_what_is_chosen_is_really_predicted_to_be_faster(program: Program, target: str, batch: int) -> None:
    device = TARGETS[target]
    search = replace(SEARCH, target=device, calibration=defaults(device), batch=batch, rate=0.25, paradigm="layer")
    choices = choose_blocks(program, search)
    plan = plan_of(choices, search)
    assert plan.decisions
    static, dynamic = whole_network(program, plan, search)
    for one in choices:
        assert static.blocks[one.block] == one.static
        if one.chosen is None:
            assert one.weighed[0].ratio >= 1
        else:
            assert one.chosen.ratio < 1
            assert one.chosen.time.total_us == pytest.approx(one.chosen.ratio * one.static.total_us)
    assert dynamic.total_us < static.total_us


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("rate", 1.5, "the rate 1.5"), ("margin", 1.0, "the margin 1.0"), ("margin", -0.1, "the margin -0.1")],
)
def test_what_makes_no_sense_is_refused(field: str, value: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(SEARCH, **{field: value})
