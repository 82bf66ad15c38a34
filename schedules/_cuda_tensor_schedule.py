"""What the two tensor-core schedules share: which work fits them, and how their weights lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from laudc.schedules._cuda_problem import Problem, matrix_of, meaningless, problem_of
from laudc.schedules._cuda_tiles import Candidate, arch_number, ranked
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from laudc.schedules._cuda_tensor_core import Tile
    from laudc.targets import Target

STEP = 64
"""Channels a step of the pipeline takes."""

MAX_TAPS = 32
"""A row's taps are the bits of one word."""


class TensorCoreSchedule(Schedule):
    ops = frozenset({"conv2d", "linear"})
    kind = "cuda"
    candidates: tuple[Candidate, ...]

    def refuse(self, work: Work, target: Target) -> str | None:
        return self.refuse_target(target) or meaningless(work) or _refuse_problem(problem_of(work))

    @abstractmethod
    def refuse_target(self, target: Target) -> str | None:
        """Why this chip has not the instructions, or None."""

    @abstractmethod
    def tile(self, choice: Choice, target: Target) -> Tile:
        """The choice as the kernel's tile on this chip."""

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        p = problem_of(work)
        fitted = (Candidate(choice=_fitted(p, c.choice), speed=c.speed) for c in self.candidates)
        room = target.shared_memory_per_block_kib * 1024
        return ranked(p, (c for c in fitted if self.tile(c.choice, target).shared_bytes <= room), target.sm_count)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_tensor_core import tensor_core_module

        return Lowered(module=tensor_core_module(problem_of(work), self.tile(choice, target)), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One row a column of the result, padded with zeros to whole tiles."""
        matrix = matrix_of(work.spec, weights["weight"])
        missing = -matrix.shape[0] % choice["bn"]
        packed = F.pad(matrix, (0, 0, 0, missing)).half().contiguous()
        return (packed, F.pad(weights["bias"].float(), (0, missing))) if "bias" in weights else (packed,)


def _refuse_problem(p: Problem) -> str | None:
    if p.dtype != "float16":
        return f"tensor cores take float16 here, not {p.dtype}"
    if p.groups != 1:
        return f"tensor-core tiles take one group, not {p.groups}"
    if p.per_sample:
        return "channel lists differ from sample to sample, and tensor-core tiles span samples"
    if p.masker:
        return "a masker's column does not fill a tensor-core tile"
    if p.channels % STEP:
        return f"tensor-core tiles take {STEP} channels at a time, and {p.channels} is no multiple"
    if p.columns % 8:
        return f"results are stored 8 columns at a time, and {p.columns} is no multiple"
    if p.taps > MAX_TAPS:
        return f"tensor-core tiles take {MAX_TAPS} taps at most, not {p.taps}"
    return None


def _fitted(p: Problem, choice: Choice) -> Choice:
    """The tile for this depth: no more stages than steps; over few steps, the residual first and no walking grid."""
    steps = p.depth // STEP
    short = steps <= choice["stages"]
    return {
        **choice,
        "stages": min(steps, choice["stages"]),
        "early": int(short),
        "resident": 0 if short else choice["resident"],
    }


__all__ = ["TensorCoreSchedule", "arch_number"]
