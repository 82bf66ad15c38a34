"""The residual's own buffer becomes the result, where clauses (a) to (d) of the rule allow it.

Each test runs the result twice: by the reference, which writes into a copy, and with every update really writing
into its buffer. If a buffer is given up too early, the second differs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from laudc.compare import relative_error
from laudc.ops.add import AddSpec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.flatten import FlattenSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.ops.pixel_mask import PixelMaskSpec
from laudc.ops.row_list import RowListSpec
from laudc.passes.update_in_place import UpdateInPlace
from laudc.program import Program
from laudc.testing import (
    Sketch,
    change_text,
    random_images,
    random_masks_like,
    run_overwriting,
    same_output,
    tiny_around,
)

DENSE = Conv2dSpec(in_channels=4, out_channels=4, kernel=(3, 3), padding=(1, 1, 1, 1), bias=True)
SHAPE = (3, 4, 5, 7)


class Blocks(Sketch):
    """Row convolutions that add a residual, all at the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.input(*SHAPE)
        mask = self.patches("m", self.x, granularity=2)
        pixels = self.op("pixels", PixelMaskSpec(granularity=2, map_size=(5, 7)), mask)
        self.rows = self.op("rows", RowListSpec(), pixels)

    def conv(self, name: str, x: fx.Node, *, activation: str = "relu") -> fx.Node:
        spec = Conv2dSpec(in_channels=4, out_channels=4, bias=True, activation=activation)
        return self.op(name, spec, x)

    def update(self, name: str, identity: fx.Node, *, x: fx.Node | None = None, activation: str = "relu") -> fx.Node:
        """activation(identity + conv(x)) at the rows, activation(identity) elsewhere."""
        spec = Conv2dSpec(in_channels=4, out_channels=4, bias=True, rows=True, residual="dense", activation=activation)
        before = x or self.conv(f"{name}_before", identity, activation="silu")
        return self.op(name, spec, before, self.rows, identity)


def checked(before: Program) -> str:
    """The text after the pass, the output being the same by the reference and when it really overwrites."""
    after = UpdateInPlace().run(before)
    for rate in (0, 0.3, 1):
        x, masks = random_images(*SHAPE), random_masks_like(before, rate=rate, batch=3)
        kept = x.clone()
        same_output(before, after, x, masks)
        expected, _ = after(x, masks)
        assert relative_error(run_overwriting(after, x, masks), expected) <= 1e-6
        assert torch.equal(x, kept)
    assert "residual=dense" not in after.text()
    return after.text()


def updates(text: str) -> list[str]:
    """The lines of the updates, their activations and the copies, without the types."""
    wanted = ("in_place", "_copy =", "_relu =", "_silu =", "_relu6 =", "_none =")
    return [line.partition(" :")[0] for line in text.splitlines() if any(word in line for word in wanted)]


# ---- where it is legal


def test_the_residuals_buffer_becomes_the_result(golden: Callable[[str], None]) -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    before = sketch.returns(sketch.conv("head", sketch.update("block", identity)))
    golden(change_text(before, UpdateInPlace().run(before)))
    assert len(updates(checked(before))) == 1


@pytest.mark.parametrize("function", ["none", "relu", "relu6"])
def test_an_idempotent_activation_in_range_needs_nothing_else(function: str) -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x, activation=function)
    (only,) = updates(checked(sketch.returns(sketch.update("block", identity, activation=function))))
    assert ("activation=" + function in only) == (function != "none")


def test_a_chain_of_blocks_stays_in_one_buffer() -> None:
    sketch = Blocks()
    value = sketch.conv("stem", sketch.x)
    for index in range(3):
        value = sketch.update(f"block{index}", value)
    assert len(updates(checked(sketch.returns(value)))) == 3


def test_a_pool_of_a_value_in_range_is_in_range() -> None:
    sketch = Blocks()
    pool = MaxPoolSpec(kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    identity = sketch.op("pool", pool, sketch.conv("stem", sketch.x))
    assert len(updates(checked(sketch.returns(sketch.update("block", identity))))) == 1


def test_reads_that_come_before_the_update_are_no_obstacle() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    early = sketch.conv("early", identity)
    total = sketch.op("total", AddSpec(), sketch.update("block", identity), early)
    assert len(updates(checked(sketch.returns(total)))) == 1


@pytest.mark.parametrize("rate", [0, 0.3, 1])
@pytest.mark.parametrize("paradigm", ["spatial", "layer", "spatial+channel"])
def test_updating_a_network_in_place_changes_no_output(paradigm: str, rate: float) -> None:
    before, after = tiny_around("update_in_place", paradigm)
    assert after.text().count("residual=in_place") == 6
    x, masks = random_images(3, 3, 37, 45), random_masks_like(before, rate=rate, batch=3)
    same_output(before, after, x, masks)
    assert relative_error(run_overwriting(after, x, masks), before(x, masks)[0]) <= 1e-5


def test_a_program_without_row_updates_is_the_same_object() -> None:
    _, after = tiny_around("update_in_place")
    assert UpdateInPlace().run(after) is after


# ---- clause (a): the identity is the block's input


def test_a_projection_is_updated_without_the_activation_which_then_runs_everywhere() -> None:
    sketch = Blocks()
    projection = sketch.conv("projection", sketch.conv("stem", sketch.x), activation="none")
    update, step = updates(checked(sketch.returns(sketch.update("block", projection))))
    assert update.endswith("rows=True, residual=in_place)(%block_before, %rows, %projection)")
    assert "activation=" not in update
    assert step == "%block_relu = activation(function=relu)(%block)"


# ---- clause (b): the activation leaves the skipped rows alone


@pytest.mark.parametrize("function", ["silu", "gelu", "hardswish", "sigmoid"])
def test_an_activation_that_is_not_idempotent_runs_everywhere(function: str) -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x, activation=function)
    text = checked(sketch.returns(sketch.update("block", identity, activation=function)))
    assert f"%block_{function} = activation(function={function})(%block)" in text


def test_a_value_that_is_not_in_range_is_activated_everywhere() -> None:
    """y = x + f(x); relu(y + g(y)): y may be negative, so relu does something where nothing was computed."""
    sketch = Blocks()
    y = sketch.update("first", sketch.conv("stem", sketch.x), activation="none")
    found = updates(checked(sketch.returns(sketch.update("second", y))))
    assert [line.partition(" =")[0] for line in found] == ["%first", "%second", "%second_relu"]
    assert "activation" not in found[1]


def test_the_range_of_relu_is_not_that_of_relu6() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x, activation="relu")
    text = checked(sketch.returns(sketch.update("block", identity, activation="relu6")))
    assert "%block_relu6 = activation(function=relu6)(%block)" in text


def test_an_update_in_place_is_only_in_range_where_its_buffer_was() -> None:
    sketch = Blocks()
    updated = Conv2dSpec(in_channels=4, out_channels=4, rows=True, residual="in_place", activation="relu")
    stem = sketch.conv("stem", sketch.x, activation="none")
    first = sketch.op("first", updated, sketch.x, sketch.rows, stem)
    text = checked(sketch.returns(sketch.update("second", first)))
    assert "%second_relu = activation(function=relu)(%second)" in text


def test_the_image_is_not_in_the_range_of_anything() -> None:
    sketch = Blocks()
    text = checked(sketch.returns(sketch.update("block", sketch.x)))
    assert "%block_relu = activation(function=relu)(%block)" in text


# ---- clause (c): every other read comes before the write


def test_a_later_reader_gets_the_old_value() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    block = sketch.update("block", identity)
    later = sketch.conv("later", identity)
    found = updates(checked(sketch.returns(sketch.op("total", AddSpec(), block, later))))
    assert found[0] == "%stem_copy = activation(function=none)(%stem)"
    assert found[1].endswith("(%block_before, %rows, %stem_copy)")
    assert "activation=relu" in found[1]


def test_of_two_blocks_that_start_from_one_value_the_first_works_on_a_copy() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    first, second = sketch.update("first", identity), sketch.update("second", identity)
    _, *found = updates(checked(sketch.returns(sketch.op("total", AddSpec(), first, second))))
    assert [line.rpartition(", ")[2] for line in found] == ["%stem_copy)", "%stem)"]


def test_a_value_that_the_program_returns_is_kept() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    sketch.patches("next", sketch.update("block", identity), granularity=2)
    found = updates(checked(sketch.returns(identity)))
    assert found[0] == "%stem_copy = activation(function=none)(%stem)"


def test_a_view_of_the_value_is_read_later() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    view = sketch.op("view", FlattenSpec(), identity)
    block = sketch.update("block", identity)
    end = sketch.op("end", FlattenSpec(), block)
    text = checked(sketch.returns(sketch.op("total", AddSpec(), end, view)))
    assert "%stem_copy = activation(function=none)(%stem)" in text


def test_a_torch_operation_may_have_made_a_view() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    view = sketch.torch_call(torch.Tensor.detach, identity, shape=SHAPE)
    block = sketch.update("block", identity)
    text = checked(sketch.returns(sketch.op("total", AddSpec(), block, view)))
    assert "%stem_copy = activation(function=none)(%stem)" in text


def test_a_convolution_that_reads_its_own_residual_works_on_a_copy() -> None:
    sketch = Blocks()
    identity = sketch.conv("stem", sketch.x)
    found = updates(checked(sketch.returns(sketch.update("block", identity, x=identity))))
    assert found[0] == "%stem_copy = activation(function=none)(%stem)"
    assert found[1].endswith("(%stem, %rows, %stem_copy)")


# ---- clause (d): the caller's tensor is the caller's


def test_the_callers_image_is_never_written() -> None:
    sketch = Blocks()
    text = checked(sketch.returns(sketch.update("block", sketch.x, activation="none")))
    assert "%x_copy = activation(function=none)(%x)" in text
