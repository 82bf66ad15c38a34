"""Every operation gets the kernel that will do it, or the error says which one cannot."""

from __future__ import annotations

import pytest
import torch

from laudc.errors import BuildError
from laudc.ops.activation import ActivationSpec
from laudc.ops.flatten import FlattenSpec
from laudc.ops.global_pool import GlobalPoolSpec
from laudc.passes.bind_kernels import BindKernels
from laudc.pipeline import lowering, run
from laudc.program import Program
from laudc.targets import TARGETS
from laudc.testing import Sketch, random_images, random_masks_like, same_output, tiny_converted

RELU = ActivationSpec(function="relu")


def bound(program: Program) -> list[str]:
    return [node.name for node in program.nodes if "kernel" in node.meta]


@pytest.mark.parametrize("target", ["cpu", "jetson-tx2"])
@pytest.mark.parametrize("paradigm", ["spatial", "channel"])
def test_every_operation_of_a_lowered_network_gets_a_kernel(paradigm: str, target: str) -> None:
    program = tiny_converted(paradigm)
    lowered, _ = run(program, lowering())
    after = BindKernels(target=TARGETS[target]).run(lowered)
    assert set(bound(after)) == {node.name for node, _ in lowered.ops()} - {"head_1"}  # a view of one pixel
    assert {node.meta["kernel"].target.name for node, _ in after.ops() if node.name != "head_1"} == {target}
    same_output(lowered, after, random_images(3, 3, 37, 45), random_masks_like(program, rate=0.3, batch=3), tolerance=0)


def test_the_program_that_was_given_stays_unbound() -> None:
    sketch = Sketch()
    program = sketch.returns(sketch.op("act", RELU, sketch.input(1, 4, 5, 6)))
    assert bound(BindKernels().run(program)) == ["act"]
    assert bound(program) == []


def test_a_flatten_of_a_map_needs_a_kernel_and_one_of_a_pixel_does_not() -> None:
    sketch = Sketch()
    x = sketch.input(2, 4, 5, 6)
    program = sketch.returns(sketch.op("flat", FlattenSpec(), x))
    assert bound(BindKernels().run(program)) == ["flat"]
    sketch = Sketch()
    pooled = sketch.op("pool", GlobalPoolSpec(), sketch.input(2, 4, 5, 6))
    program = sketch.returns(sketch.op("flat", FlattenSpec(), pooled))
    assert bound(BindKernels().run(program)) == ["pool"]


def test_what_laudc_has_no_operation_for_is_a_build_error_that_names_it() -> None:
    sketch = Sketch()
    x = sketch.op("act", RELU, sketch.input(2, 4, 5, 6))
    program = sketch.returns(sketch.torch_call(torch.cos, x, shape=(2, 4, 5, 6)))
    with pytest.raises(BuildError, match="%cos is cos, which laudc has no operation for; replace it in the model"):
        BindKernels().run(program)
