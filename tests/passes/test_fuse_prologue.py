"""A norm or an activation before a convolution is done as the convolution reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

import laudc
from laudc.ladder import climb
from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.batch_norm import BatchNormSpec
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.passes.fold_batchnorm import FoldBatchnorm
from laudc.passes.fuse_activation import FuseActivation
from laudc.passes.fuse_prologue import FusePrologue
from laudc.pipeline import lowering, run
from laudc.program import Program
from laudc.testing import (
    Preactivated,
    PreactivatedNet,
    Sketch,
    change_text,
    conditioned,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    relative_error,
    run_overwriting,
    same_output,
)

AFFINE = Conv2dSpec(in_channels=4, out_channels=4, groups=4, bias=True)
CONV = Conv2dSpec(in_channels=4, out_channels=6, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True)
POINT = Conv2dSpec(in_channels=4, out_channels=6)
RELU = ActivationSpec(function="relu")


def before_conv(first: Conv2dSpec | ActivationSpec, conv: Conv2dSpec = CONV) -> Program:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    return sketch.returns(sketch.op("conv", conv, sketch.op("first", first, x)))


def preactivated(*kernels: int, groups: int = 1) -> Preactivated:
    """A block of 16 channels; only what is wider than 1x1 is grouped."""
    return Preactivated(
        *(nn.Conv2d(16, 16, k, padding=k // 2, groups=groups if k > 1 else 1, bias=False) for k in kernels)
    )


def network() -> nn.Module:
    blocks = (preactivated(3, 3), preactivated(1, 3, 1), preactivated(1, 3, 1, groups=4))
    head = (nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(conv_norm(3, 16, 3), *blocks, *head)


@cache
def dynamic(paradigm: str) -> Program:
    return converted(conditioned(network, size=(32, 32)), random_images(3, 3, 13, 17), paradigm=paradigm)


def prologues(program: Program) -> list[str | None]:
    return [op.spec.prologue for _, op in program.ops() if isinstance(op, Conv2d)]


def test_a_norm_and_its_activation_become_the_prologue_of_their_reader(golden: Callable[[str], None]) -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    norm = sketch.op("norm", BatchNormSpec(channels=4), x)
    conv = sketch.op("conv", CONV, sketch.op("relu", RELU, norm))
    last = Conv2dSpec(in_channels=6, out_channels=4)
    total = sketch.op("add", AddSpec(), sketch.op("last", last, conv), x)
    before, _ = run(sketch.returns(total), [FoldBatchnorm(), FuseActivation()])
    after = FusePrologue().run(before)
    golden(change_text(before, after))
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("groups", [1, 2])
def test_fusing_a_norm_changes_no_output(activation: str, groups: int) -> None:
    first = Conv2dSpec(in_channels=4, out_channels=4, groups=4, bias=True, activation=activation)
    conv = Conv2dSpec(in_channels=4, out_channels=6, kernel=(3, 3), padding=(2, 1, 0, 1), stride=(2, 1), groups=groups)
    before = before_conv(first, conv)
    after = FusePrologue().run(before)
    assert prologues(after) == ["affine" if activation == "none" else activation]
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize(
    "first", [ActivationSpec(function="sigmoid"), Conv2dSpec(in_channels=4, out_channels=4, groups=4)]
)
def test_fusing_an_activation_or_a_scale_changes_no_output(first: Conv2dSpec | ActivationSpec) -> None:
    before = before_conv(first, POINT)
    after = FusePrologue().run(before)
    assert [op.spec.name for _, op in after.ops()] == ["conv2d"]
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize("paradigm", ["spatial", "layer+channel"])
def test_preactivated_blocks_compute_their_rows_from_raw_rows_and_update_x_in_place(paradigm: str) -> None:
    program = dynamic(paradigm)
    lowered, _ = run(program, lowering())
    assert lowered.refusals == ()
    assert [op.spec for _, op in lowered.ops() if op.spec.name == "batch_norm"] == []
    specs = {node.name: op.spec for node, op in lowered.ops() if isinstance(op, Conv2d)}
    assert not any(spec.groups == 16 for name, spec in specs.items() if "branch" in name)
    fused = [spec for spec in specs.values() if spec.prologue]
    assert [(spec.prologue, spec.rows, spec.gathered) for spec in fused] == [("relu", True, False)] * 3
    assert [spec.residual for spec in specs.values()].count("in_place") == 3
    for rate in (0, 0.3, 1):
        x, masks = random_images(3, 3, 13, 17), random_masks_like(program, rate=rate, batch=3)
        same_output(program, lowered, x, masks)
        with torch.no_grad():
            assert relative_error(run_overwriting(lowered, x, masks), program(x, masks)[0]) <= 1e-5


def test_without_the_fusion_the_norms_are_computed_on_the_needed_rows() -> None:
    program = dynamic("spatial")
    lowered, _ = run(program, lowering(without=["prologue"]))
    assert not any(prologues(lowered))
    same_output(program, lowered, random_images(3, 3, 13, 17), random_masks_like(program, rate=0.3, batch=3))


@pytest.mark.slow
def test_a_compiled_preactivated_network_climbs_the_ladder() -> None:
    model = laudc.transform(
        conditioned(network, size=(32, 32)), random_images(1, 3, 32, 32), paradigm="spatial+channel"
    )
    assert all(rung.passed for rung in climb(laudc.compile(model, "cpu")))


def test_the_network_of_the_gpu_ladder_has_every_norm_in_a_prologue() -> None:
    program = converted(conditioned(PreactivatedNet), random_images(2, 3, 50, 70), paradigm="spatial+channel")
    assert [block.pattern for block in program.blocks] == ["preactivated-basic"] * 2 + ["preactivated-bottleneck"] * 2
    lowered, _ = run(program, lowering())
    assert prologues(lowered).count("relu") == 4  # the norms within a branch are folded
    same_output(program, lowered, random_images(2, 3, 50, 70), random_masks_like(program, rate=0.5, batch=2))


def two_readers(sketch: Sketch, x: fx.Node) -> fx.Node:
    norm = sketch.op("norm", AFFINE, x)
    return sketch.op("add", AddSpec(), sketch.op("conv", CONV, norm), sketch.op("other", CONV, norm))


def read_as_residual(sketch: Sketch, x: fx.Node) -> fx.Node:
    conv = Conv2dSpec(in_channels=4, out_channels=4, residual="dense")
    norm = sketch.op("norm", AFFINE, x)
    return sketch.op("conv", conv, norm, norm)


def read_by_a_masker_too(sketch: Sketch, x: fx.Node) -> fx.Node:
    conv = Conv2dSpec(in_channels=4, out_channels=4, masker=True, bias=True)
    return sketch.op("conv", conv, sketch.op("norm", AFFINE, x))


def read_by_an_activation(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.op("act", ActivationSpec(function="relu"), sketch.op("norm", AFFINE, x))


def not_pointwise(sketch: Sketch, x: fx.Node) -> fx.Node:
    wide = Conv2dSpec(in_channels=4, out_channels=4, groups=4, kernel=(3, 3), padding=(1, 1, 1, 1))
    return sketch.op("conv", CONV, sketch.op("wide", wide, x))


def grouped_by_two(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.op("conv", CONV, sketch.op("mixing", Conv2dSpec(in_channels=4, out_channels=4, groups=2), x))


@pytest.mark.parametrize(
    "make", [two_readers, read_as_residual, read_by_a_masker_too, read_by_an_activation, not_pointwise, grouped_by_two]
)
def test_what_is_not_the_readers_own_affine_map_stays(make: Callable[[Sketch, fx.Node], fx.Node]) -> None:
    sketch = Sketch()
    program = sketch.returns(make(sketch, sketch.input(2, 4, 5, 6)))
    assert FusePrologue().run(program) is program


@pytest.mark.parametrize("function", ["silu", "gelu", "hardswish", "sigmoid"])
@pytest.mark.parametrize("normed", [True, False])
def test_what_is_not_cheap_goes_into_one_tap_and_not_into_several(function: str, normed: bool) -> None:
    norm = Conv2dSpec(in_channels=4, out_channels=4, groups=4, bias=True, activation=function)
    first = norm if normed else ActivationSpec(function=function)
    several, one = before_conv(first), before_conv(first, POINT)
    assert FusePrologue().run(several) is several
    after = FusePrologue().run(one)
    assert prologues(after) == [function]
    same_output(one, after, random_images(2, 4, 5, 6))


def test_of_two_in_a_row_the_convolution_takes_the_nearer_and_the_other_stays() -> None:
    sketch = Sketch()
    relu = sketch.op("relu", RELU, sketch.input(2, 4, 5, 6))
    before = sketch.returns(sketch.op("conv", CONV, sketch.op("norm", AFFINE, relu)))
    after = FusePrologue().run(before)
    assert [op.spec.name for _, op in after.ops()] == ["activation", "conv2d"]
    assert prologues(after) == ["affine"]
    same_output(before, after, random_images(2, 4, 5, 6))


def test_a_norm_behind_masked_channels_keeps_them_dense() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_norm(3, 16)
            self.branch = nn.Sequential(
                nn.Conv2d(16, 16, 1), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            out: Tensor = x + self.branch(x)
            return out

    program = converted(conditioned(Behind, size=(16, 16)), random_images(2, 3, 9, 9), paradigm="channel")
    lowered, _ = run(program, lowering())
    (refusal,) = lowered.refusals
    assert refusal.reason.endswith("norms or activates what is masked: a dropped channel would be no zero")
    same_output(program, lowered, random_images(2, 3, 9, 9), random_masks_like(program, rate=0.5, batch=2))
