"""Row lists straight from decisions, where nothing else reads the maps in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.mask_rows import MaskRowsSpec
from laudc.ops.needed_region import NeededRegionSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.ops.scatter import ScatterSpec
from laudc.passes.fuse_row_lists import FuseRowLists
from laudc.passes.lower_masks import LowerMasks
from laudc.pipeline import lowering, run
from laudc.program import Program
from laudc.targets import TARGETS
from laudc.testing import Sketch, change_text, random_images, random_masks_like, same_output, tiny_converted

ON_GPU = FuseRowLists(target=TARGETS["h200"])
THREE = Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3), padding=(1, 1, 1, 1))
ONE = Conv2dSpec(in_channels=4, out_channels=4)
REGION = NeededRegionSpec(map_size=(5, 7), kernel=(3, 3), padding=(1, 1, 1, 1))
READER = Conv2dSpec(in_channels=4, out_channels=4, rows=True, compact=True)


def lowered(*branch: Conv2dSpec, granularity: int = 2) -> Program:
    """A masked chain of convolutions."""
    sketch = Sketch()
    value = x = sketch.input(3, 4, 5, 7)
    mask = sketch.patches("m", x, granularity=granularity)
    for index, spec in enumerate(branch):
        value = sketch.op(f"conv{index}", spec, value)
    return LowerMasks().run(sketch.returns(sketch.op("masked", MaskRowsSpec(granularity=granularity), value, mask)))


def same_at_all_rates(before: Program, after: Program, batch: int, *size: int) -> None:
    for rate in (0, 0.3, 1):
        same_output(before, after, random_images(batch, *size), random_masks_like(before, rate=rate, batch=batch))


def test_the_maps_of_pixels_are_gone(golden: Callable[[str], None]) -> None:
    before = lowered(ONE, THREE, ONE)
    golden(change_text(before, ON_GPU.run(before)))


@pytest.mark.parametrize("granularity", [0, 1, 2, 3])
@pytest.mark.parametrize("branch", [(ONE, ONE), (ONE, THREE, ONE), (THREE, THREE)], ids=["1-1", "1-3-1", "3-3"])
def test_lists_from_decisions_change_no_output(branch: tuple[Conv2dSpec, ...], granularity: int) -> None:
    before = lowered(*branch, granularity=granularity)
    after = ON_GPU.run(before)
    text = after.text()
    assert "pixel_mask(" not in text
    assert "needed_region(" not in text
    assert " = row_list(" not in text
    same_at_all_rates(before, after, 3, 4, 5, 7)


@pytest.mark.parametrize("paradigm", ["spatial", "spatial+channel"])
def test_the_lists_of_a_network_change_no_output(paradigm: str) -> None:
    before, _ = run(tiny_converted(paradigm), lowering(without=["row-lists"]))
    after = ON_GPU.run(before)
    assert after.text().count(" = patch_rows(") == 6
    same_at_all_rates(before, after, 3, 3, 37, 45)
    assert ON_GPU.run(after) is after


def test_a_cpu_keeps_its_maps() -> None:
    program = lowered(ONE, THREE, ONE)
    assert FuseRowLists(target=TARGETS["cpu"]).run(program) is program


# ---- what stays


def read(sketch: Sketch, name: str, x: fx.Node, rows: fx.Node) -> fx.Node:
    matrix = sketch.op(name, READER, x, rows)
    return sketch.op(f"{name}_map", ScatterSpec(map_size=(5, 7)), matrix, rows)


def test_pixels_on_which_two_decisions_agree_stay() -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    one, other = (sketch.patches(name, x, granularity=2) for name in ("one", "other"))
    outer = sketch.op("outer", PixelMaskSpec(granularity=2, map_size=(5, 7)), one)
    inner = sketch.op("inner", PixelMaskSpec(granularity=2, map_size=(5, 7), within=True), other, outer)
    program = sketch.returns(read(sketch, "conv", x, sketch.op("rows", RowListSpec(), inner)))
    assert ON_GPU.run(program) is program


def test_a_region_of_a_region_keeps_its_maps() -> None:
    program = lowered(ONE, THREE, THREE)
    assert ON_GPU.run(program) is program


def test_a_region_without_a_list_of_the_pixels_stays() -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    pixels = sketch.op("pixels", PixelMaskSpec(granularity=2, map_size=(5, 7)), sketch.patches("m", x, granularity=2))
    rows = sketch.op("rows", RowListSpec(), sketch.op("region", REGION, pixels))
    program = sketch.returns(read(sketch, "conv", x, rows))
    assert ON_GPU.run(program) is program


def test_two_regions_of_the_same_pixels_stay() -> None:
    sketch = Sketch()
    x = sketch.input(3, 4, 5, 7)
    pixels = sketch.op("pixels", PixelMaskSpec(granularity=2, map_size=(5, 7)), sketch.patches("m", x, granularity=2))
    made = read(sketch, "own", x, sketch.op("rows", RowListSpec(), pixels))
    for name in ("one", "other"):
        rows = sketch.op(f"{name}_rows", RowListSpec(), sketch.op(f"{name}_region", REGION, pixels))
        made = sketch.op(f"{name}_sum", AddSpec(), made, read(sketch, name, x, rows))
    program = sketch.returns(made)
    assert ON_GPU.run(program) is program
