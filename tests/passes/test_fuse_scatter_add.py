"""The convolution writes its rows into the map, residual and activation included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from laudc.ops.activation import ActivationSpec
from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.ops.scatter import ScatterSpec
from laudc.passes.fuse_scatter_add import FuseScatterAdd
from laudc.program import Program
from laudc.testing import Sketch, change_text, random_images, random_masks_like, same_output, tiny_around

SCATTER = ScatterSpec(map_size=(5, 7))


class Rows(Sketch):
    """x, a list of some rows, and convolutions that make a matrix of them."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.input(3, 4, 5, 7)
        mask = self.patches("m", self.x, granularity=2)
        pixels = self.op("pixels", PixelMaskSpec(granularity=2, map_size=(5, 7)), mask)
        self.rows = self.op("rows", RowListSpec(), pixels)

    def matrix(self, name: str, x: fx.Node, *, activation: str = "none") -> fx.Node:
        spec = Conv2dSpec(in_channels=4, out_channels=4, rows=True, compact=True, bias=True, activation=activation)
        return self.op(name, spec, x, self.rows)

    def scattered(self, name: str, matrix: fx.Node, *, zero: bool = True) -> fx.Node:
        return self.op(name, ScatterSpec(map_size=(5, 7), zero=zero), matrix, self.rows)


def added(*, scatter_first: bool = True, activation: str = "relu", before_the_add: str = "none") -> Program:
    sketch = Rows()
    identity = sketch.op("identity", ActivationSpec(function="relu"), sketch.x)
    scatter = sketch.scattered("scatter", sketch.matrix("conv", sketch.x, activation=before_the_add))
    operands = (scatter, identity) if scatter_first else (identity, scatter)
    return sketch.returns(sketch.op("add", AddSpec(activation=activation), *operands))


def chained() -> Program:
    """A row convolution that reads the rows of another."""
    sketch = Rows()
    first = sketch.scattered("first_scatter", sketch.matrix("first", sketch.x, activation="relu"), zero=False)
    second = sketch.scattered("second_scatter", sketch.matrix("second", first))
    return sketch.returns(sketch.op("add", AddSpec(), second, sketch.x))


def same_at_all_rates(before: Program, after: Program) -> None:
    for rate in (0, 0.3, 1):
        same_output(before, after, random_images(3, 4, 5, 7), random_masks_like(before, rate=rate, batch=3))


def test_the_scatter_and_the_add_go_into_the_convolution(golden: Callable[[str], None]) -> None:
    before = added()
    golden(change_text(before, FuseScatterAdd().run(before)))


def test_a_map_that_is_read_by_row_is_written_by_row(golden: Callable[[str], None]) -> None:
    before = chained()
    after = FuseScatterAdd().run(before)
    golden(change_text(before, after))
    same_at_all_rates(before, after)


@pytest.mark.parametrize("scatter_first", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_fusing_scatter_and_add_changes_no_output(activation: str, scatter_first: bool) -> None:
    before = added(scatter_first=scatter_first, activation=activation)
    after = FuseScatterAdd().run(before)
    assert "scatter" not in after.text()
    same_at_all_rates(before, after)


@pytest.mark.parametrize("rate", [0, 0.3, 1])
@pytest.mark.parametrize("paradigm", ["spatial", "spatial+layer", "spatial+channel"])
def test_fusing_the_scatters_of_a_network_changes_no_output(paradigm: str, rate: float) -> None:
    before, after = tiny_around("fuse_scatter_add", paradigm)
    assert "scatter(" not in after.text()
    same_output(before, after, random_images(3, 3, 37, 45), random_masks_like(before, rate=rate, batch=3))


def test_an_activation_before_the_add_keeps_the_scatter() -> None:
    program = added(before_the_add="relu")
    assert FuseScatterAdd().run(program) is program


def test_a_matrix_with_a_second_reader_stays() -> None:
    sketch = Rows()
    matrix = sketch.matrix("conv", sketch.x)
    total = sketch.op("add", AddSpec(), sketch.scattered("scatter", matrix), sketch.x)
    again = sketch.op("pool_of_matrix", SCATTER, matrix, sketch.rows)
    program = sketch.returns(
        sketch.op("end", ActivationSpec(function="relu"), sketch.op("sum", AddSpec(), total, again))
    )
    assert FuseScatterAdd().run(program) is program


def test_a_map_with_a_second_reader_stays() -> None:
    sketch = Rows()
    scatter = sketch.scattered("scatter", sketch.matrix("conv", sketch.x))
    total = sketch.op("add", AddSpec(), scatter, sketch.x)
    program = sketch.returns(sketch.op("again", AddSpec(), total, scatter))
    assert FuseScatterAdd().run(program) is program


def test_a_map_of_zeros_that_no_add_reads_stays() -> None:
    sketch = Rows()
    scatter = sketch.scattered("scatter", sketch.matrix("conv", sketch.x))
    program = sketch.returns(sketch.op("act", ActivationSpec(function="sigmoid"), scatter))
    assert FuseScatterAdd().run(program) is program


def test_a_map_that_is_added_to_itself_stays() -> None:
    sketch = Rows()
    scatter = sketch.scattered("scatter", sketch.matrix("conv", sketch.x))
    program = sketch.returns(sketch.op("add", AddSpec(), scatter, scatter))
    assert FuseScatterAdd().run(program) is program


def test_without_a_scatter_it_is_the_same_object() -> None:
    after = FuseScatterAdd().run(added())
    assert FuseScatterAdd().run(after) is after
