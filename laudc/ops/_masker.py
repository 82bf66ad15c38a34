"""What the maskers have in common: two results, a temperature, and decisions that can be set."""

from __future__ import annotations

from torch import Tensor

from laudc.ops._decide import Masks, decide
from laudc.ops.base import Op, Spec


class Masker(Op):
    """x -> (decisions, keep logits), both float32. Decisions given under its key replace its own."""

    temperature: float

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.temperature = 1.0

    @property
    def key(self) -> str:
        """The name its decisions go by."""
        return str(getattr(self.spec, "key"))  # noqa: B009  every masker's spec has one

    def logits(self, x: Tensor) -> Tensor:
        """Keep logit minus drop logit of every unit."""
        raise NotImplementedError

    def forward(self, x: Tensor, masks: Masks = None) -> tuple[Tensor, Tensor]:
        logits = self.logits(x)
        if masks is not None and self.key in masks:
            mask = masks[self.key].to(device=logits.device, dtype=logits.dtype)
            return mask, logits
        return decide(logits, training=self.training, temperature=self.temperature), logits
