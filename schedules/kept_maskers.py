"""The patch masker that looks only where the map has changed, on a GPU: a block of threads a patch.

touched     thread (line, column) adds up every LINES-th position of its channels, some of them ahead; then the
            lines are added, and the first one writes the means
else        the first line reads the means
then        the first line's means times the weights, added up: the logit
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laudc.ops.kept_masker import KeptMaskerSpec
from laudc.schedules._decision import decide, decisions_of, given_to, refuse_type
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel, Memory
from laudc.schedules._reduce import TEAMS, over_team, zeros
from laudc.schedules._spread import lanes
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.types import DTYPE_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.targets import Target

_LEAST = 4096
"""Numbers of a patch: fewer are read about as fast as their means."""
_MOST_BYTES = 1 << 18
"""Of a patch: what one block reads nearly as fast as several would."""
_AHEAD = 8
"""Positions that a thread waits for at a time, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Team:
    """How the threads of a block share a patch."""

    side: tuple[int, int]
    grid: tuple[int, int]
    size: tuple[int, int]
    channels: int
    vector: int

    @classmethod
    def of(cls, work: Work, target: Target) -> _Team:
        assert isinstance(work.spec, KeptMaskerSpec)
        _, channels, height, width = work.operands[0].shape
        _, down, across = work.results[0].shape
        return cls(
            side=work.spec.patch(height, width),
            grid=(down, across),
            size=(height, width),
            channels=channels,
            vector=lanes(channels, work.dtype, target),
        )

    @property
    def columns(self) -> int:
        """Threads next to each other along the channels, a power of two."""
        return min(TEAMS, max(32, 1 << (self.channels // self.vector - 1).bit_length()))

    @property
    def lines(self) -> int:
        return TEAMS // self.columns

    @property
    def ahead(self) -> int:
        """Positions that a thread waits for at a time."""
        return min(_AHEAD, -(-math.prod(self.side) // self.lines))

    @property
    def turns(self) -> int:
        """How often the columns are moved on until all channels are done."""
        return -(-self.channels // (self.columns * self.vector))


class KeptMaskersSchedule(Schedule):
    ops = frozenset({"kept_masker"})
    kind = "cuda"

    def refuse(self, work: Work, target: Target) -> str | None:
        numbers = math.prod(_Team.of(work, target).side) * work.operands[0].shape[1]
        nbytes = numbers * DTYPE_BYTES[work.dtype]
        if numbers < _LEAST:
            return f"a patch of {numbers} numbers, fewer than {_LEAST}, is read about as fast as its means"
        if nbytes > _MOST_BYTES:
            return f"a patch of {nbytes} bytes, more than {_MOST_BYTES}, is too much for one block"
        return refuse_type(work)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Keep minus drop: one column of weights and one bias, float32."""
        weight, bias = weights["weight"].detach().float(), weights["bias"].detach().float()
        return (weight[0] - weight[1], bias[:1] - bias[1:])

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        """`active.rows`: the patches that are touched."""
        x, units, team = work.operands[0], work.results[0].numel, _Team.of(work, target)
        share = 1.0 if active.rows is None else active.rows / units
        means = work.results[2].nbytes
        turns = share * x.numel / units / team.vector
        return (
            Demand(
                tasks=units,
                steps=2 * turns + TEAMS * (TEAMS.bit_length() + 2 * team.turns),
                threads=TEAMS,
                read_bytes=share * x.nbytes + (1 - share) * means,
                written_bytes=share * means + 2 * work.results[0].nbytes,
            ),
        )

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        spec, team = work.spec, _Team.of(work, target)
        assert isinstance(spec, KeptMaskerSpec)
        with Kernel(target) as kernel:
            x = kernel.operand("x", work.operands[0])
            touched = None if spec.first else kernel.operand("touched", work.operands[1])
            given = given_to(kernel, work)
            weight = kernel.argument("weight", (team.channels,), "float32")
            bias = kernel.argument("bias", (1,), "float32")
            decisions = decisions_of(kernel, work, given)
            means = kernel.operand("means", work.results[2])
            with (
                kernel.thread("blockIdx.y", kernel.batch) as b,
                kernel.thread("blockIdx.x", math.prod(team.grid)) as patch,
                kernel.thread("threadIdx.y", team.lines) as line,
                kernel.thread("threadIdx.x", team.columns) as column,
            ):
                p, q = patch // team.grid[1], patch % team.grid[1]
                fresh = _is_fresh(touched, (b, p, q))
                logit = zeros(kernel, "logit", 1)
                with kernel.serial("turn", team.turns) as turn:
                    c = (turn * team.columns + column) * team.vector
                    sums = _sum_lines(kernel, team, x, (b, p, q), line, column, c, fresh)
                    with kernel.when(line == 0, c < team.channels):
                        mean = _mean(kernel, team, sums, means, (b, patch, c), _positions(team, p, q), fresh)
                        for lane in range(team.vector):
                            logit[0] = logit[0] + mean[lane] * weight[c + lane]
                thread = line * team.columns + column
                total = over_team(kernel, logit[0], thread=thread, which=0, team=TEAMS)
                with kernel.when(thread == 0):
                    decide(decisions, (b, p, q), total + bias[0])
        return kernel.lowered()


def _sum_lines(
    kernel: Kernel, team: _Team, x: Memory, at: tuple[Any, Any, Any], line: Any, column: Any, c: Any, fresh: Any
) -> Memory:
    """The sums over a patch of the channels from c on, in the first line; nothing of a patch that is not fresh."""
    from tvm import tirx

    b, p, q = at
    first, (rows, columns) = (p * team.side[0], q * team.side[1]), _extent(team, p, q)
    mine = zeros(kernel, "mine", team.vector)
    ahead = kernel.local("ahead", team.ahead * team.vector, x.buffer.dtype)
    every = team.ahead * team.lines
    with kernel.when(fresh, c < team.channels), kernel.serial("step", (rows * columns + every - 1) // every) as step:
        place = [step * every + k * team.lines + line for k in range(team.ahead)]
        for k in range(team.ahead):
            known = tirx.min(place[k], rows * columns - 1)
            i, j = first[0] + tirx.truncdiv(known, columns), first[1] + tirx.truncmod(known, columns)
            with kernel.vectorized(team.vector) as lane:
                ahead[k * team.vector + lane] = x[b, i, j, c + lane]
        for k in range(team.ahead):
            with kernel.when(place[k] < rows * columns), kernel.vectorized(team.vector) as lane:
                mine[lane] = mine[lane] + ahead[k * team.vector + lane].astype("float32")
    if team.lines == 1:
        return mine
    parts = kernel.shared("parts", TEAMS * team.vector)
    kernel.barrier()
    with kernel.vectorized(team.vector) as lane:
        parts[(line * team.columns + column) * team.vector + lane] = mine[lane]
    kernel.barrier()
    with (
        kernel.when(line == 0),
        kernel.serial("other", team.lines - 1) as other,
        kernel.vectorized(team.vector) as lane,
    ):
        mine[lane] = mine[lane] + parts[((other + 1) * team.columns + column) * team.vector + lane]
    return mine


def _mean(
    kernel: Kernel, team: _Team, sums: Memory, means: Memory, at: tuple[Any, ...], positions: Any, fresh: Any
) -> Memory:
    """The means of a patch: of its sums, which are written, or those that are known."""
    from tvm import tirx

    b, patch, c = at
    mean = kernel.local("mean", team.vector)
    with kernel.when(tirx.Not(fresh)), kernel.vectorized(team.vector) as lane:
        mean[lane] = means[b, patch, c + lane]
    with kernel.when(fresh):
        with kernel.vectorized(team.vector) as lane:
            mean[lane] = sums[lane] / positions.astype("float32")
        with kernel.vectorized(team.vector) as lane:
            means[b, patch, c + lane] = mean[lane]
    return mean


def _is_fresh(touched: Memory | None, at: tuple[Any, Any, Any]) -> Any:
    """Whether a patch has to be read."""
    from tvm import tirx

    return tirx.const(True, "bool") if touched is None else touched[at] != tirx.const(0, "float32")


def _extent(team: _Team, p: Any, q: Any) -> tuple[Any, Any]:
    """Rows and columns of a patch inside the map."""
    from tvm import tirx

    (height, width), (down, across) = team.size, team.side
    return tirx.min(down, height - p * down), tirx.min(across, width - q * across)


def _positions(team: _Team, p: Any, q: Any) -> Any:
    rows, columns = _extent(team, p, q)
    return rows * columns


SCHEDULE = KeptMaskersSchedule()
