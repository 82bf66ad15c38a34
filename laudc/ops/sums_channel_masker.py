"""The channel masker on the channel sums of a map, where something has left them: no map is pooled, no list made apart.

Four results: the decisions and keep logits (B, D), float32, as from the channel masker that it stands for; their
channel list, int32 (B, 1 + D) (format: `_lists.py`); and, in place of the operand, sums of nothing, for the next map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._decide import Masks
from laudc.ops._lists import make_channel_list
from laudc.ops._sums import UNITS
from laudc.ops.base import Operands
from laudc.ops.channel_masker import ChannelMasker, ChannelMaskerSpec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class SumsChannelMaskerSpec(ChannelMaskerSpec):
    name = "sums_channel_masker"

    positions: int
    """Of the map."""

    @property
    def in_place(self) -> Mapping[str, int]:
        return {"x": 3}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        listed = TensorType(shape=(operands[0].shape[0], 1 + self.decisions), dtype="int32")
        return (*super().results(operands), listed, operands[0])


class SumsChannelMasker(ChannelMasker):
    spec_type = SumsChannelMaskerSpec
    spec: SumsChannelMaskerSpec

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x.double() / (UNITS * self.spec.positions))

    def forward(self, x: Tensor, masks: Masks = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        mask, logits = super().forward(x, masks)
        return mask, logits, make_channel_list(mask), torch.zeros_like(x)


OP = SumsChannelMasker
