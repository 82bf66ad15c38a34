"""A static convolution adds its residual itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.passes.fuse_conv_add import FuseConvAdd
from laudc.passes.fuse_scatter_add import FuseScatterAdd
from laudc.pipeline import lowering, run
from laudc.program import Program
from laudc.testing import Sketch, change_text, random_images, random_masks_like, same_output, tiny_converted

CONV = Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True)
RELU = ActivationSpec(function="relu")


def added(conv: Conv2dSpec = CONV, *, conv_first: bool = True, activation: str = "relu") -> Program:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    identity = sketch.op("identity", RELU, x)
    operands = (sketch.op("conv", conv, x), identity)
    operands = operands if conv_first else operands[::-1]
    return sketch.returns(sketch.op("add", AddSpec(activation=activation), *operands))


def test_a_convolution_adds_its_residual(golden: Callable[[str], None]) -> None:
    before = added()
    golden(change_text(before, FuseConvAdd().run(before)))


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("conv_first", [True, False])
def test_fusing_an_add_changes_no_output(conv_first: bool, activation: str) -> None:
    before = added(conv_first=conv_first, activation=activation)
    after = FuseConvAdd().run(before)
    assert "residual=dense" in after.text()
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_a_projection_adds_what_was_scattered_where_the_scatter_could_not(rate: float) -> None:
    program = tiny_converted("spatial+channel")
    lowered, steps = run(program, lowering(without=["scatter-add"]))
    assert {step.name: step.changed for step in steps}["fuse_conv_add"]
    same_output(program, lowered, random_images(3, 3, 37, 45), random_masks_like(program, rate=rate, batch=3))


def test_of_two_convolutions_the_first_adds_the_other() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    branch, projection = sketch.op("branch", CONV, x), sketch.op("projection", CONV, x)
    before = sketch.returns(sketch.op("add", AddSpec(), branch, projection))
    after = FuseConvAdd().run(before)
    assert "residual=dense)(%x, %projection)" in after.text()
    same_output(before, after, random_images(2, 4, 5, 6))


def test_the_input_of_a_convolution_can_be_its_residual() -> None:
    sketch = Sketch()
    x = sketch.op("relu", RELU, sketch.input(2, 4, 5, 6))
    before = sketch.returns(sketch.op("add", AddSpec(), sketch.op("conv", CONV, x), x))
    after = FuseConvAdd().run(before)
    assert "residual=dense)(%relu, %relu)" in after.text()
    same_output(before, after, random_images(2, 4, 5, 6))


def test_a_convolution_with_a_second_reader_keeps_its_add() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    conv = sketch.op("conv", CONV, x)
    total = sketch.op("add", AddSpec(), conv, sketch.op("identity", RELU, x))
    program = sketch.returns(sketch.op("conv2", CONV, sketch.op("again", AddSpec(), total, conv)))
    assert FuseConvAdd().run(program) is program


def test_a_convolution_that_is_added_to_itself_keeps_its_add() -> None:
    sketch = Sketch()
    conv = sketch.op("conv", CONV, sketch.input(2, 4, 5, 6))
    program = sketch.returns(sketch.op("add", AddSpec(), conv, conv))
    assert FuseConvAdd().run(program) is program


def test_a_convolution_that_ends_in_an_activation_keeps_its_add() -> None:
    program = added(Conv2dSpec(in_channels=4, out_channels=4, activation="relu"))
    assert FuseConvAdd().run(program) is program


def test_a_convolution_that_already_adds_keeps_its_second_add() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    first = sketch.op("conv", Conv2dSpec(in_channels=4, out_channels=4, residual="dense"), x, x)
    program = sketch.returns(sketch.op("add", AddSpec(), first, x))
    assert FuseConvAdd().run(program) is program


def test_without_an_add_it_is_the_same_object() -> None:
    after = FuseConvAdd().run(added())
    assert FuseConvAdd().run(after) is after
    assert FuseScatterAdd().run(after) is after
