"""The channel masker: two small linear layers over the pooled input (LAUDNet, section 3.2 and appendix C.1).

Reads what `global_pool` made, (B, C, 1, 1). Two results: the decisions (B, D) and the keep logits (keep minus
drop), float32, D = width / G. The second layer's outputs lie as D keep logits, then D drop logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from laudc.ops._masker import Masker
from laudc.ops.base import Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ChannelMaskerSpec(Spec):
    name = "channel_masker"

    key: str
    channels: int
    decisions: int
    hidden: int

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {
            "weight1": (self.hidden, self.channels),
            "bias1": (self.hidden,),
            "weight2": (2 * self.decisions, self.hidden),
            "bias2": (2 * self.decisions,),
        }

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].shape[1] != self.channels:
            raise ValueError(f"{self} does not read {operands[0]}")
        mask = TensorType(shape=(operands[0].shape[0], self.decisions), dtype="float32")
        return (mask, mask)

    def macs(self, operands: Operands) -> int:
        return operands[0].shape[0] * self.hidden * (self.channels + 2 * self.decisions)


class ChannelMasker(Masker):
    spec_type: ClassVar[type[Spec]] = ChannelMaskerSpec
    spec: ChannelMaskerSpec
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor

    def logits(self, x: Tensor) -> Tensor:
        hidden = torch.relu(x.flatten(1).float() @ self.weight1.float().T + self.bias1.float())
        both = hidden @ self.weight2.float().T + self.bias2.float()
        keep, drop = both.chunk(2, dim=1)
        return keep - drop


OP = ChannelMasker
