"""An activation ends the operation before it, where nobody else reads what that made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.passes.fuse_activation import FuseActivation
from laudc.program import Program
from laudc.testing import Sketch, change_text, random_images, random_masks_like, same_output, tiny_around

RELU = ActivationSpec(function="relu")


def activated(spec: Spec, *shape: int, operands: int = 1) -> Program:
    sketch = Sketch()
    x = sketch.input(*shape)
    before = (x, sketch.op("other", ActivationSpec(function="sigmoid"), x))
    return sketch.returns(
        sketch.op("act", ActivationSpec(function="silu"), sketch.op("made", spec, *before[:operands]))
    )


def conv_twice_read(sketch: Sketch) -> tuple[fx.Node, fx.Node]:
    conv = sketch.op("conv", Conv2dSpec(in_channels=4, out_channels=4), sketch.input(2, 4, 5, 6))
    return conv, sketch.op("act", RELU, conv)


def test_an_activation_ends_the_convolution_before_it(golden: Callable[[str], None]) -> None:
    sketch = Sketch()
    first = sketch.op("first", Conv2dSpec(in_channels=4, out_channels=6), sketch.input(2, 4, 5, 6))
    second = sketch.op("second", Conv2dSpec(in_channels=6, out_channels=4), sketch.op("relu", RELU, first))
    before = sketch.returns(sketch.op("silu", ActivationSpec(function="silu"), second))
    after = FuseActivation().run(before)
    golden(change_text(before, after))
    same_output(before, after, random_images(2, 4, 5, 6))


@pytest.mark.parametrize(
    ("spec", "shape", "operands"),
    [
        (Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3), bias=True), (2, 4, 5, 6), 1),
        (AddSpec(), (2, 4, 5, 6), 2),
        (LinearSpec(in_features=4, out_features=3, bias=True), (2, 4), 1),
    ],
)
def test_fusing_an_activation_changes_no_output(spec: Spec, shape: tuple[int, ...], operands: int) -> None:
    before = activated(spec, *shape, operands=operands)
    after = FuseActivation().run(before)
    assert "%act = " + spec.name in after.text()
    assert "activation=silu" in after.text()
    same_output(before, after, random_images(*shape))


@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_fusing_activations_of_a_dynamic_network_changes_no_output(rate: float) -> None:
    before, after = tiny_around("fuse_activation", "spatial+channel")
    assert after is not before
    same_output(before, after, random_images(3, 3, 37, 45), random_masks_like(before, rate=rate, batch=3))


def test_a_value_that_others_read_keeps_its_activation() -> None:
    sketch = Sketch()
    conv, relu = conv_twice_read(sketch)
    program = sketch.returns(sketch.op("add", AddSpec(), relu, conv))
    assert FuseActivation().run(program) is program


def test_a_second_activation_stays() -> None:
    sketch = Sketch()
    conv = sketch.op("conv", Conv2dSpec(in_channels=4, out_channels=4, activation="relu"), sketch.input(2, 4, 5, 6))
    program = sketch.returns(sketch.op("act", ActivationSpec(function="sigmoid"), conv))
    assert FuseActivation().run(program) is program


def test_an_activation_behind_a_pool_stays() -> None:
    program = activated(MaxPoolSpec(kernel=(2, 2), stride=(2, 2)), 2, 4, 6, 6)
    assert FuseActivation().run(program) is program


def test_an_activation_behind_an_update_in_place_stays() -> None:
    _, after = tiny_around("update_in_place")
    assert "activation(function=relu)" in after.text()
    assert FuseActivation().run(after) is after
