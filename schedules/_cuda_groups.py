"""Groups on tensor cores: a tile of columns reads the channels of its own group.

groups of 64 channels, or a multiple    a tile lies within one
thinner ones                            as many as fill 64 channels are one, whose weights are zero between channels
                                        and columns of different ones

So of what thin groups multiply only a part counts: channels / 64. Where tensor cores are not faster by more than that
than other arithmetic, they are left to it; and so are groups of less than 16 channels, which gain nothing at small
batches, as predicted, and little at large ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from laudc.schedules._cuda_problem import Problem

if TYPE_CHECKING:
    from laudc.targets import Target

FULL = 64
"""Channels that a group has on tensor cores at least."""

THINNEST = 16
"""Channels of a group that is worth its zeros."""


def filled(p: Problem) -> Problem:
    """The problem with its thin groups put together, if they are as many as fill whole ones."""
    thin = p.groups > 1 and FULL % p.group_channels == 0 and p.group_columns == p.group_channels
    return replace(p, groups=p.channels // FULL) if thin and p.channels % FULL == 0 else p


def refuse_groups(p: Problem, target: Target) -> str | None:
    """Why these groups are none for tensor-core tiles, or do not gain by them."""
    if p.groups == 1:
        return None
    full = filled(p)
    if full.group_channels % FULL or full.group_columns % FULL:
        return (
            f"tensor-core tiles take groups that fill {FULL} channels and columns, "
            f"not {p.group_channels} to {p.group_columns} of {p.channels}"
        )
    if p.prologue is not None or p.shortcut:
        return "tensor-core tiles of groups take no prologue and no shortcut"
    if p.group_channels < THINNEST:
        return f"groups of {p.group_channels} channels are mostly zeros on tensor cores, which take {THINNEST} and more"
    more = full.group_channels // p.group_channels
    if more > 1 and _tensor_rate(p, target) <= more * 2 * target.fp32_lanes_per_sm:
        return f"groups of {p.group_channels} channels are {more} times the work on tensor cores, which are no faster"
    return None


def block_diagonal(matrix: Tensor, p: Problem, full: Problem) -> Tensor:
    """The weights [columns, depth] of thin groups as those of full ones: zero where a column's group has no part."""
    if p.groups == full.groups:
        return matrix
    together = p.groups // full.groups
    own = matrix.view(full.groups, together, p.group_columns, p.taps, p.group_channels)
    wide = own.new_zeros(full.groups, together, p.group_columns, p.taps, together, p.group_channels)
    for which in range(together):
        wide[:, which, :, :, which] = own[:, which]
    return wide.view(p.columns, full.depth)


def _tensor_rate(p: Problem, target: Target) -> int:
    """Flops a clock of one multiprocessor."""
    return {
        "float16": target.tensor_fp16_flops_per_clock_per_sm,
        "bfloat16": target.tensor_bf16_flops_per_clock_per_sm,
        "float32": target.tensor_tf32_flops_per_clock_per_sm,
    }[p.dtype]
