"""A stem's max pooling: the convolution before it pools what it makes.

    %c = conv2d(...)(%x)
    %p = max_pool(...)(%c)      ->      %p = conv_max_pool(...)(%x)

Where the target has a kernel for it once the image is folded (`fold_stem`, which comes next); else the program stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from laudc.ops.conv2d import Conv2d
from laudc.ops.conv_max_pool import ConvMaxPool, ConvMaxPoolSpec
from laudc.ops.max_pool import MaxPool
from laudc.passes.base import Pass
from laudc.passes.fold_stem import Folding, folds
from laudc.program import Program, set_op, type_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class FuseMaxPool(Pass):
    after = ("fuse_prologue",)
    optional = True

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        clone, changed = program.clone(), False
        for node in list(clone.nodes):
            fused = _fused(clone, node, self.target)
            if fused is not None:
                set_op(clone, node, fused, (node.all_input_nodes[0].all_input_nodes[0],))
                changed = True
        return clone.finished() if changed else program


def _fused(program: Program, node: fx.Node, target: Target) -> ConvMaxPool | None:
    """A convolution of few channels, with the pooling that alone reads what it makes."""
    pool = program.op(node)
    if not isinstance(pool, MaxPool) or pool.spec.dilation != (1, 1) or pool.spec.ceil_mode:
        return None
    before = node.all_input_nodes[0]
    conv = program.op(before)
    if not isinstance(conv, Conv2d) or len(before.users) != 1:
        return None
    spec, x = conv.spec, type_of(before.all_input_nodes[0])
    if not folds(spec, x, target):
        return None
    fused = ConvMaxPoolSpec(
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        kernel=spec.kernel,
        stride=spec.stride,
        padding=spec.padding,
        bias=spec.bias,
        activation=spec.activation,
        pool_kernel=pool.spec.kernel,
        pool_stride=pool.spec.stride,
        pool_padding=pool.spec.padding,
    )
    return ConvMaxPool.with_weights_of(conv, fused) if _has_kernel(fused, x, target) else None


def _has_kernel(fused: ConvMaxPoolSpec, x: TensorType, target: Target) -> bool:
    """Once the image is folded."""
    from laudc.latency.search import has_kernel

    folding = Folding.of(fused.conv, x, whole_steps=False)
    (image,) = folding.image.results((x,))
    folded = replace(
        fused, in_channels=image.shape[1], kernel=folding.kernel, stride=folding.stride, padding=(0, 0, 0, 0)
    )
    return has_kernel(folded, (image,), target)


PASS = FuseMaxPool
