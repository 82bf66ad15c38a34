"""A stem's max pooling goes into the convolution before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.passes.fold_stem import FoldStem
from laudc.passes.fuse_max_pool import FuseMaxPool
from laudc.program import Program, program_for
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


def fused(program: Program, *, target: str = "h200") -> tuple[Program, Program]:
    """After the image is folded, and after the pooling is fused."""
    folded = FoldStem(target=TARGETS[target]).run(program)
    return folded, FuseMaxPool(target=TARGETS[target]).run(folded)


@pytest.mark.parametrize("activation", ["relu", "relu6", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_one_kernel_makes_both(activation: str, bias: bool) -> None:
    before = stem(replace(CONV, activation=activation, bias=bias))
    _, after = fused(before)
    assert "conv_max_pool" in after.text()
    same_output(before, after, random_images(*SHAPE))


def test_the_row_that_folding_added_to_the_window_is_left_out() -> None:
    folded, after = fused(stem())
    assert "kernel=8-4" in folded.text()
    assert "kernel=7-4" in after.text()


@pytest.mark.parametrize(
    ("conv", "pool"),
    [
        (replace(CONV, activation="silu"), POOL),
        (replace(CONV, out_channels=32), POOL),
        (CONV, replace(POOL, padding=(0, 0))),
        (CONV, replace(POOL, dilation=(2, 2))),
        (CONV, replace(POOL, ceil_mode=True)),
    ],
)
def test_another_stem_stays(conv: Conv2dSpec, pool: MaxPoolSpec) -> None:
    folded, after = fused(stem(conv, pool))
    assert after is folded


def test_a_map_with_two_readers_is_written() -> None:
    folded, after = fused(stem(read_twice=True))
    assert after is folded


@pytest.mark.parametrize("target", ["cpu", "a100", "jetson-tx2"])
def test_where_no_kernel_does_both_it_stays(target: str) -> None:
    folded, after = fused(stem(), target=target)
    assert after is folded
