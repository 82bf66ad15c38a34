"""The first convolution of a block that may be skipped, which makes the layer masker's decision itself.

The rows operand is running logits (`_running.py`), one column of which is this masker's; the convolution computes the
samples that are on, as with `samples`. Four results behind its own: the decisions and keep logits (B, 1, 1), float32;
the list of the samples that are on, for the convolutions behind it; and the running logits, where those of the maskers
that come begin anew, at nothing, in the samples that are on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._decide import Masks
from laudc.ops._lists import make_sample_list
from laudc.ops._masker import Masker
from laudc.ops._running import UNITS
from laudc.ops.base import Operands
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.types import TensorType

MASK, LOGITS, LISTED, RUNNING = range(1, 5)
"""Which result is which."""


@dataclass(frozen=True, kw_only=True)
class DecidingConv2dSpec(Conv2dSpec):
    name = "deciding_conv2d"

    rows: bool = True
    samples: bool = True
    key: str = ""
    maskers: int = 1
    """How many logits run."""

    @property
    def in_place(self) -> Mapping[str, int]:
        return {"rows": RUNNING}

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {**super().weights(), "decision_bias": (2,)}

    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """turn: which of the running logits is its own, counted from 0."""
        return {"turn": (1,)}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        running = operands[self.operands.index("rows")]
        made = super().results(operands)
        if running.shape[1:] != (self.maskers,) or len(made) > 1 or self.listed:
            raise ValueError(f"{self} does not decide on {running}")
        batch = running.shape[0]
        mask = TensorType(shape=(batch, 1, 1), dtype="float32")
        return (*made, mask, mask, TensorType(shape=(batch + 1,), dtype="int32"), running)


class DecidingConv2d(Conv2d, Masker):
    spec_type = DecidingConv2dSpec
    spec: DecidingConv2dSpec
    first = MASK
    decision_bias: Tensor
    turn: Tensor

    def logits(self, x: Tensor) -> Tensor:
        keep, drop = self.decision_bias.float()
        own = (x[:, int(self.turn)].double() / UNITS).float()
        bias: Tensor = keep - drop
        return (own + bias).view(-1, 1, 1)

    def forward(self, x: Tensor, running: Tensor, *others: Tensor | Masks) -> tuple[Tensor, ...]:  # type: ignore[override]
        *operands, masks = others if len(others) == len(self.spec.operands) - 1 else (*others, None)
        mask, logits = Masker.forward(self, running, masks)  # type: ignore[arg-type]  # behind the operands
        listed = make_sample_list(mask)
        out = Conv2d.forward(self, x, listed, *operands)  # type: ignore[arg-type]  # without the masks
        comes = torch.arange(self.spec.maskers, device=running.device) > int(self.turn)
        left = torch.where((mask.view(-1, 1) != 0) & comes, torch.zeros_like(running), running)
        return out, mask, logits, listed, left  # type: ignore[return-value]  # a Conv2d has two at most


OP = DecidingConv2d
