"""A pointwise function of a value: ReLU and its relatives. "none" is a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops._pointwise import pointwise
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ActivationSpec(Spec):
    name = "activation"

    function: str

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return operands


class Activation(Op):
    spec_type = ActivationSpec
    spec: ActivationSpec

    def forward(self, x: Tensor) -> Tensor:
        return x.clone() if self.spec.function == "none" else pointwise(self.spec.function, x)


def _importer(function: str) -> Callable[[Call], Op | None]:
    return lambda call: Activation(ActivationSpec(function=function))


def _import_gelu(call: Call) -> Op | None:
    approximate = cast(nn.GELU, call.module).approximate if call.module else call.arguments.get("approximate", "none")
    return Activation(ActivationSpec(function="gelu")) if approximate == "none" else None


OP = Activation
FROM_TORCH: Imports = {
    nn.ReLU: _importer("relu"),
    F.relu: _importer("relu"),
    torch.relu: _importer("relu"),
    nn.ReLU6: _importer("relu6"),
    F.relu6: _importer("relu6"),
    nn.SiLU: _importer("silu"),
    F.silu: _importer("silu"),
    nn.GELU: _import_gelu,
    F.gelu: _import_gelu,
    nn.Hardswish: _importer("hardswish"),
    F.hardswish: _importer("hardswish"),
    nn.Sigmoid: _importer("sigmoid"),
    torch.sigmoid: _importer("sigmoid"),
}
