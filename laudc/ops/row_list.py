"""Pixels that are on -> the row list: uint8 (B, H, W) -> int32[B + 1 + B*H*W] (the format is in `_lists.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._lists import make_row_list
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class RowListSpec(Spec):
    name = "row_list"

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        return (TensorType(shape=(x.shape[0] + 1 + x.numel,), dtype="int32"),)


class RowList(Op):
    spec_type = RowListSpec
    spec: RowListSpec

    def forward(self, x: Tensor) -> Tensor:
        return make_row_list(x)


OP = RowList
