"""What a convolution reads at the listed output rows, laid side by side: the matrix [capacity, kh*kw*C].

Row i belongs to row i of the list; a row holds the taps in order, each with its C channels; taps outside the
image are zero. Rows past the count are undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from laudc.ops._lists import rows_of
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class GatherSpec(Spec):
    name = "gather"

    map_size: tuple[int, int]
    """Height and width of the convolution's output."""
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "rows")

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels = operands[0].shape[:2]
        height, width = self.map_size
        columns = self.kernel[0] * self.kernel[1] * channels
        return (TensorType(shape=(batch * height * width, columns), dtype=operands[0].dtype),)


class Gather(Op):
    spec_type = GatherSpec
    spec: GatherSpec

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        spec = self.spec
        top, bottom, left, right = spec.padding
        batch, channels = x.shape[:2]
        padded = F.pad(x, (left, right, top, bottom))
        columns = F.unfold(padded.float(), spec.kernel, spec.dilation, 0, spec.stride).to(x.dtype)
        taps = columns.view(batch, channels, spec.kernel[0] * spec.kernel[1], -1)
        matrix = taps.permute(0, 3, 2, 1).reshape(batch * taps.shape[3], -1)
        kept = rows_of(rows, batch)
        made = torch.full_like(matrix, torch.nan)
        made[: len(kept)] = matrix[kept]
        return made


OP = Gather
