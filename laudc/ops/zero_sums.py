"""Channel sums of nothing, int64 (B, channels), for as many samples as x has: where a convolution begins to add."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ZeroSumsSpec(Spec):
    name = "zero_sums"

    channels: int

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (TensorType(shape=(operands[0].shape[0], self.channels), dtype="int64"),)


class ZeroSums(Op):
    spec_type = ZeroSumsSpec
    spec: ZeroSumsSpec

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], self.spec.channels, dtype=torch.int64)


OP = ZeroSums
