"""The mean over a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops._windows import import_window, window_size
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class AvgPoolSpec(Spec):
    name = "avg_pool"

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    """Always 1; a field so that every window is described alike."""
    ceil_mode: bool = False
    count_include_pad: bool = True

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (window_size(self, operands[0]),)


class AvgPool(Op):
    spec_type = AvgPoolSpec
    spec: AvgPoolSpec

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        return F.avg_pool2d(x, spec.kernel, spec.stride, spec.padding, spec.ceil_mode, spec.count_include_pad)


def _import_avg_pool(call: Call) -> Op | None:
    found = import_window(call)
    if found is None or found.pop("divisor_override", None) is not None:
        return None
    return AvgPool(AvgPoolSpec(**found))  # type: ignore[arg-type]  # read from torch's own module


OP = AvgPool
FROM_TORCH: Imports = {nn.AvgPool2d: _import_avg_pool, F.avg_pool2d: _import_avg_pool}
