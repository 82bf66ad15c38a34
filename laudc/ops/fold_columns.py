"""An image of few channels made wide: padded with zeros, and neighbouring columns side by side as channels.

    (B, C, H, W)  ->  (B, F*S, top + H + bottom, (left + W + right) / F)      S >= C channels a column, F columns

A pixel of the result is long enough to be copied at once, and a window that begins at a multiple of F in the padded
image begins at one of its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class FoldColumnsSpec(Spec):
    name = "fold_columns"

    padding: tuple[int, int, int, int]
    """top, bottom, left, right; below zero it cuts off what no window reads"""
    columns: int
    """F, how many become one."""
    channels: int
    """S, of each of them, zeros included."""

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels, height, width = operands[0].shape
        top, bottom, left, right = self.padding
        padded = left + width + right
        if channels > self.channels or padded % self.columns:
            raise ValueError(f"{self} does not read {operands[0]}")
        shape = (batch, self.columns * self.channels, top + height + bottom, padded // self.columns)
        return (TensorType(shape=shape, dtype=operands[0].dtype),)


class FoldColumns(Op):
    spec_type = FoldColumnsSpec
    spec: FoldColumnsSpec

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = self.spec.padding
        padded = F.pad(x, (left, right, top, bottom, 0, self.spec.channels - x.shape[1]))
        batch, channels, height, width = padded.shape
        columns = padded.view(batch, channels, height, width // self.spec.columns, self.spec.columns)
        return columns.permute(0, 4, 1, 2, 3).reshape(batch, -1, height, width // self.spec.columns)


OP = FoldColumns
