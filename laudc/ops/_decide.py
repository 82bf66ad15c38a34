"""From keep logits to decisions (LAUDNet, section 3.2; Gumbel-softmax of two logits written as one difference)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

Masks = Mapping[str, Tensor] | None
"""Decisions given from outside, by the masker's name."""


def decide(logits: Tensor, *, training: bool, temperature: float) -> Tensor:
    """1 = keep, 0 = skip, float32, of the shape of `logits` (keep minus drop).

    In training a straight-through Gumbel sample: the forward pass is hard, the gradient that of
    sigmoid((logit + noise) / temperature). In evaluation keep where the logit is >= 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if not training:
            return (logits >= 0).float()
        uniform = torch.rand_like(logits).clamp_(1e-6, 1 - 1e-6)
        noise = uniform.log() - torch.log1p(-uniform)  # the difference of two Gumbel variables is logistic
        soft = torch.sigmoid((logits + noise) / temperature)
        return cast(Tensor, _StraightThrough.apply(soft))  # type: ignore[no-untyped-call]  # so torch has it


class _StraightThrough(torch.autograd.Function):
    """Exactly 0 or 1 forward, the identity backward (`hard + soft - soft` is neither 0 nor 1 in floating point)."""

    @staticmethod
    def forward(ctx: object, soft: Tensor) -> Tensor:
        return (soft >= 0.5).to(soft.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]
