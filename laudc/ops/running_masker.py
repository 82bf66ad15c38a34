"""The layer masker on running logits (`_running.py`): it never sees the map itself.

Three results: the decisions and keep logits (B, 1, 1), float32, as from the patch masker that it stands for; and, in
place of the operand, the running logits of those who come after it: what is on begins anew, at nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from laudc.ops._decide import Masks
from laudc.ops._masker import Masker
from laudc.ops._running import UNITS
from laudc.ops.base import Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class RunningMaskerSpec(Spec):
    name = "running_masker"

    key: str
    maskers: int
    """How many logits run, this one's first."""

    @property
    def in_place(self) -> Mapping[str, int]:
        return {"x": 2}

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"bias": (2,)}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, maskers = operands[0].shape
        if maskers != self.maskers:
            raise ValueError(f"{self} does not read {operands[0]}")
        mask = TensorType(shape=(batch, 1, 1), dtype="float32")
        return (mask, mask, operands[0])


class RunningMasker(Masker):
    spec_type = RunningMaskerSpec
    spec: RunningMaskerSpec
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        keep, drop = self.bias.float()
        own = (x[:, 0].double() / UNITS).float()
        bias: Tensor = keep - drop
        return (own + bias).view(-1, 1, 1)

    def forward(self, x: Tensor, masks: Masks = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        mask, logits = super().forward(x, masks)
        behind = F.pad(x[:, 1:], (0, 1))
        return mask, logits, torch.where(mask.view(-1, 1) != 0, torch.zeros_like(x), behind)


OP = RunningMasker
