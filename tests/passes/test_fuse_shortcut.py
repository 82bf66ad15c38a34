"""A projection shortcut goes into the convolution that adds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laudc.ops.conv2d import Conv2dSpec
from laudc.passes.fuse_shortcut import FuseShortcut
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import Sketch, random_images, same_output

SHAPE = (2, 3, 9, 11)
ENTRY = Conv2dSpec(in_channels=3, out_channels=192, bias=True)
FIRST = Conv2dSpec(in_channels=192, out_channels=64, stride=(2, 2), bias=True, activation="relu")
LAST = Conv2dSpec(
    in_channels=64,
    out_channels=128,
    kernel=(3, 3),
    padding=(1, 1, 1, 1),
    bias=True,
    activation="relu",
    residual="dense",
)
PROJECTION = Conv2dSpec(in_channels=192, out_channels=128, stride=(2, 2), bias=True)


def block(last: Conv2dSpec = LAST, projection: Conv2dSpec = PROJECTION, *, read_twice: bool = False) -> Program:
    sketch = Sketch()
    entry = sketch.op("entry", ENTRY, sketch.input(*SHAPE))
    added = sketch.op("projection", projection, entry)
    made = sketch.op("last", last, sketch.op("first", FIRST, entry), added)
    if read_twice:
        made = sketch.op("again", replace(last, in_channels=128), made, added)
    return program_for(sketch.returns(made), SHAPE, dtype="float16")


def fused(program: Program, *, target: str = "h200") -> Program:
    return FuseShortcut(target=TARGETS[target]).run(program)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("last", [LAST, replace(LAST, kernel=(1, 1), padding=(0, 0, 0, 0))])
def test_one_convolution_makes_both(last: Conv2dSpec, biases: tuple[bool, bool]) -> None:
    before = block(replace(last, bias=biases[0]), replace(PROJECTION, bias=biases[1]))
    after = fused(before)
    assert "shortcut=192, shortcut_stride=2" in after.text()
    assert "projection" not in after.text()
    same_output(before, after, random_images(*SHAPE))


@pytest.mark.parametrize(
    ("last", "projection"),
    [
        (LAST, replace(PROJECTION, kernel=(3, 3), padding=(1, 1, 1, 1))),
        (LAST, replace(PROJECTION, activation="relu")),
        (LAST, replace(PROJECTION, groups=2)),
        (replace(LAST, groups=2), PROJECTION),
    ],
)
def test_another_shortcut_stays(last: Conv2dSpec, projection: Conv2dSpec) -> None:
    before = block(last, projection)
    assert fused(before) is before


def test_a_projection_with_two_readers_stays() -> None:
    before = block(read_twice=True)
    assert fused(before) is before


def test_a_projection_that_the_branch_reads_too_stays() -> None:
    sketch = Sketch()
    made = sketch.op("projection", PROJECTION, sketch.op("entry", ENTRY, sketch.input(*SHAPE)))
    again = replace(LAST, in_channels=128)
    before = program_for(sketch.returns(sketch.op("last", again, made, made)), SHAPE, dtype="float16")
    assert fused(before) is before


@pytest.mark.parametrize("target", ["cpu", "jetson-tx2"])
def test_where_no_kernel_takes_two_maps_it_stays(target: str) -> None:
    before = block()
    assert fused(before, target=target) is before


def test_a_map_of_another_size_is_refused() -> None:
    spec = replace(LAST, residual="none", shortcut=192, shortcut_stride=(2, 2))
    sketch = Sketch()
    entry = sketch.op("entry", ENTRY, sketch.input(*SHAPE))
    first = sketch.op("first", replace(FIRST, stride=(1, 1)), entry)
    with pytest.raises(ValueError, match="does not add"):
        sketch.op("last", spec, first, entry)


def test_products_are_counted_of_both() -> None:
    before = block()
    after = fused(before)
    macs = [
        sum(op.spec.macs(tuple(value.meta["types"][0] for value in node.all_input_nodes)) for node, op in p.ops())
        for p in (before, after)
    ]
    assert macs[0] == macs[1] > 0
