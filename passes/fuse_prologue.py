"""What a convolution reads is normed and activated as it is read, not by a kernel that writes a map.

    %n = conv2d(groups=C, 1x1, bias=True, activation=f)(%x)      what fold_batchnorm made of a norm
    %c = conv2d(...)(%n)                                    ->   %c = conv2d(prologue=f, ...)(%x)

    %a = activation(function=f)(%x)
    %c = conv2d(...)(%a)                                    ->   %c = conv2d(prologue=f, ...)(%x)

A norm or an activation with a second reader stays, or it would be computed for each of them. So does a function that
is not cheap before a convolution of several taps, since each tap would compute it again. Of a norm behind an activation
the convolution takes the norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from laudc.ops.activation import Activation
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.passes.base import Pass
from laudc.program import Program, set_op

_CHEAP = ("none", "relu", "relu6")


@dataclass(frozen=True, kw_only=True)
class FusePrologue(Pass):
    after = ("fuse_activation",)
    optional = True

    def run(self, program: Program) -> Program:
        if not any(_reader(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in reversed(list(clone.nodes)):
            reader = _reader(clone, node)
            if reader is not None:
                _fuse(clone, node, reader)
        return clone.finished()


def _reader(program: Program, node: fx.Node) -> fx.Node | None:
    """The convolution that alone reads this norm or activation, if it can take it over."""
    if not _is_prologue(program, node) or len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    conv = program.op(reader)
    if not isinstance(conv, Conv2d) or reader.args.count(node) != 1 or reader.args[0] is not node:
        return None
    spec = conv.spec
    if spec.taps > 1 and _function(program, node) not in _CHEAP:
        return None
    taken = spec.prologue is not None or spec.gathered or spec.channels_in > 0 or spec.masker
    return None if taken else reader


def _is_prologue(program: Program, node: fx.Node) -> bool:
    """Whether it looks at every number apart: a number a channel times it, plus another, through a function."""
    op = program.op(node)
    if isinstance(op, Activation):
        return True
    if not isinstance(op, Conv2d):
        return False
    channels = op.spec.in_channels
    plain = Conv2dSpec(
        in_channels=channels,
        out_channels=channels,
        groups=channels,
        bias=op.spec.bias,
        activation=op.spec.activation,
    )
    return op.spec == plain


def _function(program: Program, node: fx.Node) -> str:
    """What a norm or an activation ends with."""
    op = program.op(node)
    assert isinstance(op, Activation | Conv2d), node
    return op.spec.function if isinstance(op, Activation) else op.spec.activation


def _fuse(program: Program, node: fx.Node, reader: fx.Node) -> None:
    before, conv, function = program.op(node), program.op(reader), _function(program, node)
    assert isinstance(conv, Conv2d)
    scale = before.weight.flatten() if isinstance(before, Conv2d) else torch.ones(conv.spec.in_channels)
    shift = before.bias if isinstance(before, Conv2d) and before.spec.bias else torch.zeros_like(scale)
    fused = conv.replaced(prologue="affine" if function == "none" else function)
    _set(fused, "scale", scale)
    _set(fused, "shift", shift)
    set_op(program, reader, fused, (node.all_input_nodes[0], *reader.args[1:]))  # type: ignore[arg-type]  # values only


def _set(conv: Conv2d, name: str, value: Tensor) -> None:
    conv.register_parameter(name, nn.Parameter(value.detach().float()))


PASS = FusePrologue
