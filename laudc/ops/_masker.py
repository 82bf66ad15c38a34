"""What the maskers have in common: two results, a temperature, and decisions that can be set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from laudc.ops._decide import Masks, decide
from laudc.ops._geometry import patch_size
from laudc.ops.base import Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class PatchSpec(Spec):
    """One decision a patch. `granularity` counts output pixels of the block, 0 is the whole map; `stride` is the
    block's."""

    key: str
    granularity: int
    stride: int = 1

    def patch(self, height: int, width: int) -> tuple[int, int]:
        """The input pixels one decision looks at."""
        side = self.granularity * self.stride
        return patch_size(side, height), patch_size(side, width)

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, _, height, width = operands[0].shape
        patch = self.patch(height, width)
        mask = TensorType(shape=(batch, -(-height // patch[0]), -(-width // patch[1])), dtype="float32")
        return (mask, mask)


class Masker(Op):
    """x -> (decisions, keep logits), both float32. Decisions given under its key replace its own."""

    first: ClassVar[int] = 0
    """Of its results, where the decisions are; the keep logits come next."""

    temperature: float

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.temperature = 1.0

    @property
    def key(self) -> str:
        """The name its decisions go by."""
        return str(getattr(self.spec, "key"))  # noqa: B009  every masker's spec has one

    @property
    def unnamed(self) -> Spec:
        """What a kernel does for it, whatever its decisions are called."""
        return replace(self.spec, key="")  # type: ignore[call-arg]  # every masker's spec has one

    def logits(self, x: Tensor) -> Tensor:
        """Keep logit minus drop logit of every unit."""
        raise NotImplementedError

    def forward(self, x: Tensor, masks: Masks = None) -> tuple[Tensor, Tensor]:
        logits = self.logits(x)
        if masks is not None and self.key in masks:
            mask = masks[self.key].to(device=logits.device, dtype=logits.dtype)
            return mask, logits
        return decide(logits, training=self.training, temperature=self.temperature), logits
