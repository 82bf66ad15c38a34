"""The mean over the whole map: (B, C, H, W) -> (B, C, 1, 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class GlobalPoolSpec(Spec):
    name = "global_pool"

    keep_map: bool = True
    """False: the result is (B, C)."""

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels = operands[0].shape[:2]
        shape = (batch, channels, 1, 1) if self.keep_map else (batch, channels)
        return (TensorType(shape=shape, dtype=operands[0].dtype),)


class GlobalPool(Op):
    spec_type = GlobalPoolSpec
    spec: GlobalPoolSpec

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.spec.keep_map)


def _import_adaptive(call: Call) -> Op | None:
    size = cast(nn.AdaptiveAvgPool2d, call.module).output_size if call.module else call.arguments.get("output_size")
    return GlobalPool(GlobalPoolSpec()) if size in (1, (1, 1), [1, 1]) else None


def _import_mean(call: Call) -> Op | None:
    axes, rank = call.arguments.get("dim"), len(call.types[0].shape)
    if rank != 4 or not isinstance(axes, list | tuple) or sorted(axis % rank for axis in axes) != [2, 3]:
        return None
    return GlobalPool(GlobalPoolSpec(keep_map=bool(call.arguments.get("keepdim", False))))


OP = GlobalPool
FROM_TORCH: Imports = {
    nn.AdaptiveAvgPool2d: _import_adaptive,
    F.adaptive_avg_pool2d: _import_adaptive,
    torch.mean: _import_mean,
}
