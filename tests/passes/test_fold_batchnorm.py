"""A norm becomes part of the convolution before it, or a convolution of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from laudc.capture import capture
from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.batch_norm import BatchNormSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.passes.fold_batchnorm import FoldBatchnorm
from laudc.program import Program
from laudc.testing import (
    Sketch,
    change_text,
    conditioned,
    random_images,
    random_masks_like,
    same_output,
    state_hash,
    tiny_around,
)

CONV = Conv2dSpec(in_channels=4, out_channels=6, kernel=(3, 3), padding=(1, 1, 1, 1))


def normed(conv: Conv2dSpec = CONV, norm: BatchNormSpec | None = None) -> Program:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    return sketch.returns(sketch.op("norm", norm or BatchNormSpec(channels=6), sketch.op("conv", conv, x)))


def ops(program: Program) -> list[str]:
    return [op.spec.name for _, op in program.ops()]


def test_a_norm_goes_into_its_convolution_or_becomes_a_depthwise_one(golden: Callable[[str], None]) -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    first = sketch.op("first_norm", BatchNormSpec(channels=4), x)
    before = sketch.returns(sketch.op("norm", BatchNormSpec(channels=6), sketch.op("conv", CONV, first)))
    after = FoldBatchnorm().run(before)
    golden(change_text(before, after))
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_folding_changes_no_output(bias: bool, affine: bool, groups: int) -> None:
    conv = Conv2dSpec(in_channels=4, out_channels=6, kernel=(3, 3), bias=bias, groups=groups)
    before = normed(conv, BatchNormSpec(channels=6, affine=affine, eps=1e-3))
    after = FoldBatchnorm().run(before)
    assert ops(after) == ["conv2d"]
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_folding_a_dynamic_network_changes_no_output(rate: float) -> None:
    before, after = tiny_around("fold_batchnorm", "spatial+channel")
    assert "batch_norm" not in ops(after)
    same_output(before, after, random_images(3, 3, 37, 45), random_masks_like(before, rate=rate, batch=3))


def test_the_weights_of_the_network_stay_as_they_are() -> None:
    before = normed()
    kept = state_hash(before.graph)
    FoldBatchnorm().run(before)
    assert state_hash(before.graph) == kept


def test_a_convolution_with_another_reader_keeps_its_weights() -> None:
    sketch = Sketch()
    conv = sketch.op("conv", CONV, sketch.input(2, 4, 5, 6))
    norm = sketch.op("norm", BatchNormSpec(channels=6), conv)
    before = sketch.returns(sketch.op("add", AddSpec(), norm, conv))
    after = FoldBatchnorm().run(before)
    assert "%conv = conv2d(in_channels=4, out_channels=6, kernel=3, padding=1)(%x)" in after.text()
    assert "%norm = conv2d(in_channels=6, out_channels=6, groups=6, bias=True)(%conv)" in after.text()
    same_output(before, after, random_images(2, 4, 5, 6))


def test_a_convolution_that_ends_in_an_activation_keeps_it() -> None:
    conv = Conv2dSpec(in_channels=4, out_channels=6, activation="relu")
    before = normed(conv)
    after = FoldBatchnorm().run(before)
    assert "activation=relu" in after.text()
    assert "groups=6" in after.text()
    same_output(before, after, random_images(2, 4, 5, 6))


def test_a_layer_called_twice_is_folded_for_each_norm_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = torch.relu(norm(self.conv(x)))
            return x

    before = capture(conditioned(Twice, size=(8, 8)), random_images(2, 4, 8, 8))
    after = FoldBatchnorm().run(before)
    assert "batch_norm" not in ops(after)
    same_output(before, after, random_images(2, 4, 8, 8))


def test_a_program_without_norms_is_the_same_object() -> None:
    sketch = Sketch()
    program = sketch.returns(sketch.op("relu", ActivationSpec(function="relu"), sketch.input(1, 2, 3, 3)))
    assert FoldBatchnorm().run(program) is program
