"""Make a convolution of a few channels one that tensor cores take: their copies are of 16 bytes at once.

    %c = conv2d(in_channels=3, kernel=7, stride=2)(%x)
        ->  %f = fold_columns(columns=2, channels=4)(%x)
            %c = conv2d(in_channels=8, kernel=8-4, stride=2-1)(%f)

A run of neighbouring columns is then contiguous memory; what the window gains in size has weights of zero. In tf32
16 bytes are 4 channels. What pools its map itself (`conv_max_pool`) is folded likewise.
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
from laudc.types import DTYPE_BYTES, TensorType

_PIECES = 8
"""Pixels that a tensor-core kernel reads in one step, of 16 bytes each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folding:
    """How an image of few channels becomes one of long pixels, and what the window then is."""

    image: FoldColumnsSpec
    kernel: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def of(cls, conv: Conv2dSpec, x: TensorType, *, whole_steps: bool) -> Folding:
        """For a map of that size and type. whole_steps: with rows to the window until copies of a step fill it."""
        size, long = (x.shape[2], x.shape[3]), _long(x)
        columns = _columns(conv, long)
        out_height, out_width = conv.out_size(*size)
        across, down = _across(conv, long), conv.kernel[0]
        if whole_steps:
            at_once = _PIECES // across
            down = -(-down // at_once) * at_once
        top, _, left, _ = conv.padding
        bottom = (out_height - 1) * conv.stride[0] + down - top - size[0]
        right = (out_width - 1) * conv.stride[1] + across * columns - left - size[1]
        return cls(
            image=FoldColumnsSpec(padding=(top, bottom, left, right), columns=columns, channels=long // columns),
            kernel=(down, across),
            stride=(conv.stride[0], conv.stride[1] // columns),
        )


@dataclass(frozen=True, kw_only=True)
class FoldStem(Pass):
    after = ("allow_tf32", "fuse_max_pool")

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
            return not _is_folded(op.spec, type_of(node.all_input_nodes[0]))
        return isinstance(op, Conv2d) and folds(op.spec, type_of(node.all_input_nodes[0]), self.target)


def _is_folded(stem: ConvMaxPoolSpec, x: TensorType) -> bool:
    long = _long(x)
    return stem.in_channels == long and not any(stem.padding) and stem.kernel[1] == _across(stem.conv, long)


def folds(conv: Conv2dSpec, x: TensorType, target: Target) -> bool:
    """Whether the target has tensor cores for which x has too few channels, and folding gives it enough."""
    units = {
        "float16": target.tensor_fp16_flops_per_clock_per_sm,
        "bfloat16": target.tensor_bf16_flops_per_clock_per_sm,
        "float32": target.tensor_tf32_flops_per_clock_per_sm * conv.tf32,
    }
    long = _long(x)
    plain = conv.operands == ("x",) and conv.prologue is None and not conv.masker and conv.groups == 1
    return (
        bool(units.get(x.dtype))
        and plain
        and conv.dilation == (1, 1)
        and conv.in_channels <= long // _columns(conv, long)
        and _across(conv, long) <= _PIECES
    )


def _long(x: TensorType) -> int:
    """Channels of a folded pixel: 16 bytes."""
    return 16 // DTYPE_BYTES[x.dtype]


def _columns(conv: Conv2dSpec, long: int) -> int:
    return 2 if conv.stride[1] % 2 == 0 and conv.in_channels <= long // 2 else 1


def _across(conv: Conv2dSpec, long: int) -> int:
    """Columns of the folded window: a power of two, so that rows of it divide a step."""
    return 1 << (-(-conv.kernel[1] // _columns(conv, long)) - 1).bit_length()


def _fold(program: Program, node: fx.Node) -> None:
    op, x = program.op(node), node.all_input_nodes[0]
    assert isinstance(op, Conv2d | ConvMaxPool)
    conv = op.spec if isinstance(op.spec, Conv2dSpec) else op.spec.conv
    folding = Folding.of(conv, type_of(x), whole_steps=isinstance(op, Conv2d))
    made = op.replaced(
        in_channels=_long(type_of(x)), kernel=folding.kernel, stride=folding.stride, padding=(0, 0, 0, 0)
    )
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
