"""A residual block as the published LAUDNet latency predictor sees it: a chain of convolutions, an addition, no norms.

x ── convs[0] ── ... ── [squeeze-excitation] ── convs[-1] ── add
└────────────────── projection or identity ──────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from laudc.errors import InputError, UnknownName
from laudc.ops.conv2d import Conv2dSpec
from laudc.program import Block, Program, types_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperConv:
    """A convolution. The map it reads is `stride` times as high and wide as the one it makes."""

    c_in: int
    c_out: int
    height: int
    """Of the map it makes."""
    width: int
    stride: int = 1
    kernel: int = 1
    groups: int = 1

    @property
    def depth(self) -> int:
        """Multiply-adds of one output."""
        return self.c_in // self.groups * self.kernel**2

    @property
    def in_size(self) -> tuple[int, int]:
        return (self.height * self.stride, self.width * self.stride)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperBlock:
    """One residual block."""

    stage: int
    convs: tuple[PaperConv, ...]
    """The branch, in order: 1x1, kxk, 1x1 in a bottleneck, kxk twice in a basic block."""
    projection: PaperConv | None = None
    squeeze: int = 0
    """Channels between the two layers of the squeeze-excitation before the last convolution; 0 where it has none."""

    @property
    def inner(self) -> int:
        """Channels between the convolutions, the ones that channel skipping drops."""
        return self.convs[0].c_out


def blocks_of(program: Program) -> tuple[PaperBlock, ...]:
    """The blocks of a captured or converted program. InputError for what the published model does not know,
    and for a program that is lowered already."""
    nodes = {node.name: node for node in program.nodes}
    return tuple(_block(program, nodes, block) for block in program.blocks)


def _block(program: Program, nodes: Mapping[str, fx.Node], block: Block) -> PaperBlock:
    if not nodes.keys() >= set(block.branch):
        raise InputError(f"{block.name} is lowered already", "price the program as it was captured or converted")
    branch = _convs(program, nodes, block, block.branch)
    shortcut = _convs(program, nodes, block, block.shortcut)
    return PaperBlock(stage=block.stage, convs=branch, projection=shortcut[0] if shortcut else None)


def _convs(
    program: Program, nodes: Mapping[str, fx.Node], block: Block, names: tuple[str, ...]
) -> tuple[PaperConv, ...]:
    """The convolutions among those nodes; a pool before a projection has no price."""
    found = []
    for name in names:
        op = program.op(nodes[name])
        if op is not None and isinstance(op.spec, Conv2dSpec):
            found.append(_conv(block, op.spec, types_of(nodes[name])[0].shape))
    return tuple(found)


def _conv(block: Block, spec: Conv2dSpec, made: tuple[int, ...]) -> PaperConv:
    kernel, stride, dilation = spec.kernel[0], spec.stride[0], spec.dilation
    if spec.kernel != (kernel, kernel) or spec.stride != (stride, stride) or dilation != (1, 1):
        raise InputError(
            f"a convolution of {block.name} is {'x'.join(map(str, spec.kernel))}, its stride {spec.stride}, its "
            f"dilation {dilation}",
            "the paper's model knows square ones without dilation",
        )
    return PaperConv(
        c_in=spec.in_channels,
        c_out=spec.out_channels,
        height=made[2],
        width=made[3],
        stride=stride,
        kernel=kernel,
        groups=spec.groups,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _RegNetY:
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int


_STEM = 32
_REGNETS_Y = {
    "regnet_y_400mf": _RegNetY(depths=(1, 3, 6, 6), widths=(48, 104, 208, 440), group_width=8),
    "regnet_y_800mf": _RegNetY(depths=(1, 3, 8, 2), widths=(64, 144, 320, 784), group_width=16),
}


def regnet_y(name: str) -> tuple[PaperBlock, ...]:
    """The blocks of regnet_y_400mf or regnet_y_800mf for a 224 x 224 image (Radosavovic et al., arXiv 2003.13678):
    bottleneck ratio 1, squeezed to a quarter of the block's input channels."""
    if name not in _REGNETS_Y:
        raise UnknownName.among("RegNetY of the paper", name, _REGNETS_Y)
    net = _REGNETS_Y[name]
    blocks: list[PaperBlock] = []
    c_in, size = _STEM, 112
    for stage, (depth, width) in enumerate(zip(net.depths, net.widths, strict=True)):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            size //= stride
            blocks.append(_regnet_block(stage, c_in, width, size, stride, net.group_width))
            c_in = width
    return tuple(blocks)


def _regnet_block(stage: int, c_in: int, width: int, size: int, stride: int, group_width: int) -> PaperBlock:
    before = size * stride
    return PaperBlock(
        stage=stage,
        convs=(
            PaperConv(c_in=c_in, c_out=width, height=before, width=before),
            PaperConv(
                c_in=width,
                c_out=width,
                height=size,
                width=size,
                stride=stride,
                kernel=3,
                groups=width // group_width,
            ),
            PaperConv(c_in=width, c_out=width, height=size, width=size),
        ),
        projection=PaperConv(c_in=c_in, c_out=width, height=size, width=size, stride=stride)
        if stride != 1 or c_in != width
        else None,
        squeeze=round(c_in / 4),
    )
