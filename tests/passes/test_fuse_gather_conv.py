"""The convolution reads its rows through the list."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.gather import GatherSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.ops.scatter import ScatterSpec
from laudc.passes.fuse_gather_conv import FuseGatherConv
from laudc.program import Program
from laudc.testing import Sketch, change_text, random_images, random_masks_like, same_output, tiny_around


def gathered(*, readers: int = 1, stride: int = 1, groups: int = 1) -> Program:
    sketch = Sketch()
    x = sketch.input(3, 4, 6, 7)
    height, width = -(-6 // stride), -(-7 // stride)
    mask = sketch.patches("m", x, granularity=0)
    pixels = sketch.op("pixels", PixelMaskSpec(granularity=0, map_size=(height, width)), mask)
    rows = sketch.op("rows", RowListSpec(), pixels)
    window = {"kernel": (3, 3), "stride": (stride, stride), "padding": (1, 1, 1, 1), "map_size": (height, width)}
    matrix = sketch.op("gather", GatherSpec(**window), x, rows)  # type: ignore[arg-type]  # one value a field
    spec = Conv2dSpec(
        in_channels=4,
        out_channels=4,
        groups=groups,
        rows=True,
        gathered=True,
        compact=True,
        bias=True,
        **window,  # type: ignore[arg-type]
    )
    made = []
    for index in range(readers):
        conv = sketch.op(f"conv{index}", spec, matrix, rows)
        made.append(sketch.op(f"scatter{index}", ScatterSpec(map_size=(height, width)), conv, rows))
    return sketch.returns(made[0] if readers == 1 else sketch.op("add", AddSpec(), *made))


def test_the_gather_goes_into_the_convolution(golden: Callable[[str], None]) -> None:
    before = gathered(stride=2)
    golden(change_text(before, FuseGatherConv().run(before)))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_fusing_a_gather_changes_no_output(rate: float, groups: int, stride: int) -> None:
    before = gathered(stride=stride, groups=groups)
    after = FuseGatherConv().run(before)
    masks = random_masks_like(before, rate=rate, batch=3, seed=2)
    same_output(before, after, random_images(3, 4, 6, 7), masks)


@pytest.mark.parametrize("rate", [0, 0.3, 1])
@pytest.mark.parametrize("paradigm", ["spatial", "spatial+layer", "spatial+channel"])
def test_fusing_the_gathers_of_a_network_changes_no_output(paradigm: str, rate: float) -> None:
    before, after = tiny_around("fuse_gather_conv", paradigm)
    assert "gather(" not in after.text()
    same_output(before, after, random_images(3, 3, 37, 45), random_masks_like(before, rate=rate, batch=3))


def test_two_readers_keep_the_gather() -> None:
    program = gathered(readers=2)
    assert FuseGatherConv().run(program) is program


def test_without_a_gather_it_is_the_same_object() -> None:
    after = FuseGatherConv().run(gathered())
    assert FuseGatherConv().run(after) is after
