"""A convolution of an image becomes one of long pixels, where tensor cores can take that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from laudc.ops.conv2d import Conv2dSpec
from laudc.passes.fold_stem import FoldStem
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import Sketch, change_text, random_images, same_output

ON_TENSOR_CORES = FoldStem(target=TARGETS["h200"])
SEVEN = Conv2dSpec(in_channels=3, out_channels=8, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3), bias=True)


def stem(spec: Conv2dSpec, *, size: tuple[int, int] = (21, 30), dtype: str = "float16") -> Program:
    sketch = Sketch()
    x = sketch.input(2, spec.in_channels, *size)
    program = sketch.returns(sketch.op("conv", spec, x))
    return program_for(program, (2, spec.in_channels, *size), dtype=dtype)


def test_columns_become_channels(golden: Callable[[str], None]) -> None:
    before = stem(SEVEN)
    golden(change_text(before, ON_TENSOR_CORES.run(before)))


@pytest.mark.parametrize("size", [(21, 30), (22, 31), (7, 7), (8, 9)])
@pytest.mark.parametrize(
    "spec",
    [
        SEVEN,
        Conv2dSpec(in_channels=3, out_channels=5, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
        Conv2dSpec(in_channels=3, out_channels=5, kernel=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1)),
        Conv2dSpec(in_channels=1, out_channels=5, kernel=(5, 5), bias=True, activation="relu"),
        Conv2dSpec(in_channels=3, out_channels=5, kernel=(3, 3), padding=(1, 1, 1, 1)),
        Conv2dSpec(in_channels=4, out_channels=5, kernel=(4, 4), stride=(4, 4)),
        Conv2dSpec(in_channels=6, out_channels=5, kernel=(2, 8), stride=(1, 2)),
        Conv2dSpec(in_channels=3, out_channels=5, kernel=(7, 5), stride=(3, 3), padding=(3, 3, 2, 2)),
    ],
    ids=str,
)
def test_the_folded_convolution_computes_the_same(spec: Conv2dSpec, size: tuple[int, int]) -> None:
    if min(height - k for height, k in zip(size, spec.kernel, strict=True)) < 0 and not any(spec.padding):
        pytest.skip("the window does not fit")
    before = stem(spec, size=size)
    after = ON_TENSOR_CORES.run(before)
    assert after is not before
    same_output(before, after, random_images(2, spec.in_channels, *size))


@pytest.mark.parametrize(
    ("spec", "dtype", "target"),
    [
        (SEVEN, "float32", "h200"),
        (SEVEN, "float16", "jetson-tx2"),
        (SEVEN, "float16", "cpu"),
        (Conv2dSpec(in_channels=9, out_channels=8, kernel=(3, 3)), "float16", "h200"),
        (Conv2dSpec(in_channels=4, out_channels=8, kernel=(3, 3), groups=4), "float16", "h200"),
        (Conv2dSpec(in_channels=3, out_channels=8, kernel=(3, 3), dilation=(2, 2)), "float16", "h200"),
        (Conv2dSpec(in_channels=3, out_channels=8, kernel=(17, 17), stride=(2, 2)), "float16", "h200"),
    ],
    ids=["float32", "no tensor cores", "cpu", "many channels", "groups", "dilated", "wide"],
)
def test_others_are_left_alone(spec: Conv2dSpec, dtype: str, target: str) -> None:
    program = stem(spec, dtype=dtype)
    assert FoldStem(target=TARGETS[target]).run(program) is program
