"""What the two tensor-core schedules share: which work fits them, and how their weights lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from laudc.schedules._cuda_demand import tensor_core_demand
from laudc.schedules._cuda_groups import block_diagonal, filled, refuse_groups
from laudc.schedules._cuda_instructions import MULTIPLIED
from laudc.schedules._cuda_problem import Problem, matrix_of, meaningless, problem_of
from laudc.schedules._cuda_tiles import (
    FIRST_HOPPER_ARCH,
    ROWS_A_LINE,
    WIDEST,
    Candidate,
    TensorTile,
    ranked,
    registers_left,
)
from laudc.schedules._demand import Active, Demand
from laudc.schedules._prologue import pack_prologue
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.tf32 import rounded
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

MAX_TAPS = 32
"""A row's taps are the bits of one word; a narrow window has none outside the image, and needs none."""

ENOUGH_WARPS = 8

MAX_RUNNING = 64
"""Each has two threads at least."""

FEW_STEPS = 4

WARP_BYTES = 512
"""That a warp stores at once: 16 a lane."""

MOST_HELD = 192
"""Registers of a thread for its sums and the residual."""

_FEW_BLOCKS = 2
"""On a multiprocessor, when every row is on."""


class TensorCoreSchedule(Schedule):
    ops = frozenset({"conv2d", "deciding_conv2d", "linear"})
    kind = "cuda"
    core: Literal["wgmma", "mma"]
    candidates: tuple[Candidate, ...]

    def refuse(self, work: Work, target: Target) -> str | None:
        reason = self.refuse_target(target) or meaningless(work)
        if reason:
            return reason
        p = problem_of(work)
        return refuse_type(p) or refuse_groups(p, target) or _refuse_problem(filled(p))

    @abstractmethod
    def refuse_target(self, target: Target) -> str | None:
        """Why this chip has not the instructions, or None."""

    def tile(self, p: Problem, choice: Choice, target: Target) -> TensorTile:
        """The choice as the kernel's tile on this chip."""
        numbers = {name: number for name, number in choice.items() if name != "resident"}
        tile = TensorTile(
            core=self.core,
            stmatrix=target.capability >= FIRST_HOPPER_ARCH,
            overlapping=target.capability >= FIRST_HOPPER_ARCH,
            extra=extra_columns(p),
            blocks=choice["resident"] * target.sm_count,
            sums=2 * p.lined,
            size=DTYPE_BYTES[p.dtype],
            **numbers,
        )
        if not p.running:
            return tile
        holds = p.residual != "none" and bool(tile.early or (p.settled and tile.eager))
        return replace(tile, registers=registers_left(tile, target, holds_added=holds))

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        p = filled(problem_of(work))

        def tile_of(choice: Choice) -> TensorTile:
            return self.tile(p, choice, target)

        fitted = self._fitted(p, target)
        within = (c for c in fitted if p.groups == 1 or p.group_columns % c.choice["bn"] == 0)
        roomy = (c for c in within if has_room(p, tile_of(c.choice)) and _can_split(p, c.choice))
        return ranked(p, roomy, tile_of, target, columns=p.group_columns, enough_warps=ENOUGH_WARPS)

    def _fitted(self, p: Problem, target: Target) -> Iterator[Candidate]:
        return (replace(c, choice=_fitted(p, c.choice, target)) for c in self.candidates)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        p = filled(problem_of(work))
        speed = next(candidate.speed for candidate in self._fitted(p, target) if dict(candidate.choice) == dict(choice))
        return tensor_core_demand(p, self.tile(p, choice, target), speed, active)

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_tensor_core import tensor_core_module

        p = filled(problem_of(work))
        return Lowered(module=tensor_core_module(p, self.tile(p, choice, target)), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One row a column of the result, padded with zeros to whole tiles; then the masker's, padded to 8."""
        p = problem_of(work)
        matrix = block_diagonal(packed_matrix(p, work, weights), p, filled(p))
        behind = (*pack_prologue(weights), *_worth(p, weights, choice["bn"]), *_decision(p, weights))
        blocks = [(matrix[: p.columns], choice["bn"])]
        if p.masker:
            blocks.append((matrix[p.columns :], extra_columns(p)))
        packed = torch.cat([F.pad(block, (0, 0, 0, -block.shape[0] % whole)) for block, whole in blocks])
        if "bias" not in weights:
            return (packed.contiguous(), *behind)
        bias = weights["bias"].float()
        padded_bias = bias.new_zeros(packed.shape[0])
        padded_bias[: p.columns] = bias[: p.columns]
        if p.masker:
            padded_bias[-extra_columns(p)] = bias[-1]
        return (packed.contiguous(), padded_bias, *behind)


def _worth(p: Problem, weights: Mapping[str, Tensor], whole: int) -> tuple[Tensor, ...]:
    """What a number of the map is worth to each running logit, padded to whole tiles of columns."""
    if not p.running:
        return ()
    scale = weights["running_scale"].detach().float() / p.pixels
    return (F.pad(scale, (0, -p.columns % whole)).contiguous(),)


def _decision(p: Problem, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The bias of a keep logit, and which of the running logits it is."""
    if not p.deciding:
        return ()
    keep, drop = weights["decision_bias"].detach().float()
    return (torch.stack([keep - drop, weights["turn"].float()[0]]),)


def extra_columns(p: Problem) -> int:
    """Columns beside the tile's: instructions take 8 at a time, and the masker needs one."""
    return 8 if p.masker else 0


def refuse_type(p: Problem) -> str | None:
    """Why no tensor-core tile multiplies numbers of this type, or leaves sums of them."""
    if p.dtype not in MULTIPLIED or (p.dtype == "float32" and not p.tf32):
        return f"tensor cores take float16, bfloat16 and tf32 here, not {p.dtype}"
    if p.sums and p.dtype != "float16":
        return f"channel sums of float16 are exact, those of {p.dtype} are not"
    if p.running and p.dtype == "float32":
        return "running logits are left by tiles of 16-bit numbers, not of tf32"
    return None


def has_room(p: Problem, tile: TensorTile) -> bool:
    """Whether one instruction takes the tile's columns, a warp stores a whole row at once, and the sums of a thread and
    what it adds to them fit its registers."""
    own = tile.bm * tile.bn // tile.threads
    held = own + own * tile.size // 4 * (p.residual != "none")
    return tile.bn + tile.extra <= WIDEST and tile.warp_columns * tile.size <= WARP_BYTES and held <= MOST_HELD


def packed_matrix(p: Problem, work: Work, weights: Mapping[str, Tensor]) -> Tensor:
    """`matrix_of`, in the type that is multiplied."""
    matrix = matrix_of(work.spec, weights)
    return (rounded(matrix) if p.tf32 else matrix.to(getattr(torch, p.dtype))).contiguous()


def _refuse_problem(p: Problem) -> str | None:
    if p.per_sample:
        return "channel lists differ from sample to sample, and tensor-core tiles span samples"
    if p.narrow:
        if 8 % p.kernel[1] or p.depth % p.step or p.prologue is not None:
            return f"a narrow window takes whole rows a step of {p.step} numbers, and no prologue, not {p.kernel}"
    elif p.channels % p.step or p.shortcut % p.step:
        odd = p.channels if p.channels % p.step else p.shortcut
        return f"tensor-core tiles take {p.step} channels at a time, and {odd} is no multiple"
    if p.columns % 8:
        return f"results are stored 8 columns at a time, and {p.columns} is no multiple"
    if p.lined and p.pixels < ROWS_A_LINE:
        return f"sums over samples are of maps of {ROWS_A_LINE} pixels at least, not {p.pixels}"
    if p.running > MAX_RUNNING:
        return f"a tile adds up {MAX_RUNNING} running logits at most, not {p.running}"
    most = MAX_TAPS - 1 if p.shortcut else MAX_TAPS
    if p.taps > most and not p.narrow:
        return f"tensor-core tiles take {most} taps at most, not {p.taps}"
    if p.shortcut and (p.narrow or p.prologue is not None):
        return "a shortcut's convolution goes with no narrow window, and no prologue"
    return None


def _fitted(p: Problem, choice: Choice, target: Target) -> Choice:
    """The tile for this depth: no more stages than steps, and a walking grid only where steps are many and reuse x, and
    nothing has to be decided first. It is eager where so few blocks are placed that no other hides its start."""
    split = choice.get("split", 1)
    steps = -(-p.depth // p.step // split)
    short = steps <= choice["stages"]
    blocks = -(-p.capacity // choice["bm"]) * -(-p.columns // choice["bn"]) * split
    return {
        **choice,
        "stages": min(steps, choice["stages"]),
        "eager": int(blocks <= _FEW_BLOCKS * target.sm_count and target.capability >= FIRST_HOPPER_ARCH),
        "early": int(short and choice["bn"] == WIDEST),
        "resident": 0 if short or p.taps == 1 or p.deciding else choice["resident"],
    }


def _can_split(p: Problem, choice: Choice) -> bool:
    """Whether every block of a cluster has a few steps to do; a masker's column is not handed on."""
    split = choice.get("split", 1)
    return split == 1 or (p.depth // p.step >= FEW_STEPS * split and not p.masker)
