"""A projection shortcut: the branch's last convolution computes it too, over a depth of both.

    %s = conv2d(1x1, stride=t)(%i)
    %z = conv2d(residual=dense, ...)(%x, %s)      ->      %z = conv2d(shortcut=C, shortcut_stride=t, ...)(%x, %i)

Its map is then neither written nor read. Where no kernel of the target takes two maps, the program stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from laudc.ops.conv2d import Conv2d
from laudc.passes.base import Pass
from laudc.program import Program, set_op, type_of
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class FuseShortcut(Pass):
    after = ("allow_tf32", "fuse_conv_add")
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        from laudc.latency.search import has_kernel

        clone, changed = program.clone(), False
        for node in list(clone.nodes):
            projection = _projection(clone, node)
            if projection is None:
                continue
            conv, added = cast(Conv2d, clone.op(node)), cast(Conv2d, clone.op(projection))
            fused = _fused(conv, added)
            operands = cast(tuple[fx.Node, ...], (node.args[0], projection.args[0]))
            if not has_kernel(fused.spec, tuple(map(type_of, operands)), self.target):
                continue
            set_op(clone, node, fused, operands)
            changed = True
        return clone.finished() if changed else program


def _projection(program: Program, node: fx.Node) -> fx.Node | None:
    """The 1x1 convolution whose map a plain convolution adds and nobody else reads."""
    conv = program.op(node)
    if not isinstance(conv, Conv2d) or conv.spec.residual != "dense" or len(conv.spec.operands) != 2:
        return None
    projection = cast(fx.Node, node.args[1])
    added = program.op(projection)
    alone = len(projection.users) == 1 and node.args[0] is not projection
    if not isinstance(added, Conv2d) or not alone or len(added.spec.operands) != 1:
        return None
    spec = added.spec
    plain = spec.groups == 1 and spec.activation == "none" and spec.prologue is None and not spec.masker
    return projection if plain and spec.kernel == (1, 1) and not any(spec.padding) else None


def _fused(conv: Conv2d, added: Conv2d) -> Conv2d:
    spec = added.spec
    fused = conv.replaced(
        residual="none", shortcut=spec.in_channels, shortcut_stride=spec.stride, bias=conv.spec.bias or spec.bias
    )
    fused.register_parameter("shortcut_weight", nn.Parameter(added.weight.detach()))
    biases = [op.bias.detach() for op in (conv, added) if op.spec.bias]
    if biases:
        fused.register_parameter("bias", nn.Parameter(torch.stack(biases).sum(0)))
    return fused


PASS = FuseShortcut
