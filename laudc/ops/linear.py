"""A linear layer: (B, K) -> (B, N). tf32: as with `conv2d`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops._pointwise import pointwise
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class LinearSpec(Spec):
    name = "linear"

    in_features: int
    out_features: int
    bias: bool = False
    activation: str = "none"
    tf32: bool = False

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        weight = (self.out_features, self.in_features)
        return {"weight": weight, "bias": (self.out_features,)} if self.bias else {"weight": weight}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].shape[-1] != self.in_features:
            raise ValueError(f"{self} does not read {operands[0]}")
        shape = (*operands[0].shape[:-1], self.out_features)
        return (TensorType(shape=shape, dtype=operands[0].dtype),)

    def macs(self, operands: Operands) -> int:
        return operands[0].numel * self.out_features


class Linear(Op):
    spec_type = LinearSpec
    spec: LinearSpec
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight, self.bias if self.spec.bias else None)
        return pointwise(self.spec.activation, out)


def _import_linear(call: Call) -> Op | None:
    module = cast(nn.Linear, call.module)
    has_bias = module.bias is not None
    op = Linear(LinearSpec(in_features=module.in_features, out_features=module.out_features, bias=has_bias))
    op.weight = module.weight
    if has_bias:
        op.bias = module.bias
    return op


OP = Linear
FROM_TORCH: Imports = {nn.Linear: _import_linear}
