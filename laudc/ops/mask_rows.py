"""Multiply a map by the decisions over its patches: dense and masked, as in training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops._geometry import expand_patches
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class MaskRowsSpec(Spec):
    name = "mask_rows"

    granularity: int
    """Patch side; 0 is the whole map."""

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "mask")

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return (operands[0],)


class MaskRows(Op):
    spec_type = MaskRowsSpec
    spec: MaskRowsSpec

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * expand_patches(mask, self.spec.granularity, x.shape[2], x.shape[3])[:, None].to(x.dtype)


OP = MaskRows
