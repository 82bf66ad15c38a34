"""A stem's max pooling: the convolution before it pools what it makes.

    %c = conv2d(...)(%x)
    %p = max_pool(...)(%c)      ->      %p = conv_max_pool(...)(%x)

Rows of zeros at the end of the window, which were added for copies of whole steps, are left out. Where no kernel of the
target does both, the program stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn

from laudc.ops.conv2d import Conv2d
from laudc.ops.conv_max_pool import ConvMaxPool, ConvMaxPoolSpec
from laudc.ops.max_pool import MaxPool
from laudc.passes.base import Pass
from laudc.program import Program, set_op, type_of
from laudc.targets import TARGETS, Target


@dataclass(frozen=True, kw_only=True)
class FuseMaxPool(Pass):
    after = ("fold_stem",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, changed = program.clone(), False
        for node in list(clone.nodes):
            fused = _fused(clone, node)
            if fused is None:
                continue
            image = node.all_input_nodes[0].all_input_nodes[0]
            if _has_kernel(fused, image, self.target):
                set_op(clone, node, fused, (image,))
                changed = True
        return clone.finished() if changed else program


def _fused(program: Program, node: fx.Node) -> ConvMaxPool | None:
    """A convolution that reads one map, without padding, and the pooling that alone reads what it makes."""
    pool = program.op(node)
    if not isinstance(pool, MaxPool) or pool.spec.dilation != (1, 1) or pool.spec.ceil_mode:
        return None
    before = node.all_input_nodes[0]
    conv = program.op(before)
    if not isinstance(conv, Conv2d) or len(before.users) != 1 or len(conv.spec.operands) != 1:
        return None
    spec = conv.spec
    if any(spec.padding) or spec.dilation != (1, 1) or spec.groups != 1 or spec.masker or spec.prologue is not None:
        return None
    weight = conv.weight.detach()
    rows = _rows_in_use(weight)
    fused = ConvMaxPool.with_weights_of(
        conv,
        ConvMaxPoolSpec(
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
            kernel=(rows, spec.kernel[1]),
            stride=spec.stride,
            bias=spec.bias,
            activation=spec.activation,
            pool_kernel=pool.spec.kernel,
            pool_stride=pool.spec.stride,
            pool_padding=pool.spec.padding,
        ),
    )
    fused.register_parameter("weight", nn.Parameter(weight[:, :, :rows].contiguous()))
    image = type_of(before.all_input_nodes[0])
    return fused if fused.spec.conv.out_size(*image.shape[2:]) == spec.out_size(*image.shape[2:]) else None


def _rows_in_use(weight: torch.Tensor) -> int:
    """How many rows of the window remain without those at its end that are zero in every filter."""
    used = weight.ne(0).any(dim=3).any(dim=1).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


def _has_kernel(fused: ConvMaxPool, image: fx.Node, target: Target) -> bool:
    from laudc.latency.search import has_kernel

    return has_kernel(fused.spec, (type_of(image),), target)


PASS = FuseMaxPool
