"""Decisions from keep logits that a convolution computed pixel by pixel (its `masker` column).

A mean commutes with a linear map, so the mean of the pixels' logits is the logit of the mean. Two results, as
from the masker it stands for: decisions and keep logits (B, GH, GW), float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._geometry import patch_means
from laudc.ops._masker import Masker, PatchSpec


@dataclass(frozen=True, kw_only=True)
class PatchDecisionSpec(PatchSpec):
    name = "patch_decision"


class PatchDecision(Masker):
    spec_type = PatchDecisionSpec
    spec: PatchDecisionSpec

    def logits(self, x: Tensor) -> Tensor:
        return patch_means(x.float(), self.spec.granularity, self.spec.stride)[:, 0]


OP = PatchDecision
