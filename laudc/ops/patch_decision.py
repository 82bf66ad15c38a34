"""Decisions from keep logits that a convolution computed pixel by pixel (its `masker` column).

A mean commutes with a linear map, so the mean of the pixels' logits is the logit of the mean. Two results, as
from the masker it stands for: decisions and keep logits (B, GH, GW), float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._geometry import patch_means, patch_size
from laudc.ops._masker import Masker
from laudc.ops.base import Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PatchDecisionSpec(Spec):
    name = "patch_decision"

    key: str
    granularity: int
    stride: int = 1

    def patch(self, height: int, width: int) -> tuple[int, int]:
        """The input pixels one decision looks at."""
        side = self.granularity * self.stride
        return patch_size(side, height), patch_size(side, width)

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, _, height, width = operands[0].shape
        patch = self.patch(height, width)
        mask = TensorType(shape=(batch, -(-height // patch[0]), -(-width // patch[1])), dtype="float32")
        return (mask, mask)


class PatchDecision(Masker):
    spec_type = PatchDecisionSpec
    spec: PatchDecisionSpec

    def logits(self, x: Tensor) -> Tensor:
        return patch_means(x.float(), self.spec.granularity, self.spec.stride)[:, 0]


OP = PatchDecision
