"""Dropout leaves no trace in what is compiled."""

from __future__ import annotations

from collections.abc import Callable

from laudc.ops.activation import ActivationSpec
from laudc.ops.dropout import DropoutSpec
from laudc.passes.drop_dropout import DropDropout
from laudc.program import Program
from laudc.testing import Sketch, change_text, random_images, same_output


def dropped_twice() -> Program:
    sketch = Sketch()
    x = sketch.input(2, 4, 3, 3)
    a = sketch.op("first", DropoutSpec(p=0.5), x)
    b = sketch.op("second", DropoutSpec(p=0.1), a)
    return sketch.returns(sketch.op("relu", ActivationSpec(function="relu"), b))


def test_the_readers_of_dropout_read_what_it_reads(golden: Callable[[str], None]) -> None:
    before = dropped_twice()
    golden(change_text(before, DropDropout().run(before)))


def test_dropping_dropout_changes_no_output() -> None:
    before = dropped_twice()
    same_output(before, DropDropout().run(before), random_images(2, 4, 3, 3), tolerance=0)


def test_a_program_without_dropout_is_the_same_object() -> None:
    after = DropDropout().run(dropped_twice())
    assert DropDropout().run(after) is after
