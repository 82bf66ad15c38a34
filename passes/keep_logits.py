"""Layer maskers cost one number a sample: who writes the map knows what it is worth to each masker that may read it.

    %s = zero_sums(%i)                                     %s = zero_sums(%i)
    %y, %t = conv2d(sums)(..., %s)                         %y, %t = conv2d(running=2)(..., %s)
    %m, %l, %u = sums_masker(%t)
    %a = conv2d(samples)(%y, %m)                           %a, %m, %l, %n, %u = deciding_conv2d(%y, %t)
    %z, %v = conv2d(samples, in_place, sums)(%a, %m, %u)   %z, %v = conv2d(samples, listed, running=2)(%a, %n, %u)

A map that is skipped stays, and so do its logits; what is on begins anew, at nothing, for the maskers that come. The
decision is made by the convolution that is the first to need it, so it costs no kernel of its own. A run is taken
whole, from sums of nothing on, where nobody else reads the sums and the target has kernels for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import fx, nn

from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2d
from laudc.ops.deciding_conv2d import DecidingConv2d, DecidingConv2dSpec
from laudc.ops.sums_masker import SumsMasker
from laudc.ops.zero_sums import ZeroSums, ZeroSumsSpec
from laudc.passes.base import Pass
from laudc.program import Program, elements, set_op, type_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A convolution that adds to the sums, the masker that decides on them, and the convolutions that obey it."""

    adds: fx.Node
    masker: fx.Node
    first: fx.Node
    others: tuple[fx.Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Sums of nothing, and whose turn it is then, one after another."""

    begin: fx.Node
    turns: tuple[Turn, ...]

    @property
    def logits(self) -> TensorType:
        return TensorType(shape=(type_of(self.begin).shape[0], len(self.turns)), dtype="int64")


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
        turns, value = list[Turn](), [node]
        while len(value) == 1:
            turn = _turn(program, value[0])
            if turn is None:
                break
            turns.append(turn)
            value = [left for left in turn.masker.users if left.args[1] == 2 and left.users]
        else:
            yield Run(begin=node, turns=tuple(turns))


def _turn(program: Program, sums: fx.Node) -> Turn | None:
    conv = _only_reader(program, sums, Conv2d)
    masker = conv and _only_reader(program, _result(conv, 1), SumsMasker)
    if conv is None or masker is None or not _conv(program, conv).spec.sums:
        return None
    obey = sorted(user for user in _result(masker, 0).users if user.op != "output")
    convs = [op for op in map(program.op, obey) if type(op) is Conv2d and op.spec.samples]
    if not obey or len(convs) < len(obey) or convs[0].spec.sums or convs[0].spec.residual != "none":
        return None
    return Turn(adds=conv, masker=masker, first=obey[0], others=tuple(obey[1:]))


def _conv(program: Program, node: fx.Node) -> Conv2d:
    return cast(Conv2d, program.op(node))


def _result(node: fx.Node, index: int) -> fx.Node:
    return next(value for value in node.users if value.args[1] == index)


def _only_reader(program: Program, value: fx.Node, kind: type[Conv2d | SumsMasker]) -> fx.Node | None:
    readers = list(value.users)
    return readers[0] if len(readers) == 1 and type(program.op(readers[0])) is kind else None


def _has_kernels(program: Program, run: Run, target: Target) -> bool:
    from laudc.latency.search import has_kernel

    return all(has_kernel(spec, operands, target) for spec, operands in set(_works(program, run)))


def _works(program: Program, run: Run) -> Iterator[tuple[Spec, tuple[TensorType, ...]]]:
    """What the target has to have kernels for."""
    adds, count = {turn.adds for turn in run.turns}, len(run.turns)
    obey = {node for turn in run.turns for node in turn.others}
    listed = TensorType(shape=(run.logits.shape[0] + 1,), dtype="int32")
    for node in sorted(adds | obey):
        conv, types = _conv(program, node), [type_of(value) for value in _operands(node)]
        if node in obey:
            conv, types[1] = conv.replaced(listed=True), listed
        if node in adds:
            conv, types[-1] = conv.replaced(sums=False, running=count), run.logits
        yield conv.spec, tuple(types)
    for turn in run.turns:
        x, _, *others = (type_of(value) for value in _operands(turn.first))
        yield _deciding_spec(_conv(program, turn.first), "", count), (x, run.logits, *others)


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    return cast("tuple[fx.Node, ...]", node.args)


def _deciding_spec(conv: Conv2d, key: str, maskers: int) -> DecidingConv2dSpec:
    return DecidingConv2dSpec(**asdict(conv.spec), key=key, maskers=maskers)


def _rewrite(program: Program, run: Run) -> None:
    count = len(run.turns)
    set_op(program, run.begin, ZeroSums(ZeroSumsSpec(channels=count)), tuple(run.begin.all_input_nodes))
    maskers = [cast(SumsMasker, program.op(turn.masker)) for turn in run.turns]
    worth = torch.stack([(one.weight[0] - one.weight[1]).detach().float() for one in maskers])
    for index, turn in enumerate(run.turns):
        adding = _conv(program, turn.adds).replaced(sums=False, running=count)
        scale = torch.zeros_like(worth)
        scale[index:] = worth[index:]
        adding.register_parameter("running_scale", nn.Parameter(scale))
        set_op(program, turn.adds, adding, _operands(turn.adds))
        _decide(program, turn, maskers[index], index, count)


def _decide(program: Program, turn: Turn, masker: SumsMasker, index: int, count: int) -> None:
    """Let the first convolution decide in the place of the masker, and the others read its list."""
    conv, readers = _conv(program, turn.first), list(turn.first.users)
    deciding = DecidingConv2d.with_weights_of(conv, _deciding_spec(conv, masker.key, count))
    deciding.register_parameter("decision_bias", cast(nn.Parameter, masker.bias))
    deciding.register_buffer("turn", torch.tensor([float(index)]))
    x, _, *others = _operands(turn.first)
    sums, masks = turn.masker.args
    set_op(program, turn.first, deciding, (x, cast(fx.Node, sums), *others))
    turn.first.args = (*turn.first.args, masks)
    out, *decided, listed, left = elements(turn.first, "map", "mask", "logits", "samples", "running")
    for reader in readers:
        reader.replace_input_with(turn.first, out)
    for node in turn.others:
        x, _, *others = _operands(node)
        set_op(program, node, _conv(program, node).replaced(listed=True), (x, listed, *others))
    for before, after in zip((0, 1, 2), (*decided, left), strict=True):
        for value in [value for value in turn.masker.users if value.args[1] == before]:
            value.replace_all_uses_with(after)


PASS = KeepLogits
