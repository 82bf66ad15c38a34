"""Make a convolution of a few channels one that tensor cores take: their copies are of 8 numbers at once.

    %c = conv2d(in_channels=3, kernel=7, stride=2)(%x)
        ->  %f = fold_columns(columns=2, channels=4)(%x)
            %c = conv2d(in_channels=8, kernel=8-4, stride=2-1)(%f)

A run of neighbouring columns is then contiguous memory; what the window gains in size has weights of zero. What pools
its map itself (`conv_max_pool`) is folded likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.conv_max_pool import ConvMaxPool, ConvMaxPoolSpec
from laudc.ops.fold_columns import FoldColumns, FoldColumnsSpec
from laudc.passes.base import Pass
from laudc.program import Program, block_of, insert_op, set_op, type_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType

_LONG = 8
"""Channels of a folded pixel: 16 bytes of a half-precision type."""
_STEP = 64
"""Numbers that a tensor-core kernel reads of a row in one step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folding:
    """How an image of few channels becomes one of long pixels, and what the window then is."""

    image: FoldColumnsSpec
    kernel: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def of(cls, conv: Conv2dSpec, size: tuple[int, int], *, whole_steps: bool) -> Folding:
        """For a map of that height and width. whole_steps: with rows to the window until copies of a step fill it."""
        columns = _columns(conv)
        out_height, out_width = conv.out_size(*size)
        across, down = _across(conv), conv.kernel[0]
        if whole_steps:
            at_once = _STEP // (_LONG * across)
            down = -(-down // at_once) * at_once
        top, _, left, _ = conv.padding
        bottom = (out_height - 1) * conv.stride[0] + down - top - size[0]
        right = (out_width - 1) * conv.stride[1] + across * columns - left - size[1]
        return cls(
            image=FoldColumnsSpec(padding=(top, bottom, left, right), columns=columns, channels=_LONG // columns),
            kernel=(down, across),
            stride=(conv.stride[0], conv.stride[1] // columns),
        )


@dataclass(frozen=True, kw_only=True)
class FoldStem(Pass):
    after = ("fuse_max_pool",)

    target: Target = TARGETS["cpu"]

    def run(self, program: Program) -> Program:
        if not any(self._folds(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            if self._folds(clone, node):
                _fold(clone, node)
        return clone.finished()

    def _folds(self, program: Program, node: fx.Node) -> bool:
        op = program.op(node)
        if isinstance(op, ConvMaxPool):
            return not _is_folded(op.spec)
        return isinstance(op, Conv2d) and folds(op.spec, type_of(node.all_input_nodes[0]), self.target)


def _is_folded(stem: ConvMaxPoolSpec) -> bool:
    return stem.in_channels == _LONG and not any(stem.padding) and stem.kernel[1] == _across(stem.conv)


def folds(conv: Conv2dSpec, x: TensorType, target: Target) -> bool:
    """Whether the target has tensor cores for which x has too few channels, and folding gives it enough."""
    units = {
        "float16": target.tensor_fp16_flops_per_clock_per_sm,
        "bfloat16": target.tensor_bf16_flops_per_clock_per_sm,
    }
    plain = conv.operands == ("x",) and conv.prologue is None and not conv.masker and conv.groups == 1
    return (
        bool(units.get(x.dtype))
        and plain
        and conv.dilation == (1, 1)
        and conv.in_channels <= _LONG // _columns(conv)
        and _across(conv) <= _STEP // _LONG
    )


def _columns(conv: Conv2dSpec) -> int:
    return 2 if conv.stride[1] % 2 == 0 and conv.in_channels <= _LONG // 2 else 1


def _across(conv: Conv2dSpec) -> int:
    """Columns of the folded window: a power of two, so that rows of it divide a step."""
    return 1 << (-(-conv.kernel[1] // _columns(conv)) - 1).bit_length()


def _fold(program: Program, node: fx.Node) -> None:
    op, x = program.op(node), node.all_input_nodes[0]
    assert isinstance(op, Conv2d | ConvMaxPool)
    conv = op.spec if isinstance(op.spec, Conv2dSpec) else op.spec.conv
    _, _, height, width = type_of(x).shape
    folding = Folding.of(conv, (height, width), whole_steps=isinstance(op, Conv2d))
    made = op.replaced(in_channels=_LONG, kernel=folding.kernel, stride=folding.stride, padding=(0, 0, 0, 0))
    made.register_parameter("weight", nn.Parameter(_folded(op.weight.detach(), folding.image, folding.kernel)))
    with program.graph.graph.inserting_before(node):
        image = insert_op(program, f"{node.name}_image", FoldColumns(folding.image), (x,), block=block_of(node))
    result = type_of(node)
    set_op(program, node, made, (image,))
    assert type_of(node) == result


def _folded(weight: Tensor, fold: FoldColumnsSpec, kernel: tuple[int, int]) -> Tensor:
    """(K, C, R, S) -> (K, F * channels, *kernel)."""
    out, channels, height, width = weight.shape
    wide = weight.new_zeros(out, fold.channels, kernel[0], kernel[1] * fold.columns)
    wide[:, :channels, :height, :width] = weight
    split = wide.view(out, fold.channels, kernel[0], kernel[1], fold.columns)
    return split.permute(0, 4, 1, 2, 3).reshape(out, -1, *kernel).contiguous()


PASS = FoldStem
