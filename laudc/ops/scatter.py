"""Put the listed rows back into a map: the matrix [capacity, N] -> (B, N, H, W).

`zero`: the other positions are zero; else they stay undefined (nobody may read them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._lists import rows_of
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ScatterSpec(Spec):
    name = "scatter"

    map_size: tuple[int, int]
    zero: bool = True

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "rows")

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        capacity, channels = operands[0].shape
        height, width = self.map_size
        shape = (capacity // (height * width), channels, height, width)
        return (TensorType(shape=shape, dtype=operands[0].dtype),)


class Scatter(Op):
    spec_type = ScatterSpec
    spec: ScatterSpec

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        height, width = self.spec.map_size
        batch = x.shape[0] // (height * width)
        kept = rows_of(rows, batch)
        fill = 0.0 if self.spec.zero else torch.nan
        made = x.new_full((batch * height * width, x.shape[1]), fill)
        made[kept] = x[: len(kept)]
        return made.view(batch, height, width, -1).permute(0, 3, 1, 2)


OP = Scatter
