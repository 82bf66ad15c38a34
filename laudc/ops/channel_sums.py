"""A map -> its channel sums, int64 (B, C): see `_sums.py`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._sums import channel_sums
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ChannelSumsSpec(Spec):
    name = "channel_sums"

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (TensorType(shape=operands[0].shape[:2], dtype="int64"),)


class ChannelSums(Op):
    spec_type = ChannelSumsSpec
    spec: ChannelSumsSpec

    def forward(self, x: Tensor) -> Tensor:
        return channel_sums(x)


OP = ChannelSums
