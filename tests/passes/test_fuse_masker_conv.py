"""The masker's logit as one more column of the first 1x1 convolution, where that is worth a dense convolution."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import fx, nn

from laudc.latency.constants import defaults
from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.gather import GatherSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.ops.scatter import ScatterSpec
from laudc.passes import PASSES
from laudc.passes.fuse_masker_conv import FuseMaskerConv
from laudc.passes.lower_masks import LowerMasks
from laudc.pipeline import ordered, run
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import (
    Residual,
    Sketch,
    change_text,
    conv_norm,
    converted,
    random_images,
    random_masks_like,
    same_output,
    tiny_around,
)

FIRST = Conv2dSpec(in_channels=4, out_channels=6, activation="relu")
KNOWN = defaults(TARGETS["cpu"])
SLOW_MEMORY = replace(KNOWN.constants, warm_bytes_per_us=1e-3, spilled_bytes_per_us=1e-3)
ALWAYS = FuseMaskerConv(expected_rate=1.0, calibration=replace(KNOWN, constants=SLOW_MEMORY))
"""Where everything runs anyway and reading is all that counts, x is better read once."""


def lowered(first: Conv2dSpec = FIRST, *, granularity: int = 2, size: tuple[int, int] = (5, 7)) -> Program:
    """first, then a pointwise convolution, masked by patches that are decided from what first reads."""
    sketch = Sketch()
    x = sketch.input(3, first.in_channels, *size)
    mask = sketch.patches("m", x, granularity=granularity)
    last = Conv2dSpec(in_channels=first.out_channels, out_channels=4)
    value = sketch.op("last", last, sketch.op("first", first, x))
    return LowerMasks().run(sketch.returns(sketch.op("masked", MaskRowsSpec(granularity=granularity), value, mask)))


def test_the_masker_becomes_a_column_of_the_convolution(golden: Callable[[str], None]) -> None:
    before = lowered()
    golden(change_text(before, ALWAYS.run(before)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("granularity", [0, 1, 2, 3, 9])
def test_the_fused_masker_decides_and_computes_the_same(granularity: int, bias: bool) -> None:
    before = lowered(Conv2dSpec(in_channels=4, out_channels=6, bias=bias), granularity=granularity)
    after = ALWAYS.run(before)
    assert after is not before
    x = random_images(3, 4, 5, 7)
    # a mean of logits and the logit of a mean differ by rounding, far less than these logits are from zero
    same_output(before, after, x)
    for rate in (0, 0.3, 1):
        same_output(before, after, x, random_masks_like(before, rate=rate, batch=3))


@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_fusing_maskers_of_a_network_changes_no_output(rate: float) -> None:
    before, after = tiny_around("fuse_masker_conv")
    assert after.text().count("patch_decision") >= 3
    masks = random_masks_like(before, rate=rate, batch=3)
    same_output(before, after, random_images(3, 3, 37, 45), masks)


def test_it_is_fused_where_skipping_saves_little_and_not_where_it_saves_much() -> None:
    wide = lowered(Conv2dSpec(in_channels=64, out_channels=512), granularity=4, size=(56, 56))
    assert FuseMaskerConv(expected_rate=0.1, calibration=KNOWN).run(wide) is wide
    assert FuseMaskerConv(expected_rate=0.99, calibration=KNOWN).run(wide) is not wide


@functools.cache
def bottlenecks(count: int) -> Program:
    """So many alike blocks behind a stem, in half precision, lowered as far as the pass."""
    blocks = (Residual(conv_norm(256, 64), conv_norm(64, 64, 3), conv_norm(64, 256)) for _ in range(count))
    model = nn.Sequential(conv_norm(3, 256, 3), nn.ReLU(), *blocks).eval()
    program = converted(model, random_images(1, 3, 56, 56), paradigm="spatial", granularity="8")
    earlier = ordered("lower")[: ordered("lower").index("fuse_masker_conv")]
    before, _ = run(program_for(program, (8, 3, 56, 56), dtype="float16"), [PASSES[name]() for name in earlier])
    return before


@pytest.mark.parametrize(("count", "rate", "fused"), [(1, 0.3, 1), (3, 0.3, 0), (3, 0.9, 3)])
def test_maskers_that_can_hand_means_on_are_weighed_together(count: int, rate: float, fused: int) -> None:
    """One alone is worth fusing at a rate at which several are not, since all but the first then read half."""
    target = TARGETS["h200"]
    after = FuseMaskerConv(target=target, expected_rate=rate, calibration=defaults(target)).run(bottlenecks(count))
    assert after.text().count(" = patch_decision(") == fused


def test_a_program_without_maskers_is_the_same_object() -> None:
    after = ALWAYS.run(lowered())
    assert ALWAYS.run(after) is after


@pytest.mark.parametrize(
    "first",
    [
        Conv2dSpec(in_channels=4, out_channels=6, kernel=(3, 3), padding=(1, 1, 1, 1)),
        Conv2dSpec(in_channels=4, out_channels=6, stride=(2, 2)),
        Conv2dSpec(in_channels=4, out_channels=6, groups=2),
        Conv2dSpec(in_channels=4, out_channels=6, padding=(1, 1, 1, 1)),
    ],
    ids=["3x3", "strided", "grouped", "padded"],
)
def test_a_convolution_that_does_not_see_one_pixel_at_a_time_is_refused(first: Conv2dSpec) -> None:
    program = lowered(first)
    assert ALWAYS.run(program) is program


def gathered(*, block: str = "", second_reader: bool = False) -> Program:
    """One gathered convolution behind a masker, written out."""
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=2, block="here")
    pixels = sketch.op("pixels", PixelMaskSpec(granularity=2, map_size=(5, 7)), mask)
    rows = sketch.op("rows", RowListSpec(), pixels)
    matrix = sketch.op("gather", GatherSpec(map_size=(5, 7)), x, rows, block=block)
    spec = Conv2dSpec(in_channels=4, out_channels=4, rows=True, gathered=True, compact=True, map_size=(5, 7))

    def convolved(name: str) -> fx.Node:
        conv = sketch.op(name, spec, matrix, rows, block=block)
        return sketch.op(f"{name}_scatter", ScatterSpec(map_size=(5, 7)), conv, rows, block=block)

    first = convolved("first")
    if not second_reader:
        return sketch.returns(first)
    return sketch.returns(sketch.op("add", AddSpec(), first, convolved("second")))


def test_a_convolution_of_another_block_is_refused() -> None:
    here, there = gathered(block="here"), gathered(block="there")
    assert ALWAYS.run(here) is not here
    assert ALWAYS.run(there) is there


def test_a_gather_with_two_readers_is_refused() -> None:
    program = gathered(block="here", second_reader=True)
    assert ALWAYS.run(program) is program
