"""The spatial and layer masker: the mean of each patch, a 1x1 convolution to two logits (LAUDNet, section 3.2).

Two results: the decisions (B, GH, GW) and the keep logits (keep minus drop), float32. `granularity` counts output
pixels of the block; 0 is the whole map, which makes it the layer masker. `stride` is the block's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from laudc.ops._geometry import patch_means, patch_size
from laudc.ops._masker import Masker
from laudc.ops.base import Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PatchMaskerSpec(Spec):
    name = "patch_masker"

    key: str
    channels: int
    granularity: int
    stride: int = 1

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (2, self.channels), "bias": (2,)}

    def patch(self, height: int, width: int) -> tuple[int, int]:
        """The input pixels one decision looks at."""
        side = self.granularity * self.stride
        return patch_size(side, height), patch_size(side, width)

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].shape[1] != self.channels:
            raise ValueError(f"{self} does not read {operands[0]}")
        batch, _, height, width = operands[0].shape
        patch = self.patch(height, width)
        mask = TensorType(shape=(batch, -(-height // patch[0]), -(-width // patch[1])), dtype="float32")
        return (mask, mask)

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
