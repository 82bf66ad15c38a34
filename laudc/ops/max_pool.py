"""The maximum over a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops._windows import Window, import_window, window_size
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class MaxPoolSpec(Spec):
    name = "max_pool"

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (window_size(self, operands[0]),)


class MaxPool(Op):
    spec_type = MaxPoolSpec
    spec: MaxPoolSpec

    def forward(self, x: Tensor) -> Tensor:
        spec: Window = self.spec
        return F.max_pool2d(x, spec.kernel, spec.stride, spec.padding, spec.dilation, spec.ceil_mode)


def _import_max_pool(call: Call) -> Op | None:
    found = import_window(call)
    if found is None or found.pop("return_indices", False):
        return None
    return MaxPool(MaxPoolSpec(**found))  # type: ignore[arg-type]  # read from torch's own module


OP = MaxPool
FROM_TORCH: Imports = {nn.MaxPool2d: _import_max_pool, F.max_pool2d: _import_max_pool}
