"""Multiplied masks become lists, and the work outside them is gone; what cannot be lowered stays dense and says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.channel_masker import ChannelMaskerSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.global_pool import GlobalPoolSpec
from laudc.ops.mask_channels import MaskChannelsSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.passes.lower_masks import LowerMasks
from laudc.program import Program
from laudc.testing import (
    Residual,
    Sketch,
    around,
    change_text,
    conditioned,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    same_output,
    tiny_around,
)

WIDE = Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True)
ROWS = MaskRowsSpec(granularity=2)
COMBINATIONS = ["spatial", "layer", "channel", "spatial+layer", "channel+spatial", "spatial+channel+layer"]


def same_at_all_rates(before: Program, after: Program, x: Tensor) -> None:
    for rate in (0, 0.3, 1):
        same_output(before, after, x, random_masks_like(before, rate=rate, batch=x.shape[0]))


def masked_rows(sketch: Sketch, value: fx.Node, mask: fx.Node) -> fx.Node:
    return sketch.op("masked", ROWS, value, mask)


def channels(sketch: Sketch, x: fx.Node) -> fx.Node:
    """Decisions over two groups of two channels."""
    pooled = sketch.op("pooled", GlobalPoolSpec(), x)
    return sketch.masker("groups", pooled, ChannelMaskerSpec(key="groups", channels=4, decisions=2, hidden=4))


def refusal(after: Program) -> str:
    (only,) = after.refusals
    return only.reason


# ---- the rewrite


def test_masked_rows_become_a_gather_and_a_scatter(golden: Callable[[str], None]) -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    first = sketch.op("first", Conv2dSpec(in_channels=4, out_channels=4, activation="relu"), x)
    before = sketch.returns(masked_rows(sketch, sketch.op("second", WIDE, first), mask))
    after = LowerMasks().run(before)
    golden(change_text(before, after))
    same_at_all_rates(before, after, random_images(3, 4, 5, 7))


def test_masked_channels_become_a_list_that_both_sides_read(golden: Callable[[str], None]) -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    mask = channels(sketch, x)
    masked = sketch.op("masked", MaskChannelsSpec(group=2), sketch.op("first", WIDE, x), mask)
    before = sketch.returns(sketch.op("second", WIDE, masked))
    after = LowerMasks().run(before)
    golden(change_text(before, after))
    same_at_all_rates(before, after, random_images(3, 4, 5, 7))


@pytest.mark.parametrize("paradigm", COMBINATIONS)
def test_lowering_changes_no_output(paradigm: str) -> None:
    before, after = tiny_around("lower_masks", paradigm)
    text = after.text()
    assert "mask_rows" not in text
    assert "mask_channels" not in text
    assert after.refusals == ()
    same_at_all_rates(before, after, random_images(3, 3, 37, 45))


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "spatial+channel"])
def test_every_convolution_of_a_masked_branch_computes_only_listed_rows(paradigm: str) -> None:
    _, after = tiny_around("lower_masks", paradigm)
    inside = [op for node, op in after.ops() if op.spec.name == "conv2d" and "_branch_" in node.name]
    assert len(inside) == 16
    assert all(op.spec.rows for op in inside)  # type: ignore[attr-defined]


def test_two_masks_over_one_map_are_one_list() -> None:
    _, after = tiny_around("lower_masks", "spatial+layer")
    lists = [node.name for node, op in after.ops() if op.spec.name == "row_list" and "stage1_0" in node.name]
    assert len(lists) == 2  # one for each of the two convolutions, not one a mask
    assert "within=True" in after.text()


def test_a_pointwise_convolution_shares_the_rows_of_the_next() -> None:
    _, after = tiny_around("lower_masks", "spatial")
    lists = [node.name for node, op in after.ops() if op.spec.name == "row_list" and "stage2_1" in node.name]
    assert len(lists) == 2  # 1x1 <- 3x3 <- 1x1: the last two need the same rows


def test_a_padded_pointwise_convolution_needs_other_rows_than_it_makes() -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    first = sketch.op("first", Conv2dSpec(in_channels=4, out_channels=4, activation="relu"), x)
    padded = sketch.op("padded", Conv2dSpec(in_channels=4, out_channels=4, padding=(1, 1, 1, 1), bias=True), first)
    last = sketch.op("last", Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3)), padded)
    before = sketch.returns(masked_rows(sketch, last, mask))
    after = LowerMasks().run(before)
    assert after.text().count("row_list") == 3
    same_at_all_rates(before, after, random_images(3, 4, 5, 7))


def test_a_program_without_masks_is_the_same_object() -> None:
    _, after = tiny_around("lower_masks", "spatial+channel")
    assert LowerMasks().run(after) is after


# ---- rows that stay dense


def test_rows_of_what_is_no_convolution_run_dense() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    pool = sketch.op("pool", MaxPoolSpec(kernel=(3, 3), stride=(1, 1), padding=(1, 1)), x)
    before = sketch.returns(masked_rows(sketch, pool, mask))
    after = LowerMasks().run(before)
    assert refusal(after) == "its row masks run dense: %pool is no convolution of its own"
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_rows_of_a_convolution_that_others_read_run_dense() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    conv = sketch.op("conv", WIDE, x)
    before = sketch.returns(sketch.op("add", AddSpec(), masked_rows(sketch, conv, mask), conv))
    after = LowerMasks().run(before)
    assert refusal(after) == "its row masks run dense: %conv is no convolution of its own"
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_a_convolution_before_one_that_others_read_runs_everywhere() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    first = sketch.op("first", WIDE, x)
    second = masked_rows(sketch, sketch.op("second", WIDE, first), mask)
    before = sketch.returns(sketch.op("add", AddSpec(), second, first))
    after = LowerMasks().run(before)
    assert after.refusals == ()
    assert "%first = conv2d(in_channels=4, out_channels=4, kernel=3, padding=1, bias=True)(%x)" in after.text()
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_a_convolution_of_another_block_runs_everywhere() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2)
    first = sketch.op("first", WIDE, x, block="one")
    before = sketch.returns(masked_rows(sketch, sketch.op("second", WIDE, first, block="two"), mask))
    after = LowerMasks().run(before)
    assert "%first = conv2d(in_channels=4, out_channels=4, kernel=3, padding=1, bias=True)(%x)" in after.text()
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


# ---- channels that stay dense


class OneBlock(nn.Module):
    """A stem and one block of eight channels."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        self.block = Residual(*branch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.stem(x))
        return out


def dense_channels(*branch: nn.Module, granularity: str) -> tuple[Program, Program]:
    model = conditioned(lambda: OneBlock(*branch), size=(16, 16))
    program = converted(model, random_images(3, 3, 9, 7), paradigm="channel", granularity=granularity)
    return around(program, "lower_masks")


@pytest.mark.parametrize("groups_kept_whole", [True, False])
def test_a_decision_over_part_of_a_group_runs_dense(groups_kept_whole: bool) -> None:
    granularity = "4" if groups_kept_whole else "1"
    before, after = dense_channels(
        conv_norm(8, 12), conv_norm(12, 12, 3, groups=6), conv_norm(12, 8), granularity=granularity
    )
    same_at_all_rates(before, after, random_images(3, 3, 9, 7))
    if groups_kept_whole:
        assert after.refusals == ()
    else:
        assert refusal(after).endswith("1 channels a decision are not whole groups of 2")
        assert "mask_channels" in after.text()


def test_a_grouped_convolution_at_the_edge_runs_dense() -> None:
    before, after = dense_channels(conv_norm(8, 12, 3), conv_norm(12, 8, 3, groups=2), granularity="4")
    assert refusal(after).endswith("a grouped convolution at the edge of the masked width")
    same_at_all_rates(before, after, random_images(3, 3, 9, 7))


def test_a_grouped_convolution_that_changes_its_width_runs_dense() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    mask = channels(sketch, x)
    first = sketch.op("first_masked", MaskChannelsSpec(group=2), sketch.op("first", WIDE, x), mask)
    grouped = Conv2dSpec(in_channels=4, out_channels=8, groups=2)
    second = sketch.op("second_masked", MaskChannelsSpec(group=4), sketch.op("second", grouped, first), mask)
    before = sketch.returns(sketch.op("third", Conv2dSpec(in_channels=8, out_channels=4), second))
    after = LowerMasks().run(before)
    assert refusal(after) == ("its channel masks run dense: %second: 2 channels a decision are not whole groups of 2")
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_masked_channels_that_two_read_run_dense() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    masked = sketch.op("masked", MaskChannelsSpec(group=2), sketch.op("first", WIDE, x), channels(sketch, x))
    second, third = sketch.op("second", WIDE, masked), sketch.op("third", WIDE, masked)
    before = sketch.returns(sketch.op("add", AddSpec(), second, third))
    after = LowerMasks().run(before)
    assert refusal(after) == "its channel masks run dense: %masked is read more than once"
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_masked_channels_that_no_convolution_reads_run_dense() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 7)
    masked = sketch.op("masked", MaskChannelsSpec(group=2), sketch.op("first", WIDE, x), channels(sketch, x))
    before = sketch.returns(sketch.op("silu", ActivationSpec(function="silu"), masked))
    after = LowerMasks().run(before)
    assert refusal(after) == "its channel masks run dense: %silu is no convolution"
    same_at_all_rates(before, after, random_images(2, 4, 5, 7))


def test_rows_are_lowered_where_channels_stay_dense() -> None:
    model = conditioned(
        lambda: OneBlock(conv_norm(8, 12), conv_norm(12, 12, 3, groups=6), conv_norm(12, 8)), size=(16, 16)
    )
    program = converted(model, random_images(3, 3, 9, 7), paradigm="channel+spatial", granularity="1+2")
    before, after = around(program, "lower_masks")
    assert [refused.reason.partition(":")[0] for refused in after.refusals] == ["its channel masks run dense"]
    assert "mask_rows" not in after.text()
    same_at_all_rates(before, after, random_images(3, 3, 9, 7))


# ---- what outside the region is worth nothing


def test_what_the_lists_leave_out_is_never_read() -> None:
    """The reference fills what nobody computes with NaN: there is some, and none reaches the output."""
    before, after = tiny_around("lower_masks", "spatial")
    x, masks = random_images(3, 3, 37, 45), random_masks_like(before, rate=0.1, batch=3)
    seen: list[bool] = []

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point():
                seen.append(bool(torch.isnan(value).any()))
            return value

    with torch.no_grad():
        out, _ = Watching(after.graph).run(x, masks)
    assert any(seen)
    assert torch.isfinite(out).all()


def test_a_sample_that_is_on_as_a_whole_has_one_list_a_map() -> None:
    _, after = tiny_around("lower_masks", "layer")
    assert "needed_region" not in after.text()
    lists = after.text().count("= row_list(")
    _, patches = tiny_around("lower_masks", "spatial")
    assert lists < patches.text().count("= row_list(")
    assert after.text().count("= pixel_mask(") == lists


def test_a_window_that_leaves_inputs_out_still_asks_for_those_it_reads() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 9, 11)
    mask = sketch.patches("m", x, granularity=0)
    first = sketch.op("first", Conv2dSpec(in_channels=4, out_channels=4), x)
    last = sketch.op("last", Conv2dSpec(in_channels=4, out_channels=4, stride=(2, 2)), first)
    before = sketch.returns(sketch.op("masked", MaskRowsSpec(granularity=0), last, mask))
    after = LowerMasks().run(before)
    assert after.text().count("needed_region(") == 1
    same_output(before, after, random_images(2, 4, 9, 11), random_masks_like(before, rate=0.5, batch=2))
