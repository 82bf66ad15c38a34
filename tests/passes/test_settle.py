"""Which convolutions may look at a decision while the kernel ahead of them still runs."""

from __future__ import annotations

from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.passes.settle import Settle
from laudc.program import Program
from laudc.testing import Sketch

ON_SAMPLES = Conv2dSpec(in_channels=4, out_channels=4, rows=True, samples=True)
UPDATE = Conv2dSpec(in_channels=4, out_channels=4, rows=True, samples=True, residual="in_place")
DENSE = Conv2dSpec(in_channels=4, out_channels=4)


class Layers(Sketch):
    """Convolutions on the samples that a masker keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.input(2, 4, 5, 7)
        self.mask = self.decide("m")

    def decide(self, name: str):  # type: ignore[no-untyped-def]
        return self.masker(name, self.x, PatchMaskerSpec(key=name, channels=4, granularity=0))


def settled(program: Program) -> list[str]:
    after = Settle().run(program)
    return [node.name for node, op in after.ops() if isinstance(op, Conv2d) and op.spec.settled]


def test_the_first_waits_for_the_decision_and_the_others_need_not() -> None:
    sketch = Layers()
    first = sketch.op("first", ON_SAMPLES, sketch.x, sketch.mask)
    second = sketch.op("second", ON_SAMPLES, first, sketch.mask)
    third = sketch.op("third", UPDATE, second, sketch.mask, sketch.x)
    assert settled(sketch.returns(third)) == ["second", "third"]


def test_behind_anything_else_it_waits() -> None:
    """A dense convolution lets the next one begin before it has waited itself."""
    sketch = Layers()
    first = sketch.op("first", ON_SAMPLES, sketch.x, sketch.mask)
    dense = sketch.op("dense", DENSE, first)
    assert settled(sketch.returns(sketch.op("second", ON_SAMPLES, dense, sketch.mask))) == []


def test_behind_one_on_other_samples_it_waits() -> None:
    sketch = Layers()
    first = sketch.op("first", ON_SAMPLES, sketch.x, sketch.mask)
    other = sketch.decide("n")
    assert settled(sketch.returns(sketch.op("second", ON_SAMPLES, first, other))) == []
