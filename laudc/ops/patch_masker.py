"""The spatial and layer masker: the mean of each patch, a 1x1 convolution to two logits (LAUDNet, section 3.2).

Two results: the decisions (B, GH, GW) and the keep logits (keep minus drop), float32. A granularity of 0 makes it
the layer masker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from laudc.ops._geometry import patch_means
from laudc.ops._masker import Masker, PatchSpec
from laudc.ops.base import Operands
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PatchMaskerSpec(PatchSpec):
    name = "patch_masker"

    channels: int

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (2, self.channels), "bias": (2,)}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].shape[1] != self.channels:
            raise ValueError(f"{self} does not read {operands[0]}")
        return super().results(operands)

    def macs(self, operands: Operands) -> int:
        return 2 * self.channels * self.results(operands)[0].numel


class PatchMasker(Masker):
    spec_type = PatchMaskerSpec
    spec: PatchMaskerSpec
    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        means = patch_means(x, self.spec.granularity, self.spec.stride)
        both = self.weight.float() @ means.float().flatten(2) + self.bias.float()[:, None]
        return (both[:, 0] - both[:, 1]).view(means.shape[0], *means.shape[2:])


OP = PatchMasker
