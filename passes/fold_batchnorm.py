"""A norm in evaluation is a scale and a shift a channel: they go into the convolution before it.

    %a = conv2d(...)(%x)
    %b = batch_norm(...)(%a)      ->      %b = conv2d(..., bias=True)(%x)

A norm with no convolution of its own before it (or one that others read) becomes a 1x1 depthwise convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from laudc.ops.batch_norm import BatchNorm
from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.passes.base import Pass
from laudc.program import Program, set_op


@dataclass(frozen=True, kw_only=True)
class FoldBatchnorm(Pass):
    after = ("drop_dropout",)

    def run(self, program: Program) -> Program:
        if not any(isinstance(op, BatchNorm) for _, op in program.ops()):
            return program
        clone = program.clone()
        for node, op in list(clone.ops()):
            if isinstance(op, BatchNorm):
                conv = _own_conv(clone, node)
                if conv is None:
                    set_op(clone, node, _as_depthwise(op), node.args[:1])  # type: ignore[arg-type]  # one value
                else:
                    before = node.all_input_nodes[0]
                    set_op(clone, node, _folded(conv, op), before.args)  # type: ignore[arg-type]  # values only
        return clone.finished()


def _own_conv(program: Program, norm: fx.Node) -> Conv2d | None:
    """The plain convolution whose only reader is this norm."""
    before = norm.all_input_nodes[0]
    op = program.op(before)
    if not isinstance(op, Conv2d) or len(before.users) != 1 or op.spec.activation != "none":
        return None
    return op


def _folded(conv: Conv2d, norm: BatchNorm) -> Conv2d:
    scale, shift = norm.scale_and_shift()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift + conv.bias.double() * scale if conv.spec.bias else shift
    made = Conv2d(replace(conv.spec, bias=True))
    return _with_weights(made, weight, bias)


def _as_depthwise(norm: BatchNorm) -> Conv2d:
    scale, shift = norm.scale_and_shift()
    channels = norm.spec.channels
    spec = Conv2dSpec(in_channels=channels, out_channels=channels, groups=channels, bias=True)
    return _with_weights(Conv2d(spec), scale.view(-1, 1, 1, 1), shift)


def _with_weights(conv: Conv2d, weight: Tensor, bias: Tensor) -> Conv2d:
    """Folded in float64, kept in float32."""
    conv.register_parameter("weight", nn.Parameter(weight.detach().to(torch.float32)))
    conv.register_parameter("bias", nn.Parameter(bias.detach().to(torch.float32)))
    return conv.eval()


PASS = FoldBatchnorm
