"""The layer masker on the channel sums of a map, where something has left them: it never sees the map itself.

Three results: the decisions and keep logits (B, 1, 1), float32, as from the patch masker that it stands for; and, in
place of the operand, the sums that stay: those of the samples that are skipped. What is on begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._decide import Masks
from laudc.ops._masker import Masker
from laudc.ops._sums import UNITS
from laudc.ops.base import Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class SumsMaskerSpec(Spec):
    name = "sums_masker"

    key: str
    channels: int
    positions: int
    """Of the map."""

    @property
    def in_place(self) -> Mapping[str, int]:
        return {"x": 2}

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (2, self.channels), "bias": (2,)}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels = operands[0].shape
        if channels != self.channels:
            raise ValueError(f"{self} does not read {operands[0]}")
        mask = TensorType(shape=(batch, 1, 1), dtype="float32")
        return (mask, mask, operands[0])

    def macs(self, operands: Operands) -> int:
        return 2 * operands[0].numel


class SumsMasker(Masker):
    spec_type = SumsMaskerSpec
    spec: SumsMaskerSpec
    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        means = (x.double() / (UNITS * self.spec.positions)).float()
        keep, drop = (means @ self.weight.float().T + self.bias.float()).unbind(1)
        return (keep - drop).view(-1, 1, 1)

    def forward(self, x: Tensor, masks: Masks = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        mask, logits = super().forward(x, masks)
        return mask, logits, torch.where(mask.view(-1, 1) != 0, torch.zeros_like(x), x)


OP = SumsMasker
