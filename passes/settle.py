"""Which convolutions may look at a layer's decision before the kernel ahead of them is done.

    %m = sums_masker(...)
    %a = conv2d(samples)(%x, %m)                      waits for the decision
    %b = conv2d(samples)(%a, %m)               ->     settled: the decision was made two kernels ago
    %c = conv2d(samples, in_place)(%b, %m, %x)        settled, and what %x holds too

A kernel on samples lets the next one begin only when all that came before it is done, and one that decides when its
list is written (`_cuda_overlap`); so the kernel right behind it finds every decision, and every map, but the one that
it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops.conv2d import Conv2d
from laudc.ops.deciding_conv2d import DecidingConv2d
from laudc.passes.base import Pass
from laudc.program import Program, is_view, set_op


@dataclass(frozen=True, kw_only=True)
class Settle(Pass):
    after = ("keep_means",)

    def run(self, program: Program) -> Program:
        if not _settled(program):
            return program
        clone = program.clone()
        for node in _settled(clone):
            conv = clone.op(node)
            assert isinstance(conv, Conv2d)
            operands = tuple(value for value in node.args if isinstance(value, fx.Node))
            set_op(clone, node, conv.replaced(settled=True), operands)
        return clone.finished()


def _settled(program: Program) -> list[fx.Node]:
    """The convolutions on samples right behind one on the same samples."""
    found, ahead = [], None
    for node, _ in program.ops():
        if is_view(program, node):
            continue
        decided = _decided_by(program, node)
        if decided is not None and decided is ahead and decided is not node:
            found.append(node)
        ahead = decided
    return found


def _decided_by(program: Program, node: fx.Node) -> fx.Node | None:
    """What told a convolution on samples which those are: a masker, or a convolution that decides."""
    op = program.op(node)
    if not isinstance(op, Conv2d) or not op.spec.samples:
        return None
    return node if isinstance(op, DecidingConv2d) else cast(fx.Node, node.args[1]).all_input_nodes[0]


PASS = Settle
