"""Layer maskers read a number, not sums: who writes the map knows what it is worth to each masker that may read it.

    %s = zero_sums(%i)                                     %s = zero_sums(%i)
    %y, %t = conv2d(sums)(..., %s)                         %y, %t = conv2d(running=2)(..., %s)
    %m, %l, %u = sums_masker(%t)                           %m, %l, %u = running_masker(%t)
    %z, %v = conv2d(samples, in_place, sums)(..., %u)  ->  %z, %v = conv2d(samples, in_place, running=2)(..., %u)
    %n, %k, %w = sums_masker(%v)                           %n, %k, %w = running_masker(%v)

A map that is skipped stays, and so do its logits. Each masker hands those of the others on, the next one's first; so
all convolutions of a run look alike, and those at its end add zeros for maskers that do not come. A run is taken whole,
from sums of nothing on, where nobody else reads the sums and the target has kernels for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from laudc.ops.conv2d import Conv2d
from laudc.ops.running_masker import RunningMasker, RunningMaskerSpec
from laudc.ops.sums_masker import SumsMasker
from laudc.ops.zero_sums import ZeroSums, ZeroSumsSpec
from laudc.passes.base import Pass
from laudc.program import Program, set_op, type_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Sums of nothing, the convolutions that add to them, and behind each the masker that decides on them."""

    begin: fx.Node
    convs: tuple[fx.Node, ...]
    maskers: tuple[fx.Node, ...]


@dataclass(frozen=True, kw_only=True)
class KeepLogits(Pass):
    after = ("keep_sums",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone = program.clone()
        runs = [run for run in _runs(clone) if _has_kernels(clone, run, self.target)]
        for run in runs:
            _rewrite(clone, run)
        return clone.finished() if runs else program


def _runs(program: Program) -> Iterator[Run]:
    for node in list(program.nodes):
        if not isinstance(program.op(node), ZeroSums):
            continue
        convs, maskers, value = list[fx.Node](), list[fx.Node](), [node]
        while len(value) == 1:
            conv = _only_reader(program, value[0], Conv2d)
            masker = conv and _only_reader(program, _result(conv, 1), SumsMasker)
            if conv is None or masker is None or not cast(Conv2d, program.op(conv)).spec.sums:
                break
            convs.append(conv)
            maskers.append(masker)
            value = [left for left in masker.users if left.args[1] == 2 and left.users]
        else:
            yield Run(begin=node, convs=tuple(convs), maskers=tuple(maskers))


def _result(node: fx.Node, index: int) -> fx.Node:
    return next(value for value in node.users if value.args[1] == index)


def _only_reader(program: Program, value: fx.Node, kind: type[Conv2d | SumsMasker]) -> fx.Node | None:
    readers = list(value.users)
    return readers[0] if len(readers) == 1 and type(program.op(readers[0])) is kind else None


def _has_kernels(program: Program, run: Run, target: Target) -> bool:
    from laudc.latency.search import has_kernel

    logits = _logits_type(program, run)
    convs = {
        (
            conv.replaced(sums=False, running=logits.shape[1]).spec,
            tuple(type_of(cast(fx.Node, x)) for x in node.args[:-1]),
        )
        for node in run.convs
        if isinstance(conv := program.op(node), Conv2d)
    }
    return all(has_kernel(spec, (*operands, logits), target) for spec, operands in convs) and has_kernel(
        RunningMaskerSpec(key="", maskers=logits.shape[1]), (logits,), target
    )


def _logits_type(program: Program, run: Run) -> TensorType:
    return TensorType(shape=(type_of(run.begin).shape[0], len(run.maskers)), dtype="int64")


def _rewrite(program: Program, run: Run) -> None:
    count = len(run.maskers)
    set_op(program, run.begin, ZeroSums(ZeroSumsSpec(channels=count)), tuple(run.begin.all_input_nodes))
    maskers = [cast(SumsMasker, program.op(node)) for node in run.maskers]
    worth = torch.stack([(one.weight[0] - one.weight[1]).detach().float() for one in maskers])
    for index, (conv, masker) in enumerate(zip(run.convs, run.maskers, strict=True)):
        adding = cast(Conv2d, program.op(conv)).replaced(sums=False, running=count)
        scale = torch.zeros_like(worth)
        scale[: count - index] = worth[index:]
        adding.register_parameter("running_scale", nn.Parameter(scale))
        set_op(program, conv, adding, cast("tuple[fx.Node, ...]", conv.args))
        deciding = RunningMasker(RunningMaskerSpec(key=maskers[index].key, maskers=count))
        deciding.register_parameter("bias", cast(nn.Parameter, maskers[index].bias))
        sums, masks = masker.args
        set_op(program, masker, deciding, (cast(fx.Node, sums),))
        masker.args = (sums, masks)


PASS = KeepLogits
