"""Layers on whole samples: convolutions read the decision, maskers read sums that the convolutions keep."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from laudc import pipeline
from laudc.compiled import passes_for
from laudc.convert import convert
from laudc.models import condition_random
from laudc.ops._sums import UNITS
from laudc.ops.conv2d import Conv2d
from laudc.ops.sums_masker import SumsMasker
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import random_images, random_masks_like, run_overwriting, same_output

SHAPE = (3, 3, 64, 64)


@cache
def network(*, keep_first: bool = False, dtype: str = "float16", paradigm: str = "layer") -> Program:
    """A small ResNet of bottlenecks, typed; stage 4 has maps of 2 x 2."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    dynamic = convert(
        ResNet(Bottleneck, [3, 2, 2, 2]).eval(), random_images(*SHAPE), paradigm=paradigm, keep_first=keep_first
    )
    condition_random(dynamic.program)
    return program_for(dynamic.program, SHAPE, dtype=dtype)


@cache
def lowered(*, without: tuple[str, ...] = (), target: str = "h200", **how: Any) -> Program:
    """`network` of these, by passes that stop short of logits."""
    return pipeline.run(network(**how), passes_for(TARGETS[target], None, (*without, "keep-logits")))[0]


@pytest.mark.parametrize("keep_first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_nothing_changes_but_who_adds_up(keep_first: bool) -> None:
    """By the reference, and with every buffer really written where the update in place writes."""
    plain = network(keep_first=keep_first)
    before = lowered(keep_first=keep_first, without=("keep-sums", "whole-samples"))
    after = lowered(keep_first=keep_first)
    x = random_images(*SHAPE)
    for rate in (0.0, 0.4, 1.0):
        masks = random_masks_like(plain, rate=rate, batch=SHAPE[0], seed=int(10 * rate))
        same_output(before, after, x, masks)
        with torch.no_grad():
            expected = after(x, masks)[0]
        torch.testing.assert_close(run_overwriting(after, x.clone(), masks), expected)


def test_the_sums_are_those_of_the_map_whatever_was_skipped() -> None:
    after = lowered(keep_first=True)
    masks = random_masks_like(after, rate=0.5, batch=SHAPE[0])
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            op = after.op(node)
            if isinstance(op, Conv2d) and op.spec.sums:
                seen[node.name] = value  # type: ignore[assignment]
            return value

    with torch.no_grad():
        Watch(after.graph).run(random_images(*SHAPE), masks)
    assert len(seen) == 4
    for made, sums in seen.values():
        torch.testing.assert_close(sums.double() / UNITS, made.double().sum((2, 3)), rtol=1e-5, atol=1e-5)


def test_where_first_blocks_stay_no_map_is_read_to_decide_and_no_list_is_made() -> None:
    after = lowered(keep_first=True)
    names = [op.spec.name for _, op in after.ops()]
    assert names.count("sums_masker") == 5
    assert names.count("channel_sums") == 1  # in stage 4, whose maps are too small for a convolution to add them up
    assert not {"patch_masker", "row_list", "patch_rows", "pixel_mask", "needed_region"} & set(names)


def test_where_first_blocks_may_be_skipped_their_sums_are_taken_from_the_map() -> None:
    after = lowered(keep_first=False)
    names = [op.spec.name for _, op in after.ops()]
    assert names.count("sums_masker") == 9
    taken = [node.all_input_nodes[0].name for node, op in after.ops() if op.spec.name == "channel_sums"]
    assert "maxpool" in taken
    for node, op in after.ops():
        if isinstance(op, SumsMasker):
            assert node.args[1].name == "masks"


@pytest.mark.parametrize(("dtype", "target"), [("float32", "h200"), ("float16", "jetson-tx2"), ("float32", "cpu")])
def test_without_kernels_for_it_lists_and_maskers_stay(dtype: str, target: str) -> None:
    after = lowered(keep_first=True, dtype=dtype, target=target)
    names = {op.spec.name for _, op in after.ops()}
    assert {"row_list", "patch_rows"} & names
    assert not {"sums_masker", "channel_sums", "zero_sums"} & names


def test_in_bfloat16_samples_are_read_as_in_float16_and_maskers_look_at_maps() -> None:
    after = lowered(keep_first=True, dtype="bfloat16")
    names = [op.spec.name for _, op in after.ops()]
    assert "patch_masker" in names
    assert not {"row_list", "patch_rows", "sums_masker", "channel_sums", "zero_sums"} & set(names)
    assert any(isinstance(op, Conv2d) and op.spec.samples for _, op in after.ops())


def test_patches_keep_their_lists() -> None:
    after = lowered(keep_first=True, paradigm="spatial")
    assert not any(isinstance(op, Conv2d) and op.spec.samples and op.spec.sums for _, op in after.ops())
