"""The tile of a tensor-core kernel where every sample has its own channels, and how its depth is told in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import LINE, TensorTile

TAP_SHIFT = 20
"""A piece is one word: where it lies in a row of w, and above that its tap."""

PADDING_TAP = 31
"""The tap of a piece that is not there: the bit no row has."""

MOST_PIECES = 2048
"""Of one sum: what shared memory has room to tell about, 8 bytes a piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelTile:
    """bm rows of a sample x bn columns a block, in a pipeline of `stages` steps."""

    tensor: TensorTile
    """The tile without lists."""
    most_steps: int
    """Steps of a sum when every channel is on."""
    widths: tuple[int, ...]
    """Columns that a block multiplies, ascending: the first that holds what its sample has there."""
    listed: int
    """Entries of a list."""
    walk: int = 0
    """Tiles side by side that a block makes in turn, from one x, the end of each hiding loads of the next; 0: one."""

    @property
    def core(self) -> Literal["wgmma", "mma"]:
        return self.tensor.core

    @property
    def bm(self) -> int:
        return self.tensor.bm

    @property
    def bn(self) -> int:
        return self.tensor.bn

    @property
    def stages(self) -> int:
        return self.tensor.stages

    @property
    def lag(self) -> int:
        return self.tensor.lag

    @property
    def early(self) -> int:
        return self.tensor.early

    @property
    def threads(self) -> int:
        return self.tensor.threads

    @property
    def shared_bytes(self) -> int:
        """Beside the stages: what is told about rows, columns and pieces, the list; a walker's x and finished tile."""
        entries = -(-self.listed // self.threads) * self.threads
        told = 4 * self.bn * (1 + max(self.walk, 1)) + self.most_steps * 64 + 4 * entries
        kept = self.bm * (self.most_steps - self.stages) * LINE + self.tensor.finished_bytes if self.walk else 0
        return self.tensor.shared_bytes + told + kept


def most_steps(p: Problem) -> int:
    """Steps of a sum when every channel is on."""
    return -(-p.depth // p.step)
