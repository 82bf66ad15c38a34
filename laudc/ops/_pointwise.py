"""The pointwise functions that may end an operation, and what the passes need to know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointwise:
    """A function of one number. `idempotent`: f(f(x)) == f(x), so values in range may be left alone."""

    apply: Callable[[Tensor], Tensor]
    idempotent: bool


POINTWISE: dict[str, Pointwise] = {
    "none": Pointwise(apply=lambda x: x, idempotent=True),
    "relu": Pointwise(apply=torch.relu, idempotent=True),
    "relu6": Pointwise(apply=F.relu6, idempotent=True),
    "silu": Pointwise(apply=F.silu, idempotent=False),
    "gelu": Pointwise(apply=F.gelu, idempotent=False),
    "hardswish": Pointwise(apply=F.hardswish, idempotent=False),
    "sigmoid": Pointwise(apply=torch.sigmoid, idempotent=False),
}


PROLOGUES = ("affine", *(name for name in POINTWISE if name != "none"))
"""What a prologue is called by: the function after its scale and shift, or "affine" where there is none."""


def after_affine(prologue: str) -> str:
    """The function of that prologue."""
    assert prologue in PROLOGUES, prologue
    return "none" if prologue == "affine" else prologue


def pointwise(name: str, x: Tensor) -> Tensor:
    """x through the function called `name`."""
    return POINTWISE[name].apply(x)
