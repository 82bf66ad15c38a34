"""All of a sample in one row: (B, C, H, W) -> (B, C*H*W), in torch's order (C slowest)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class FlattenSpec(Spec):
    name = "flatten"

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, *rest = operands[0].shape
        return (TensorType(shape=(batch, math.prod(rest)), dtype=operands[0].dtype),)


class Flatten(Op):
    spec_type = FlattenSpec
    spec: FlattenSpec

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def _import_flatten(call: Call) -> Op | None:
    source = vars(call.module) if call.module is not None else call.arguments
    start, end = source.get("start_dim", 0), source.get("end_dim", -1)
    rank = len(call.types[0].shape)
    return Flatten(FlattenSpec()) if start == 1 and end in (-1, rank - 1) else None


def _import_reshape(call: Call) -> Op | None:
    keeps_batch = call.result is not None and call.result.shape[:1] == call.types[0].shape[:1]
    return Flatten(FlattenSpec()) if keeps_batch and call.result is not None and len(call.result.shape) == 2 else None


OP = Flatten
FROM_TORCH: Imports = {
    nn.Flatten: _import_flatten,
    torch.flatten: _import_flatten,
    torch.reshape: _import_reshape,
    torch.Tensor.view: _import_reshape,
    torch.Tensor.reshape: _import_reshape,
}
