"""A float32 network that may multiply in tf32: who is told, and what comes of it on a device."""

from __future__ import annotations

import pytest
import torch

import laudc
from laudc.compiled import lower, passes_for
from laudc.errors import InputError
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.fold_columns import FoldColumns
from laudc.passes.allow_tf32 import AllowTf32
from laudc.passes.fold_stem import FoldStem
from laudc.program import Program
from laudc.targets import TARGETS
from laudc.testing import Residual, Sketch, conv_norm, random_images, same_output, tiny, tiny_converted

STEM = Conv2dSpec(in_channels=3, out_channels=64, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3), bias=True)


def stem() -> Program:
    sketch = Sketch()
    return sketch.returns(sketch.op("conv", STEM, sketch.input(2, 3, 21, 30)))


def test_convolutions_and_linear_layers_are_told_and_compute_the_same_on_the_reference() -> None:
    before = tiny_converted("spatial")
    after = AllowTf32(dtype="tf32").run(before)
    told = {(op.spec.name, getattr(op.spec, "tf32", None)) for _, op in after.ops()}
    assert {("conv2d", True), ("linear", True)} <= told
    assert not {("conv2d", False), ("linear", False)} & told
    same_output(before, after, random_images(3, 3, 37, 45))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_in_other_types_nobody_is(dtype: str) -> None:
    before = tiny_converted("spatial")
    assert AllowTf32(dtype=dtype).run(before) is before


def test_a_stem_is_folded_to_pixels_of_four_channels() -> None:
    before = stem()
    on_tensor_cores = FoldStem(target=TARGETS["h200"])
    assert on_tensor_cores.run(before) is before
    told = AllowTf32(dtype="tf32").run(before)
    after = on_tensor_cores.run(told)
    (image,) = (op.spec for _, op in after.ops() if isinstance(op, FoldColumns))
    (conv,) = (op.spec for _, op in after.ops() if isinstance(op, Conv2d))
    assert (image.columns, image.channels, conv.in_channels, conv.kernel) == (1, 4, 4, (7, 8))
    same_output(before, after, random_images(2, 3, 21, 30))
    assert FoldStem(target=TARGETS["v100"]).run(told) is told


@pytest.mark.parametrize(
    ("paradigm", "schedules"),
    [("spatial", {"conv-wgmma"}), ("layer", {"conv-wgmma"}), ("channel", {"conv-wgmma", "conv-wgmma-channels"})],
)
def test_a_network_is_multiplied_on_tensor_cores_and_stays_float32(paradigm: str, schedules: set[str]) -> None:
    block = Residual(conv_norm(64, 64), conv_norm(64, 64, 3), conv_norm(64, 64))
    network = torch.nn.Sequential(conv_norm(3, 64, 7, stride=2), torch.nn.ReLU(), block).eval()
    dynamic = laudc.transform(network, random_images(2, 3, 32, 32), paradigm=paradigm, granularity=None)
    lowering = lower(
        dynamic.program, TARGETS["h200"], plan=dynamic.plan, shape=(2, 3, 32, 32), dtype="tf32", without=()
    )
    kernels = [step.kernel for step in lowering.executable.steps]
    assert {kernel.schedule for kernel in kernels if kernel.work.spec.name == "conv2d"} == schedules
    types = {type_.dtype for kernel in kernels for type_ in (*kernel.work.operands, *kernel.work.results)}
    assert types <= {"float32", "int32"}


@pytest.mark.parametrize(("target", "step"), [("v100", "choose from float32, float16"), ("cpu", "choose from float32")])
def test_a_device_without_it_says_so(target: str, step: str) -> None:
    with pytest.raises(InputError) as raised:
        laudc.compile(tiny(), target, dtype="tf32")
    assert (raised.value.fact, raised.value.next_step) == (f"{target} does not compute in 'tf32'", step)


def test_the_passes_of_a_type_are_those_of_all_others() -> None:
    h200 = TARGETS["h200"]
    plain, told = (passes_for(h200, None, (), dtype=dtype) for dtype in ("float32", "tf32"))
    assert [one.name for one in plain] == [one.name for one in told]
