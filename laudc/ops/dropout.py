"""Dropout: alive in training, nothing in evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class DropoutSpec(Spec):
    name = "dropout"

    p: float

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return operands


class Dropout(Op):
    spec_type = DropoutSpec
    spec: DropoutSpec

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.spec.p, self.training)


def _import_dropout(call: Call) -> Op | None:
    return Dropout(DropoutSpec(p=cast(nn.Dropout, call.module).p))


def _import_call(call: Call) -> Op | None:
    """`F.dropout(x, p, self.training)`: traced in evaluation, so `training` reads False; the op has its own mode."""
    follows_mode = call.arguments.get("training", True) is False
    return Dropout(DropoutSpec(p=float(cast(float, call.arguments.get("p", 0.5))))) if follows_mode else None


OP = Dropout
FROM_TORCH: Imports = {nn.Dropout: _import_dropout, F.dropout: _import_call}
