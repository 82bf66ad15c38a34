"""What the convolution schedules share about a prologue: where none can be, and how its numbers are packed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from laudc.ops._pointwise import PROLOGUES
from laudc.ops.conv2d import Conv2dSpec


def refuse_prologue(spec: Conv2dSpec) -> str | None:
    """Why what this convolution reads cannot go through its prologue, or None."""
    if spec.prologue is None:
        return None
    if spec.prologue not in PROLOGUES:
        return f"no kernel knows the prologue {spec.prologue!r}"
    if spec.gathered:
        return "a prologue would make other numbers of the zeros that gather put outside the image"
    if spec.channels_in:
        return "a prologue would make other numbers of the zeros that dropped channels are"
    if spec.masker:
        return "a masker reads x as it is, not through a prologue"
    return None


def pack_prologue(weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The scales and the shifts, float32 (2, channels); nothing where there is no prologue."""
    return (torch.stack([weights["scale"], weights["shift"]]).detach().float(),) if "scale" in weights else ()
