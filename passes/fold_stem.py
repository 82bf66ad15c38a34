"""Make a convolution of a few channels one that tensor cores take: their copies are of 8 numbers at once.

    %c = conv2d(in_channels=3, kernel=7, stride=2)(%x)
        ->  %f = fold_columns(columns=2, channels=4)(%x)
            %c = conv2d(in_channels=8, kernel=8-4, stride=2-1)(%f)

A run of neighbouring columns is then contiguous memory; what the window gains in size has weights of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.fold_columns import FoldColumns, FoldColumnsSpec
from laudc.passes.base import Pass
from laudc.program import Program, block_of, insert_op, set_op, type_of
from laudc.targets import TARGETS, Target

_LONG = 8
"""Channels of a folded pixel: 16 bytes of a half-precision type."""
_STEP = 64
"""Numbers that a tensor-core kernel reads of a row in one step."""


@dataclass(frozen=True, kw_only=True)
class FoldStem(Pass):
    after = ("fuse_prologue",)

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
        if not self.target.tensor_fp16_flops_per_clock_per_sm or not isinstance(op, Conv2d):
            return False
        spec, x = op.spec, type_of(node.all_input_nodes[0])
        plain = spec.operands == ("x",) and spec.prologue is None and not spec.masker and spec.groups == 1
        window = -(-spec.kernel[1] // _columns(spec))
        return (
            x.dtype != "float32"
            and plain
            and spec.dilation == (1, 1)
            and spec.in_channels <= _LONG // _columns(spec)
            and window <= _STEP // _LONG
        )


def _columns(spec: Conv2dSpec) -> int:
    return 2 if spec.stride[1] % 2 == 0 and spec.in_channels <= _LONG // 2 else 1


def _fold(program: Program, node: fx.Node) -> None:
    conv, x = program.op(node), node.all_input_nodes[0]
    assert isinstance(conv, Conv2d)
    spec, columns = conv.spec, _columns(conv.spec)
    _, _, height, width = type_of(x).shape
    out_height, out_width = spec.out_size(height, width)
    across = 1 << (-(-spec.kernel[1] // columns) - 1).bit_length()
    at_once = _STEP // (_LONG * across)
    down = -(-spec.kernel[0] // at_once) * at_once
    top, _, left, _ = spec.padding
    bottom = (out_height - 1) * spec.stride[0] + down - top - height
    right = (out_width - 1) * spec.stride[1] + across * columns - left - width
    fold = FoldColumnsSpec(padding=(top, bottom, left, right), columns=columns, channels=_LONG // columns)
    made = conv.replaced(
        in_channels=_LONG,
        kernel=(down, across),
        stride=(spec.stride[0], spec.stride[1] // columns),
        padding=(0, 0, 0, 0),
    )
    made.register_parameter("weight", nn.Parameter(_folded(conv.weight.detach(), fold, (down, across))))
    with program.graph.graph.inserting_before(node):
        folded = insert_op(program, f"{node.name}_image", FoldColumns(fold), (x,), block=block_of(node))
    result = type_of(node)
    set_op(program, node, made, (folded,))
    assert type_of(node) == result


def _folded(weight: Tensor, fold: FoldColumnsSpec, kernel: tuple[int, int]) -> Tensor:
    """(K, C, R, S) -> (K, F * channels, *kernel)."""
    out, channels, height, width = weight.shape
    wide = weight.new_zeros(out, fold.channels, kernel[0], kernel[1] * fold.columns)
    wide[:, :channels, :height, :width] = weight
    split = wide.view(out, fold.channels, kernel[0], kernel[1], fold.columns)
    return split.permute(0, 4, 1, 2, 3).reshape(out, -1, *kernel).contiguous()


PASS = FoldStem
