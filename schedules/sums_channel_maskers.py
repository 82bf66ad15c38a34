"""The channel masker on channel sums, with its list: one launch, a block a sample.

    sums --> means in shared memory --> hidden layer, a warp a unit --> decisions, a thread each --> list
         --> zero, for who writes the next map

A unit that is on counts those that are on before it: that is its place in the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laudc.ops._sums import UNITS
from laudc.ops.sums_channel_masker import SumsChannelMaskerSpec
from laudc.schedules._decision import decide, decisions_of, given_to
from laudc.schedules._demand import Active, Demand
from laudc.schedules._kernel import Kernel
from laudc.schedules._pointwise import pointwise
from laudc.schedules._reduce import add_run, add_share, over_lanes, over_team, zeros
from laudc.schedules._spread import lanes
from laudc.schedules.base import Choice, Lowered, Schedule, Work
from laudc.schedules.channel_maskers import pack_layers
from laudc.schedules.sums import refuse_arch

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.targets import Target

_TEAM = 32
_TEAMS = 16
_THREADS = _TEAM * _TEAMS
_MOST_SHARED = 48 << 10
"""Bytes that a kernel gets without asking for them."""


class SumsChannelMaskersSchedule(Schedule):
    ops = frozenset({"sums_channel_masker"})
    kind = "cuda"

    def refuse(self, work: Work, target: Target) -> str | None:
        spec = _spec(work)
        shared = 4 * (_THREADS + spec.channels + spec.hidden + spec.decisions)
        if shared > _MOST_SHARED:
            return f"a sample's means and decisions take {shared} bytes of shared memory, of {_MOST_SHARED}"
        return refuse_arch(target)

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return pack_layers(weights)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        spec, (sums,) = _spec(work), work.operands
        first, second = spec.hidden * spec.channels, spec.decisions * spec.hidden
        weights = 4 * (first + second)
        return (
            Demand(
                tasks=sums.shape[0],
                steps=2 * (first + second) / lanes(spec.channels, "float32", target)
                + 6 * spec.channels
                + 3 * spec.decisions**2
                + 4 * _THREADS * _TEAM.bit_length(),
                threads=_THREADS,
                l2_bytes=weights,
                on_chip_bytes=2 * weights,  # a multiprocessor takes in half of what it moves within
                read_bytes=sums.nbytes,
                written_bytes=sum(result.nbytes for result in work.results),
                weight_bytes=weights,
            ),
        )

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        with Kernel(target) as kernel:
            _decide(kernel, work, _spec(work))
        return kernel.lowered()


def _spec(work: Work) -> SumsChannelMaskerSpec:
    assert isinstance(work.spec, SumsChannelMaskerSpec)
    return work.spec


def _decide(kernel: Kernel, work: Work, spec: SumsChannelMaskerSpec) -> None:
    from tvm import tirx

    given = given_to(kernel, work)
    weight1 = kernel.argument("weight1", (spec.hidden, spec.channels), "float32")
    bias1 = kernel.argument("bias1", (spec.hidden,), "float32")
    weight2 = kernel.argument("weight2", (spec.decisions, spec.hidden), "float32")
    bias2 = kernel.argument("bias2", (spec.decisions,), "float32")
    decisions = decisions_of(kernel, work, given)
    listed, sums = (kernel.operand(name, type_) for name, type_ in zip(("list", "sums"), work.results[2:], strict=True))
    zero, none = tirx.const(0, "float32"), tirx.const(0, "int32")
    with (
        kernel.thread("blockIdx.x", kernel.batch) as b,
        kernel.thread("threadIdx.y", _TEAMS) as which,
        kernel.thread("threadIdx.x", _TEAM) as thread,
    ):
        t = which * _TEAM + thread
        means = kernel.shared("means", spec.channels)
        hidden = kernel.shared("hidden", spec.hidden)
        on = kernel.shared("on", spec.decisions, "int32")
        with _turns(kernel, spec.channels, t) as c:
            means[c] = sums[b, c].astype("float32") * tirx.const(1 / (UNITS * spec.positions), "float32")
        kernel.barrier()
        with kernel.serial("turn", -(-spec.hidden // _TEAMS)) as turn:
            unit, vector = turn * _TEAMS + which, lanes(spec.channels, "float32", kernel.target)
            mine = zeros(kernel, "mine", vector)
            with kernel.when(unit < spec.hidden):
                add_share(
                    kernel,
                    mine,
                    vector,
                    spec.channels // vector,
                    lambda c: means[c] * weight1[unit, c],
                    thread=thread,
                    team=_TEAM,
                )
            total = over_team(kernel, over_lanes(mine, vector), thread=thread, which=which, team=_TEAM)
            with kernel.when(thread == 0, unit < spec.hidden):
                hidden[unit] = pointwise("relu", total + bias1[unit], "cuda")
        kernel.barrier()
        with _turns(kernel, spec.decisions, t) as unit:
            vector = lanes(spec.hidden, "float32", kernel.target)
            mine = zeros(kernel, "mine", vector)
            add_run(kernel, mine, vector, spec.hidden // vector, lambda k: hidden[k] * weight2[unit, k])
            decide(decisions, (b, unit), over_lanes(mine, vector) + bias2[unit])
            on[unit] = (decisions.mask[b, unit] != zero).astype("int32")
        kernel.barrier()
        with _turns(kernel, 1 + spec.decisions, t) as unit:
            before = kernel.local("before", 1, "int32")
            before[0] = none
            with kernel.serial("other", spec.decisions) as other:
                before[0] = before[0] + tirx.Select(other < unit, on[other], none)
            with kernel.when(unit == spec.decisions):
                listed[b, 0] = before[0]
            with kernel.when(unit < spec.decisions), kernel.when(decisions.mask[b, unit] != zero):
                listed[b, 1 + before[0]] = unit
        with _turns(kernel, spec.channels, t) as c:
            sums[b, c] = tirx.const(0, "int64")


@contextmanager
def _turns(kernel: Kernel, count: int, t: Any) -> Iterator[Any]:
    """One turn of a block's threads for each number below `count`."""
    with kernel.serial("turn", -(-count // _THREADS)) as turn, kernel.when(turn * _THREADS + t < count):
        yield turn * _THREADS + t


SCHEDULE = SumsChannelMaskersSchedule()
