"""What the options say, what they may not say, and what a plan keeps of them."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import pytest

from laudc.capture import capture
from laudc.errors import InputError, PlanError, UnknownName
from laudc.passes.find_blocks import FindBlocks
from laudc.plan import Basis, Decision, Plan, check_rate, first_kept, make_plan
from laudc.program import Block
from laudc.testing import random_images, tiny


@functools.cache
def blocks() -> tuple[Block, ...]:
    """TinyNet's six blocks, in stages 0, 1, 1, 2, 2, 3; the channel groups of the two in stage 2 are 4 and 2 wide."""
    return FindBlocks().run(capture(tiny(), random_images(1, 3, 224, 224))).blocks


def sizes(plan: Plan, paradigm: str) -> list[int]:
    return [decision.granularity for decision in plan.decisions if decision.paradigm == paradigm]


# ---- granularity


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        (None, [4, 4, 4, 4, 4, 4]),  # maps of 112, 56 and 28
        ("2", [2, 2, 2, 2, 2, 2]),
        ("8-4-7-1", [8, 4, 4, 7, 7, 1]),
        ("6-5-4-3-2-1", [6, 5, 4, 3, 2, 1]),
        ("1000", [1000] * 6),
    ],
)
def test_granularity_is_one_number_one_a_stage_or_one_a_block(granularity: str | None, expected: list[int]) -> None:
    assert sizes(make_plan(blocks(), granularity=granularity), "spatial") == expected


def test_each_paradigm_takes_its_part_and_layer_takes_none() -> None:
    plan = make_plan(blocks(), paradigm="spatial+layer+channel", granularity="4-4-2-1+8")
    assert sizes(plan, "spatial") == [4, 4, 4, 2, 2, 1]
    assert sizes(plan, "layer") == [0] * 6
    assert sizes(plan, "channel") == [8] * 6
    assert [decision.paradigm for decision in plan.of("stage2.1.branch")] == ["spatial", "layer", "channel"]
    assert plan.decisions[0].key == "stage1.0.branch.spatial"


@pytest.mark.parametrize("granularity", ["4-4-2", "1-2-3-4-5", "1-2-3-4-5-6-7"])
def test_a_wrong_number_of_numbers_says_how_many_there_may_be(granularity: str) -> None:
    count = granularity.count("-") + 1
    with pytest.raises(InputError, match=rf"has {count} numbers; give 1, 4 \(one a stage\) or 6 \(one a block\)"):
        make_plan(blocks(), granularity=granularity)


@pytest.mark.parametrize("granularity", ["0", "4-0-2-1", "-4", "4--2-1", "4.5", "four", "", "4,4,2,1", "nan"])
def test_granularity_that_is_no_whole_number_above_0_is_refused(granularity: str) -> None:
    with pytest.raises(InputError, match="is not whole numbers above 0; write it like 4-4-2-1, one a stage"):
        make_plan(blocks(), granularity=granularity)


@pytest.mark.parametrize(("paradigm", "granularity", "parts"), [("spatial", "4+16", 2), ("spatial+channel", "4", 1)])
def test_a_wrong_number_of_parts_is_refused(paradigm: str, granularity: str, parts: int) -> None:
    with pytest.raises(InputError, match=rf"has {parts} part\(s\) for"):
        make_plan(blocks(), paradigm=paradigm, granularity=granularity)


# ---- paradigms


def test_a_paradigm_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match="the paradigm 'spatial' is named twice"):
        make_plan(blocks(), paradigm="spatial+channel+spatial")


@pytest.mark.parametrize(("paradigm", "meant"), [("spatail", "spatial"), ("spatial+chanel", "channel")])
def test_a_misspelt_paradigm_is_suggested(paradigm: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean {meant}"):
        make_plan(blocks(), paradigm=paradigm)


@pytest.mark.parametrize("paradigm", ["", "spatial+", "token"])
def test_an_unknown_paradigm_is_refused(paradigm: str) -> None:
    with pytest.raises(UnknownName, match="no paradigm"):
        make_plan(blocks(), paradigm=paradigm)


def test_a_block_that_a_paradigm_refuses_is_noted_and_the_others_go_on() -> None:
    plan = make_plan(blocks(), paradigm="spatial+channel", granularity="1+24")
    assert sizes(plan, "spatial") == [1] * 6
    assert [decision.block for decision in plan.decisions if decision.paradigm == "channel"] == ["stage2.0.branch"]
    assert [refusal.where for refusal in plan.refusals][:2] == ["stage1.0.branch.channel", "stage2.1.branch.channel"]
    assert plan.refusals[0].reason == "24 adjacent channels do not divide the inner width of 16"


def test_a_plan_in_which_nothing_is_dynamic_is_refused() -> None:
    with pytest.raises(PlanError, match="nothing can become dynamic: 7 adjacent channels do not divide"):
        make_plan(blocks(), paradigm="channel", granularity="7")
    with pytest.raises(PlanError, match="it has no residual block"):
        make_plan(())


# ---- rates


@pytest.mark.parametrize("rate", [0, 1, 0.0, 0.5, 1.0])
def test_a_rate_from_0_to_1_is_a_number(rate: float) -> None:
    assert check_rate(rate) == rate
    assert make_plan(blocks(), rate=rate).rate == rate
    assert isinstance(check_rate(rate), float)


@pytest.mark.parametrize("rate", [-0.1, 1.0001, math.nan, math.inf, "0.5", True, None])
def test_a_rate_that_is_no_number_from_0_to_1_is_refused(rate: object) -> None:
    with pytest.raises(InputError, match="is not a number from 0 to 1"):
        check_rate(rate)


def test_a_plan_refuses_a_rate_outside() -> None:
    with pytest.raises(InputError, match="the rate nan is not a number from 0 to 1"):
        make_plan(blocks(), rate=math.nan)


def test_first_blocks_of_stages_can_stay_static() -> None:
    kept = first_kept(make_plan(blocks(), paradigm="layer"), blocks())
    assert [decision.block for decision in kept.decisions] == [blocks()[index].name for index in (2, 4)]
    assert [refusal.where for refusal in kept.refusals] == [blocks()[index].name for index in (0, 1, 3, 5)]
    assert kept.keep_first
    with pytest.raises(PlanError, match="only first blocks of stages can skip work here; leave keep_first out"):
        first_kept(make_plan(blocks()[:1], paradigm="layer"), blocks()[:1])


# ---- as plain data


def test_a_plan_comes_back_from_json() -> None:
    plan = make_plan(blocks(), paradigm="spatial+channel", granularity="4-4-2-1+8", rate=0.5, seed=7)
    assert plan.refusals == ()
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_decisions_are_the_options_and_nothing_else() -> None:
    plan = make_plan(blocks()[:1], paradigm="layer")
    assert plan == Plan(
        paradigm="layer", decisions=(Decision(block="stage1.0.branch", paradigm="layer", granularity=0),)
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"decisions": "all"},
        {"decisions": [["stage1.0.branch", "spatial"]]},
        {"decisions": [["stage1.0.branch", "spatial", "4"]]},
        {"decisions": [["stage1.0.branch", "spatial", -4]]},
        {"seed": "0"},
        {"keep_first": None},
        {"paradigm": 1},
    ],
)
def test_a_damaged_plan_is_a_plan_error(damage: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="make the file again"):
        Plan.from_json(make_plan(blocks()).to_json() | damage)


def test_the_rate_to_expect_is_that_of_the_masks_or_of_the_planning_or_the_usual_one() -> None:
    free = make_plan(blocks())
    made_for = Basis(
        model="tiny", structure="ab" * 32, target="v100", target_hash="cd" * 32, dtype="float32", batch=8,
        size=(64, 64), rate=0.1, paradigm="auto", calibration="uncalibrated",
    )  # fmt: skip
    bound = replace(free, made_for=made_for)
    assert (free.expected_rate, bound.expected_rate, replace(bound, rate=0.0).expected_rate) == (0.5, 0.1, 0.0)


def test_a_plan_that_was_made_for_no_record_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="the plan does not say what it was made for"):
        Plan.from_json(make_plan(blocks()).to_json() | {"made_for": 3})


def test_a_plan_without_a_field_is_a_plan_error() -> None:
    values = make_plan(blocks()).to_json()
    for name in values.keys() - {"made_for"}:
        with pytest.raises(PlanError, match="the plan lacks a field"):
            Plan.from_json({key: value for key, value in values.items() if key != name})
