"""A stem's max pooling goes into the convolution before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laudc.latency.search import has_kernel
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.passes.fold_stem import FoldStem
from laudc.passes.fuse_max_pool import FuseMaxPool
from laudc.program import Program, program_for, type_of
from laudc.targets import TARGETS
from laudc.testing import Sketch, random_images, same_output

SHAPE = (2, 3, 32, 48)
CONV = Conv2dSpec(
    in_channels=3,
    out_channels=64,
    kernel=(7, 7),
    stride=(2, 2),
    padding=(3, 3, 3, 3),
    bias=True,
    activation="relu",
)
POOL = MaxPoolSpec(kernel=(3, 3), stride=(2, 2), padding=(1, 1))


def stem(conv: Conv2dSpec = CONV, pool: MaxPoolSpec = POOL, *, read_twice: bool = False) -> Program:
    sketch = Sketch()
    made = sketch.op("conv", conv, sketch.input(*SHAPE))
    pooled = sketch.op("pool", pool, made)
    if read_twice:
        again = sketch.op(
            "again", Conv2dSpec(in_channels=64, out_channels=64, stride=(2, 2), residual="dense"), made, pooled
        )
        pooled = again
    return program_for(sketch.returns(pooled), SHAPE, dtype="float16")


def fused(program: Program, *, target: str = "h200") -> Program:
    return FuseMaxPool(target=TARGETS[target]).run(program)


@pytest.mark.parametrize("activation", ["relu", "silu", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_one_kernel_makes_both(activation: str, bias: bool) -> None:
    before = stem(replace(CONV, activation=activation, bias=bias))
    after = fused(before)
    assert "conv_max_pool" in after.text()
    same_output(before, after, random_images(*SHAPE))


def test_its_image_is_folded_and_its_window_has_no_more_rows() -> None:
    before = stem()
    after = FoldStem(target=TARGETS["h200"]).run(fused(before))
    assert "conv_max_pool(in_channels=8, out_channels=64, kernel=7-4" in after.text()
    same_output(before, after, random_images(*SHAPE))


@pytest.mark.parametrize(("channels", "stride", "kernel"), [(8, 1, 3), (8, 2, 4), (5, 1, 3), (8, 1, 4)])
def test_an_image_of_more_channels_gets_its_padding_too(channels: int, stride: int, kernel: int) -> None:
    around = kernel // 2
    conv = Conv2dSpec(
        in_channels=channels,
        out_channels=64,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(around, around - (kernel + 1) % 2, around, around - (kernel + 1) % 2),
        activation="relu",
    )
    shape = (2, 3, 32, 64)
    sketch = Sketch()
    image = sketch.op("image", Conv2dSpec(in_channels=3, out_channels=channels), sketch.input(*shape))
    pooled = sketch.op("pool", POOL, sketch.op("conv", conv, image))
    before = program_for(sketch.returns(pooled), shape, dtype="float16")
    after = FoldStem(target=TARGETS["h200"]).run(fused(before))
    same_output(before, after, random_images(*shape))
    for node, op in after.ops():
        if op.spec.name in ("conv_max_pool", "max_pool"):
            operands = tuple(type_of(value) for value in node.all_input_nodes)
            assert has_kernel(op.spec, operands, TARGETS["h200"]), op.spec


@pytest.mark.parametrize(
    ("conv", "pool"),
    [
        (replace(CONV, out_channels=32), POOL),
        (replace(CONV, dilation=(2, 2)), POOL),
        (CONV, replace(POOL, padding=(0, 0))),
        (CONV, replace(POOL, dilation=(2, 2))),
        (CONV, replace(POOL, ceil_mode=True)),
    ],
)
def test_another_stem_stays(conv: Conv2dSpec, pool: MaxPoolSpec) -> None:
    before = stem(conv, pool)
    assert fused(before) is before


def test_a_map_with_two_readers_is_written() -> None:
    before = stem(read_twice=True)
    assert fused(before) is before


@pytest.mark.parametrize("target", ["cpu", "a100", "jetson-tx2"])
def test_where_no_kernel_does_both_it_stays(target: str) -> None:
    before = stem()
    assert fused(before, target=target) is before
