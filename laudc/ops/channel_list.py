"""Decisions over channel groups -> the channel list: float32 (B, D) -> int32[B, 1 + D] (format: `_lists.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._lists import make_channel_list
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ChannelListSpec(Spec):
    name = "channel_list"

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, decisions = operands[0].shape
        return (TensorType(shape=(batch, 1 + decisions), dtype="int32"),)


class ChannelList(Op):
    spec_type = ChannelListSpec
    spec: ChannelListSpec

    def forward(self, x: Tensor) -> Tensor:
        return make_channel_list(x)


OP = ChannelList
