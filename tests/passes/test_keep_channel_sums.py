"""Channel maskers read the sums that convolutions keep of a map, and list the channels themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from laudc import pipeline
from laudc.compiled import passes_for
from laudc.convert import read_blocks
from laudc.latency._lists import lists_of
from laudc.models import condition_random
from laudc.ops.channel_sums import ChannelSums
from laudc.ops.conv2d import Conv2d
from laudc.ops.sums_channel_masker import SumsChannelMasker
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import first_kept, make_plan
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import random_images, random_masks_like, run_overwriting, same_output

SHAPE = (3, 3, 64, 64)
BLOCKS = (4, 3, 2, 2)


@cache
def network(*paradigms: str, keep_first: bool = True, dtype: str = "float16") -> Program:
    """A small ResNet of bottlenecks whose blocks take the paradigms in turn, typed; stage 4 has maps of 2 x 2."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    program = read_blocks(ResNet(Bottleneck, list(BLOCKS)).eval(), random_images(*SHAPE))
    plans = [make_plan(program.blocks, paradigm=paradigm) for paradigm in paradigms]
    places = {block.name: index % len(plans) for index, block in enumerate(program.blocks)}
    decisions = (one for place, plan in enumerate(plans) for one in plan.decisions if places[one.block] == place)
    plan = replace(plans[0], paradigm="+".join(paradigms), decisions=tuple(decisions))
    plan = first_kept(plan, program.blocks) if keep_first else plan
    made = InsertMaskers(plan=plan).run(program)
    condition_random(made)
    return program_for(made, SHAPE, dtype=dtype)


@cache
def lowered(*paradigms: str, without: tuple[str, ...] = (), target: str = "h200", **how: Any) -> Program:
    """`network` of these."""
    return pipeline.run(network(*paradigms, **how), passes_for(TARGETS[target], None, without))[0]


def names_of(program: Program) -> Counter[str]:
    return Counter(op.spec.name for _, op in program.ops())


@pytest.mark.parametrize("keep_first", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "paradigms", [("channel",), pytest.param(("channel", "layer"), marks=pytest.mark.slow), ("layer+channel",)]
)
def test_nothing_changes_but_who_adds_up(paradigms: tuple[str, ...], keep_first: bool) -> None:
    """By the reference, and with every buffer really written where the update in place writes."""
    plain = network(*paradigms, keep_first=keep_first)
    before, after = (lowered(*paradigms, keep_first=keep_first, without=less) for less in (("keep-sums",), ()))
    assert names_of(after)["sums_channel_masker"] == names_of(before)["channel_masker"] > 0
    x = random_images(*SHAPE)
    for rate in (0.0, 0.4, 1.0):
        masks = random_masks_like(plain, rate=rate, batch=SHAPE[0], seed=int(10 * rate))
        same_output(before, after, x, masks)
        with torch.no_grad():
            expected = after(x, masks)[0]
        torch.testing.assert_close(run_overwriting(after, x.clone(), masks), expected)
    same_output(before, after, x)


def test_where_first_blocks_stay_no_map_is_read_to_decide_and_only_they_begin_at_zero() -> None:
    names = names_of(lowered("channel"))
    assert names["sums_channel_masker"] == sum(BLOCKS) - len(BLOCKS)
    assert names["zero_sums"] == 3
    assert names["channel_sums"] == 1  # in stage 4, whose maps are too small for a dense convolution to add them up
    assert names["global_pool"] == 1  # the network's own
    assert not {"channel_masker", "channel_list"} & set(names)


def test_sums_of_nothing_go_from_the_masker_to_who_writes_the_next_map() -> None:
    program = lowered("channel")
    begun = [
        node.args[-1].all_input_nodes[0]
        for node, op in program.ops()
        if isinstance(op, Conv2d) and op.spec.sums and op.spec.channels_in
    ]
    assert [node.name for node in begun] == [f"layer{stage}_masker_channel" for stage in ("1_1", "1_2", "2_1")]
    assert all(isinstance(program.op(node), SumsChannelMasker) for node in begun)


def test_a_layer_between_hands_its_sums_on() -> None:
    program = lowered("channel", "layer")
    kinds = [
        (op.spec.samples, op.spec.channels_in) for _, op in program.ops() if isinstance(op, Conv2d) and op.spec.sums
    ]
    assert {(True, 0), (False, 16), (False, 0)} == set(kinds)


def test_where_first_blocks_may_be_skipped_their_sums_are_taken_from_the_map() -> None:
    program = lowered("channel", keep_first=False)
    assert names_of(program)["sums_channel_masker"] == sum(BLOCKS)
    taken = [node.all_input_nodes[0].name for node, op in program.ops() if isinstance(op, ChannelSums)]
    assert "maxpool" in taken


def test_the_masker_of_a_list_that_it_made_itself_is_known() -> None:
    program = lowered("channel")
    found = {
        (lists.channels, lists.decisions)
        for node, op in program.ops()
        if isinstance(op, Conv2d) and "channels" in op.spec.operands
        for lists in [lists_of(program, node)]
    }
    assert {("layer1.1.channel", 4), ("layer3.1.channel", 16)} <= found
    assert len(found) == sum(BLOCKS) - len(BLOCKS)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [("float32", "h200"), ("bfloat16", "h200"), ("float16", "jetson-tx2"), ("float32", "cpu")],
)
def test_without_kernels_for_it_pools_maskers_and_lists_stay(dtype: str, target: str) -> None:
    names = names_of(lowered("channel", dtype=dtype, target=target))
    assert names["channel_masker"] == names["channel_list"] == names["global_pool"] - 1 > 0
    assert not {"sums_channel_masker", "channel_sums", "zero_sums"} & set(names)
