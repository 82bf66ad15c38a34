"""The patch masker that looks only where the map has changed: of the other patches it knows the means already.

Three results: the decisions and keep logits (B, GH, GW), float32, as from the patch masker that it stands for, and the
means (B, GH*GW, C), float32, of every patch. Unless it is the `first` to look at a map, it reads two values more: which
patches have been `touched` since the means were taken, non-zero = touched, and those means, which it updates in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from laudc.ops._decide import Masks
from laudc.ops._geometry import patch_means
from laudc.ops._masker import Masker, PatchSpec
from laudc.ops.base import Operands
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class KeptMaskerSpec(PatchSpec):
    name = "kept_masker"

    channels: int
    first: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x",) if self.first else ("x", "touched", "means")

    @property
    def in_place(self) -> Mapping[str, int]:
        return {} if self.first else {"means": 2}

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (2, self.channels), "bias": (2,)}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        mask, logits = super().results(operands)
        batch, down, across = mask.shape
        means = TensorType(shape=(batch, down * across, self.channels), dtype="float32")
        if operands[0].shape[1] != self.channels or operands[1:] != (() if self.first else (mask, means)):
            raise ValueError(f"{self} does not read {', '.join(map(str, operands))}")
        return (mask, logits, means)

    def macs(self, operands: Operands) -> int:
        return 2 * self.channels * self.results(operands)[0].numel


class KeptMasker(Masker):
    spec_type = KeptMaskerSpec
    spec: KeptMaskerSpec
    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Of the means of every patch."""
        both = x @ self.weight.float().T + self.bias.float()
        return both[..., 0] - both[..., 1]

    def forward(self, x: Tensor, *others: Tensor | Masks) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        spec, kept = self.spec, cast("tuple[Tensor, ...]", others[: len(self.spec.operands) - 1])
        masks = cast(Masks, others[len(kept)] if len(others) > len(kept) else None)
        grid = patch_means(x.float(), spec.granularity, spec.stride)
        means = grid.flatten(2).transpose(1, 2)
        if kept:
            touched, before = kept
            means = torch.where(touched.flatten(1)[:, :, None] != 0, means, before)
        mask, logits = super().forward(means.unflatten(1, grid.shape[2:]), masks)
        return mask, logits, means


OP = KeptMasker
