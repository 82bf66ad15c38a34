"""The sum of two values of one shape, then a pointwise function."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._pointwise import pointwise
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class AddSpec(Spec):
    name = "add"

    activation: str = "none"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "other")

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        x, other = operands
        if x.shape != other.shape:
            raise ValueError(f"{x} and {other} cannot be added")
        return (x,)


class Add(Op):
    spec_type = AddSpec
    spec: AddSpec

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return pointwise(self.spec.activation, x + other)


def _import_add(call: Call) -> Op | None:
    same_shape = len(call.types) == 2 and call.types[0].shape == call.types[1].shape
    return Add(AddSpec()) if same_shape and call.arguments.get("alpha", 1) == 1 else None


OP = Add
FROM_TORCH: Imports = {torch.add: _import_add, operator.add: _import_add, operator.iadd: _import_add}
