"""Multiply a map by the decisions over its channel groups: dropped channels become exact zeros."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class MaskChannelsSpec(Spec):
    name = "mask_channels"

    group: int
    """Adjacent channels per decision."""

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "mask")

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        x, mask = operands
        if mask.shape[1] * self.group != x.shape[1]:
            raise ValueError(f"decisions of {list(mask.shape)} do not cover {x.shape[1]} channels")
        return (x,)


class MaskChannels(Op):
    spec_type = MaskChannelsSpec
    spec: MaskChannelsSpec

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask.repeat_interleave(self.spec.group, 1)[:, :, None, None].to(x.dtype)


OP = MaskChannels
