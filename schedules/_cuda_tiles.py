"""Tiles as records, and which one to try first: the one whose blocks, dealt out over the chip, are done soonest.

    time ~ deals * bm * bn / speed        deals = ceil(blocks / multiprocessors)

Small tiles waste less at the edges and in the last deal; large ones read each input fewer times, which is `speed`.
A tile of which too few warps fit on a multiprocessor at once does not hide its waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from laudc.schedules._cuda_problem import Problem
from laudc.schedules.base import Choice
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from laudc.targets import Target

LINE = 128
"""Bytes of one row in one step on tensor cores."""

WIDEST = 256
"""Columns one instruction takes at most. Of such a tile one block fills a multiprocessor, and no other block hides
its wait for the residual."""

ROWS_A_LINE = 16
"""Finished rows that a warp sums up at once; they have to be of two samples at most."""

_BESIDE_SUMS = 40
"""Registers of a thread at least, for all else."""

_WAITING = 0.7
"""What is left of a tile's speed when its waits show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimtTile:
    """bm rows x bn columns a block, tm x tn of them a thread, bk elements of depth a step (16 or 32)."""

    bm: int
    bn: int
    tm: int
    tn: int
    bk: int

    @property
    def threads(self) -> int:
        return (self.bm // self.tm) * (self.bn // self.tn)

    @property
    def shared_bytes(self) -> int:
        """Two stages in float32, and the row table."""
        return 2 * (self.bm + self.bn) * self.bk * 4 + 4 * 4 * self.bm


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorTile:
    """bm rows x bn columns a block, in a pipeline of `stages` steps."""

    core: Literal["wgmma", "mma"]
    bm: int
    bn: int
    stages: int
    warpgroups: int
    """Of 4 warps each. With wgmma every one owns bm / warpgroups rows."""
    lag: int = 0
    """1 keeps one wgmma in flight over the barrier, at the price of a stage."""
    eager: int = 0
    """Copy the first stages of the weights, and an old residual, before the kernel ahead is done (1) or after (0)."""
    early: int = 0
    """Read the residual before (1) or after (0) the loop."""
    warps_m: int = 2
    """With mma: warps side by side along the rows; the others along the columns."""
    stmatrix: bool = False
    """Whether the chip has the instruction (sm_90 on)."""
    overlapping: bool = False
    """Whether it may be placed before the kernel ahead of it is done (sm_90 on)."""
    extra: int = 0
    """Columns beside the tile's: 8 where the first of them is the masker's."""
    blocks: int = 0
    """Blocks of a persistent grid that walks the active tiles; 0: a block a tile."""
    sums: int = 0
    """Lines of channel sums that it leaves of every 16 rows: one for each sample they may be of."""
    split: int = 1
    """Blocks that share the steps of a tile, a cluster (sm_90 on)."""
    size: int = 2
    """Bytes of a number."""
    registers: int = 0
    """A thread takes at most; 0: as the compiler likes."""

    @property
    def threads(self) -> int:
        return self.warpgroups * 128

    @property
    def warp_columns(self) -> int:
        """Columns of one warp."""
        return self.bn if self.core == "wgmma" else self.bn // (self.warpgroups * 4 // self.warps_m)

    @property
    def out_pitch(self) -> int:
        """Elements between rows of the finished tile in shared memory: 8 more, against bank conflicts."""
        return self.bn + 8

    @property
    def line_words(self) -> int:
        """Of the channel sums, float32."""
        return self.sums * self.bm // ROWS_A_LINE * self.bn

    @property
    def left_words(self) -> int:
        """What a block leaves for the others of its cluster, float32."""
        return self.bm * self.bn if self.split > 1 else 0

    @property
    def finished_bytes(self) -> int:
        """What lies in shared memory after the loop: the finished tile, its channel sums, what other blocks read."""
        return self.bm * self.out_pitch * self.size + 4 * (max(4, self.line_words) + self.left_words)

    @property
    def shared_bytes(self) -> int:
        """Stages, or the finished tile where it is larger, and the row table."""
        stages = self.stages * (self.bm + self.bn + self.extra) * LINE
        return max(stages, self.finished_bytes) + 3 * 4 * self.bm


def registers_left(tile: TensorTile, target: Target, *, holds_added: bool) -> int:
    """What a thread may take for as many blocks to fit a multiprocessor as shared memory has room for, or 0 where that
    is one: a compiler left alone spends the others'. holds_added: whether through the loop it also holds what is added
    behind it."""
    own = tile.bm * (tile.bn + tile.extra) // tile.threads
    needed = own + (own * tile.size // 4 if holds_added else 0) + _BESIDE_SUMS
    blocks = min(_blocks_at_once(tile, target), target.registers_per_sm // (tile.threads * needed))
    return target.registers_per_sm // (tile.threads * blocks) // 8 * 8 if blocks > 1 else 0


STRIP_THREADS = 128
"""Of a block where every thread sums a strip of its own."""


def columns_a_thread(p: Problem) -> int:
    """Neighbouring columns of one group and one listed unit that a thread takes: at most 16 bytes."""
    span = p.columns if p.group_columns == p.group_channels == 1 else p.group_columns
    most = 16 // DTYPE_BYTES[p.dtype]
    return next(n for n in (8, 4, 2, 1) if n <= most and span % n == 0 and p.channels_out % n == 0)


class Tile(Protocol):
    """What a block of threads is to the chip."""

    @property
    def threads(self) -> int: ...

    @property
    def shared_bytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A tile as plain data, and its speed where there is work enough, in percent of the fastest of its table."""

    choice: Choice
    speed: int


def ranked(
    p: Problem,
    candidates: Iterable[Candidate],
    tile_of: Callable[[Choice], Tile],
    target: Target,
    *,
    columns: int,
    enough_warps: int,
) -> tuple[Choice, ...]:
    """The tiles that fit the chip, the most promising first. A group has `columns` of them to fill."""
    timed = []
    for candidate in candidates:
        tile = tile_of(candidate.choice)
        if tile.shared_bytes <= target.shared_memory_per_block_kib * 1024:
            waiting = _WAITING if _warps_at_once(tile, target) < enough_warps else 1.0
            area = _area_dealt(p, candidate.choice, columns, target.sm_count)
            timed.append((area / (candidate.speed * waiting), candidate))
    return tuple(candidate.choice for _, candidate in sorted(timed, key=lambda pair: pair[0]))


def _area_dealt(p: Problem, choice: Choice, columns: int, sm_count: int) -> int:
    """Rows x columns that the busiest multiprocessor gets when every row is on."""
    bm, bn, split = choice["bm"], choice["bn"], choice.get("split", 1)
    row_tiles = p.batch * -(-p.pixels // bm) if p.per_sample else -(-p.capacity // bm)
    column_tiles = p.groups * -(-columns // bn)
    return -(-row_tiles * column_tiles * split // sm_count) * bm * bn // split


def _warps_at_once(tile: Tile, target: Target) -> int:
    """Warps of a multiprocessor that shared memory leaves room for; a block costs 1 KiB more than it asks for."""
    return _blocks_at_once(tile, target) * (tile.threads // 32)


def _blocks_at_once(tile: Tile, target: Target) -> int:
    """Blocks that shared memory leaves room for."""
    return target.shared_memory_per_sm_kib * 1024 // (tile.shared_bytes + 1024)


FIRST_HOPPER_ARCH = 90
"""From here on a kernel's blocks may be placed before the kernel ahead is done, and there is stmatrix."""
