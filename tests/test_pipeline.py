"""Passes in their order, checked after each; each fusion can go; what does not hold is caught by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laudc.capture import capture
from laudc.compare import relative_error
from laudc.errors import InputError
from laudc.ops.activation import Activation, ActivationSpec
from laudc.ops.conv2d import Conv2d
from laudc.ops.scatter import Scatter
from laudc.passes import PASSES, Pass
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.fuse_masker_conv import FuseMaskerConv
from laudc.passes.lower_masks import LowerMasks
from laudc.pipeline import lowering, optional_passes, ordered, run
from laudc.program import Program, set_op
from laudc.testing import (
    Residual,
    conditioned,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    run_overwriting,
    same_output,
    tiny,
    tiny_around,
    tiny_converted,
)
from laudc.types import TensorType
from laudc.verify import verify

Drop = Callable[[str, str], None]


def same_at_all_rates(program: Program, lowered: Program) -> None:
    x = random_images(3, 3, 37, 45, seed=1)
    for rate in (0, 0.3, 1):
        same_output(program, lowered, x, random_masks_like(program, rate=rate, batch=3))


# ---- order


def test_the_order_of_the_passes_is_this(golden: Callable[[str], None]) -> None:
    stages = sorted({PASSES[name].stage for name in PASSES})
    golden("".join(f"{stage}\n" + "".join(f"    {name}\n" for name in ordered(stage)) for stage in stages))


def test_every_pass_comes_after_those_it_names() -> None:
    for stage in {PASSES[name].stage for name in PASSES}:
        order = ordered(stage)
        for name in order:
            assert set(PASSES[name].after) <= set(order[: order.index(name)]), name


def test_a_basic_and_a_bottleneck_block_are_lowered_to_this(golden: Callable[[str], None]) -> None:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    basic = Residual(conv_norm(8, 12, 3, stride=2), conv_norm(12, 12, 3), shortcut=conv_norm(8, 12, stride=2))
    bottleneck = Residual(conv_norm(12, 8), conv_norm(8, 8, 3), conv_norm(8, 12))
    program = converted(nn.Sequential(stem, basic, bottleneck).eval(), random_images(1, 3, 9, 8), paradigm="spatial")
    lowered, _ = run(program, lowering())
    golden(lowered.text())


def test_each_step_says_what_it_did() -> None:
    program = tiny_converted("spatial")
    seen: list[str] = []

    def watch(rewrite: Pass, before: Program, after: Program) -> None:
        seen.append(rewrite.name)
        assert (after is not before) == (before.text() != after.text())

    lowered, steps = run(program, lowering(), watch=watch)
    by_name = {step.name: step for step in steps}
    assert seen == [step.name for step in steps] == list(ordered("lower"))
    assert by_name["fold_batchnorm"].op_change == {"batch_norm": -20}
    assert by_name["drop_dropout"].op_change == {"dropout": -1}
    assert by_name["fuse_masker_conv"].options.startswith("FuseMaskerConv(target=Target(name='cpu'")
    _, again = run(lowered, lowering())
    assert not any(step.changed for step in again)


def test_options_reach_the_passes_that_have_them() -> None:
    made = {rewrite.name: rewrite for rewrite in lowering({"expected_rate": 0.125, "unheard_of": 1})}
    assert made["fuse_masker_conv"] == FuseMaskerConv(expected_rate=0.125)
    assert made["lower_masks"] == LowerMasks()


# ---- switching off


@pytest.mark.parametrize("spelling", ["gather-conv", "fuse-gather-conv", "fuse_gather_conv", "gather_conv"])
def test_a_fusion_is_left_out_by_its_name(spelling: str) -> None:
    names = [rewrite.name for rewrite in lowering(without=[spelling])]
    assert names == [name for name in ordered("lower") if name != "fuse_gather_conv"]


@pytest.mark.parametrize("name", ["gather", "lower-masks", "update-in-place", "", "fold_batchnorm"])
def test_what_is_no_fusion_cannot_be_left_out(name: str) -> None:
    with pytest.raises(InputError, match=f"no fusion '{name}'; (there are conv-add|did you mean )"):
        lowering(without=[name])


@pytest.mark.parametrize("paradigm", ["spatial", pytest.param("spatial+channel", marks=pytest.mark.slow)])
@pytest.mark.parametrize("without", [(), *((name,) for name in optional_passes()), optional_passes()], ids="+".join)
def test_switching_off_a_fusion_changes_no_output(without: tuple[str, ...], paradigm: str) -> None:
    program = tiny_converted(paradigm)
    lowered, steps = run(program, lowering(without=without))
    assert {step.name for step in steps}.isdisjoint("fuse_" + name.replace("-", "_") for name in without)
    same_at_all_rates(program, lowered)


def test_what_stays_dense_is_listed() -> None:
    program = converted(tiny(), random_images(3, 3, 37, 45), paradigm="channel", granularity="1")
    lowered, _ = run(program, lowering())
    assert [(refusal.where, refusal.reason.rpartition(": ")[2]) for refusal in lowered.refusals] == [
        ("stage3.0.branch", "1 channels a decision are not whole groups of 4"),
        ("stage3.1.branch", "1 channels a decision are not whole groups of 2"),
    ]
    same_at_all_rates(program, lowered)


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "spatial+channel+layer"])
def test_a_lowered_network_may_overwrite_what_it_says_it_may(paradigm: str) -> None:
    program = tiny_converted(paradigm)
    lowered, _ = run(program, lowering())
    x, masks = random_images(3, 3, 37, 45), random_masks_like(program, rate=0.4, batch=3)
    with torch.no_grad():
        expected, _ = program(x, masks)
    assert relative_error(run_overwriting(lowered, x, masks), expected) <= 1e-5


# ---- what is caught


class Breaks(Pass):
    """Takes an operand away from the last convolution."""

    def run(self, program: Program) -> Program:
        clone = program.clone()
        *_, (node, _) = (pair for pair in clone.ops() if isinstance(pair[1], Conv2d))
        node.args = ()
        return clone


class Raises(Pass):
    def run(self, program: Program) -> Program:
        raise KeyError("lost")


@pytest.mark.parametrize(("rewrite", "error"), [(Breaks(), AssertionError), (Raises(), KeyError)])
def test_an_error_says_which_pass_it_came_from(rewrite: Pass, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        run(tiny_converted("spatial"), [LowerMasks(), rewrite])
    assert caught.value.__notes__ == [f"in the pass {rewrite.name}, {rewrite}"]


def broken(program: Program, name: str) -> tuple[Program, torch.fx.Node, Conv2d]:
    clone = program.clone()
    node = clone.node(name)
    op = clone.op(node)
    assert isinstance(op, Conv2d)
    return clone, node, op


def test_a_lowered_program_holds_together() -> None:
    for paradigm in ("spatial", "channel", "spatial+channel+layer"):
        verify(tiny_converted(paradigm))
        for name in ordered("lower"):
            verify(tiny_around(name, paradigm)[1])


def test_a_missing_operand_is_caught() -> None:
    program, node, _ = broken(tiny_around("lower_masks")[0], "stage1_0_branch_2_1")
    node.args = ()
    with pytest.raises(AssertionError, match="%stage1_0_branch_2_1 reads 0 values"):
        verify(program)


def test_a_wrong_type_is_caught() -> None:
    program, node, _ = broken(tiny_around("lower_masks")[0], "stage1_0_branch_2_1")
    node.meta["types"] = (TensorType(shape=(3, 16, 19, 22), dtype="float32"),)
    with pytest.raises(AssertionError, match="%stage1_0_branch_2_1 is typed"):
        verify(program)


def test_weights_of_another_shape_are_caught() -> None:
    program, node, conv = broken(tiny_around("lower_masks")[0], "stage1_0_branch_2_1")
    other = Conv2d(replace(conv.spec))
    other.weight, other.bias = nn.Parameter(torch.zeros(16, 16, 1, 1)), conv.bias
    set_op(program, node, other, node.args)  # type: ignore[arg-type]  # values only
    with pytest.raises(AssertionError, match=r"\.weight is \(16, 16, 1, 1\)"):
        verify(program)


def test_a_value_that_is_used_before_it_is_made_is_caught() -> None:
    program, node, _ = broken(tiny_around("lower_masks")[0], "stage1_0_branch_2_1")
    node.args = (program.node("stage2_0_act"),)
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        verify(program)


@pytest.mark.parametrize("name", ["lower_masks", "fuse_scatter_add"])
def test_a_dense_read_of_rows_that_nobody_computed_is_caught(name: str) -> None:
    """After lower_masks such a map comes from a scatter, after fuse_scatter_add from the convolution itself."""
    program = tiny_around(name)[1].clone()
    partial = [
        node
        for node, op in program.ops()
        if (isinstance(op, Scatter) and not op.spec.zero)
        or (isinstance(op, Conv2d) and op.spec.rows and not op.spec.compact and op.spec.residual == "none")
    ]
    value = partial[0]
    program.graph.add_submodule("act", Activation(ActivationSpec(function="relu")))
    with program.graph.graph.inserting_after(value):
        reader = program.graph.graph.call_module("act", (value,))
    reader.meta = dict(value.meta)
    with pytest.raises(AssertionError, match=f"%act reads rows of %{value.name} that nobody computed"):
        verify(program)


# ---- one new file each


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Writes a file into a folder that stands beside `laudc.passes` or `laudc.passes.patterns`."""
    dropped: list[str] = []

    def write(package: str, text: str) -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "dropped_in.py").write_text(text)
        module = sys.modules[package]
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        dropped.append(f"{package}.dropped_in")

    yield write
    for name in dropped:
        sys.modules.pop(name, None)


NEW_PASS = """
from dataclasses import dataclass
from laudc.ops.activation import ActivationSpec, Activation
from laudc.passes.base import Pass
from laudc.program import insert_op

@dataclass(frozen=True, kw_only=True)
class CopyTheInput(Pass):
    after = ("lower_masks",)
    optional = True
    times: int = 1

    def run(self, program):
        clone = program.clone()
        x = next(iter(clone.nodes))
        for _ in range(self.times):
            with clone.graph.graph.inserting_after(x):
                copy = insert_op(clone, "copied", Activation(ActivationSpec(function="none")), (x,))
            x.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
        return clone.finished()

PASS = CopyTheInput
"""


def test_a_dropped_file_is_a_pass(drop: Drop) -> None:
    drop("laudc.passes", NEW_PASS)
    assert "dropped_in" in ordered("lower")
    assert ordered("lower").index("dropped_in") > ordered("lower").index("lower_masks")
    assert "dropped-in" in optional_passes()
    program = tiny_converted("spatial")
    lowered, steps = run(program, lowering({"times": 2}))
    assert {step.name: step.op_change for step in steps}["dropped_in"] == {"activation": 2}
    same_at_all_rates(program, lowered)


def test_a_dropped_pass_can_be_left_out_if_it_says_so(drop: Drop) -> None:
    drop("laudc.passes", NEW_PASS)
    assert "dropped_in" not in [rewrite.name for rewrite in lowering(without=["dropped-in"])]


NEW_PATTERN = '''
"""Three convolutions of any size."""
from laudc.passes.patterns.base import Match, Pattern

class ThreeConvolutions(Pattern):
    rank = 10

    def match(self, region):
        for branch, shortcut in (region.paths, region.paths[::-1]):
            if region.signature(branch) == ("conv2d", *["activation", "conv2d"] * 2) and not shortcut:
                inner = tuple(node for node in branch if region.signature((node,)) == ("activation",))
                return Match(branch=branch, shortcut=(), inner=inner)
        return "it has not three convolutions"

PATTERN = ThreeConvolutions()
'''


class ThreeConvolutionsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_norm(8, 8, 3), nn.ReLU(), conv_norm(8, 8, 3), nn.ReLU(), conv_norm(8, 8, 3))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return torch.relu(x)


def test_a_dropped_file_is_a_pattern(drop: Drop) -> None:
    model = conditioned(ThreeConvolutionsNet, size=(16, 16))
    captured = capture(model, random_images(3, 3, 37, 45))
    assert [refusal.where for refusal in FindBlocks().run(captured).refusals] == ["add", "add_1"]
    drop("laudc.passes.patterns", NEW_PATTERN)
    found = FindBlocks().run(captured)
    assert [(block.name, block.pattern) for block in found.blocks] == [
        ("blocks.0", "dropped-in"),
        ("blocks.1", "dropped-in"),
    ]
    for paradigm in ("spatial", "channel", "layer+channel"):
        program = converted(model, random_images(3, 3, 37, 45), paradigm=paradigm)
        lowered, _ = run(program, lowering())
        assert lowered.refusals == ()
        same_at_all_rates(program, lowered)
