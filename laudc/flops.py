"""Multiply-accumulates that were really executed, block by block: means of per-sample products, with a gradient.

    macs = mean over samples of  sum over convolutions of  dense * rows_on * channels_in_on * channels_out_on

(LAUDNet, section 3.3, written per sample: a product of batch means is only a lower bound.) The rows of a
convolution are the region that what follows needs, so its rate carries a gradient through a maximum.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from laudc.channel_lists import refuse_channel_lists
from laudc.ops._geometry import expand_patches, needed_region
from laudc.ops.conv2d import Conv2d
from laudc.ops.mask_channels import MaskChannels
from laudc.ops.mask_rows import MaskRows
from laudc.program import Block, Program, block_of, type_of, types_of

_PART_OF_A_CONV = ("batch_norm", "activation", "dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockMacs:
    """One block, per sample: what it would cost dense, what it cost (a tensor with a gradient), its maskers."""

    name: str
    dense: float
    executed: Tensor
    masker: float


def static_macs(program: Program) -> float:
    """The whole network with nothing skipped and no maskers, per sample."""
    return float(sum(_macs(program, node) for node, op in program.ops() if not _is_masker(op.spec.name)))


def dense_macs(program: Program) -> dict[str, float]:
    """What the convolutions of each block cost with nothing skipped, per sample."""
    macs = {block.name: 0.0 for block in program.blocks}
    for node, op in program.ops():
        if block_of(node) in macs and isinstance(op, Conv2d):
            macs[block_of(node)] += _macs(program, node)
    return macs


def block_macs(
    program: Program, decisions: Mapping[str, Tensor], *, masker_fused: Container[str] = ()
) -> tuple[BlockMacs, ...]:
    """The blocks that have maskers, for decisions (B, ...) by masker. `program` is dense and masked.

    masker_fused: the blocks whose first convolution carries the masker (see `masker_fused`), so runs everywhere.
    """
    dense = dense_macs(program)
    by_block: dict[str, list[fx.Node]] = {}
    for node, _ in program.ops():
        by_block.setdefault(block_of(node), []).append(node)
    found = []
    for block in program.blocks:
        own = {key: mask for key, mask in decisions.items() if key.rpartition(".")[0] == block.name}
        if own:
            found.append(
                _block(program, block, by_block[block.name], own, dense[block.name], block.name in masker_fused)
            )
    return tuple(found)


def executed_macs(program: Program, decisions: Mapping[str, Tensor], *, masker_fused: Container[str] = ()) -> float:
    """The whole network per sample, as `block_macs` counts its blocks, those of the maskers included."""
    blocks = block_macs(program, decisions, masker_fused=masker_fused)
    return static_macs(program) + sum(float(one.executed) - one.dense for one in blocks)


def _is_masker(name: str) -> bool:
    return name in ("patch_masker", "channel_masker", "patch_decision")


def _macs(program: Program, node: fx.Node) -> int:
    op = program.op(node)
    assert op is not None
    operands = tuple(type_of(value) for value in node.all_input_nodes if types_of(value))
    return op.spec.macs(operands) // types_of(node)[0].shape[0]


def masker_fused(lowered: Program) -> frozenset[str]:
    """The blocks of a lowered program whose masker is a column of their first convolution."""
    return frozenset(block_of(node) for node, op in lowered.ops() if isinstance(op, Conv2d) and op.spec.masker)


def _block(
    program: Program, block: Block, nodes: list[fx.Node], decisions: Mapping[str, Tensor], dense: float, fused: bool
) -> BlockMacs:
    some = next(iter(decisions.values()))
    everything = torch.ones(some.shape[0], device=some.device)
    masker = sum(_macs(program, node) for node in nodes if _is_masker(cast(Conv2d, program.op(node)).spec.name))
    executed = everything * masker
    convs = [node for node in nodes if isinstance(program.op(node), Conv2d)]
    branch = [node for node in convs if node.name in block.branch]
    walk = _Walk(program=program, decisions=decisions, everything=everything)
    for node in convs:
        dense_anyway = node not in branch or (fused and node is branch[0])
        share = everything if dense_anyway else walk.share(node)
        executed = executed + _macs(program, node) * share
    return BlockMacs(name=block.name, dense=dense, executed=executed.mean(), masker=float(masker))


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Follows a convolution's result to the masks that decide what of it is needed."""

    program: Program
    decisions: Mapping[str, Tensor]
    everything: Tensor
    """Ones, a sample each."""

    def share(self, node: fx.Node) -> Tensor:
        """The share of a convolution's work that is executed, per sample."""
        pixels = self.pixels(node)
        rows = self.everything if pixels is None else pixels.flatten(1).mean(1)
        return rows * self.channels_after(node) * self.channels_before(node)

    def pixels(self, node: fx.Node) -> Tensor | None:
        """The positions of a value that its reader needs; None for all of them."""
        user = next(iter(node.users))
        op = self.program.op(user)
        if op is None:
            return None
        if isinstance(op, MaskRows):
            height, width = type_of(node).shape[2:]
            own = expand_patches(self._mask(user), op.spec.granularity, height, width)
            further = self.pixels(user)
            return own if further is None else own * further
        if isinstance(op, Conv2d):
            after, spec = self.pixels(user), op.spec
            if after is None:
                return None
            height, width = type_of(node).shape[2:]
            return needed_region(
                after,
                size=(height, width),
                kernel=spec.kernel,
                stride=spec.stride,
                padding=spec.padding,
                dilation=spec.dilation,
            )
        return None if op.spec.name == "add" else self.pixels(user)

    def channels_after(self, node: fx.Node) -> Tensor:
        """The share of its outputs that is computed."""
        user = next(iter(node.users))
        op = self.program.op(user)
        if isinstance(op, MaskChannels):
            return self._mask(user).mean(1) if self._lists(user) else self.everything
        passes_on = op is not None and op.spec.name in _PART_OF_A_CONV
        return self.channels_after(user) if passes_on else self.everything

    def channels_before(self, node: fx.Node) -> Tensor:
        """The share of its inputs that is read; a grouped convolution's follow its outputs."""
        before = node.all_input_nodes[0]
        conv, masked = self.program.op(node), self.program.op(before)
        grouped = isinstance(conv, Conv2d) and conv.spec.groups > 1
        if grouped or not isinstance(masked, MaskChannels) or not self._lists(before):
            return self.everything
        return self._mask(before).mean(1)

    def _lists(self, masked: fx.Node) -> bool:
        """Whether the mask of this value becomes a list of channels, or runs dense wherever it is used."""
        users = masked.all_input_nodes[1].users
        values = [value for value in users if isinstance(self.program.op(value), MaskChannels)]
        return refuse_channel_lists(self.program, values, [self._writer(value) for value in values]) is None

    def _writer(self, masked: fx.Node) -> fx.Node:
        """The convolution that will make this value, its norm and its activation being part of it by then."""
        value = masked.all_input_nodes[0]
        while (op := self.program.op(value)) is not None and op.spec.name in _PART_OF_A_CONV:
            value = value.all_input_nodes[0]
        return value

    def _mask(self, masked: fx.Node) -> Tensor:
        """The decisions a masking node multiplies by."""
        masker = masked.all_input_nodes[1].all_input_nodes[0]
        op = self.program.op(masker)
        assert op is not None
        return self.decisions[str(getattr(op.spec, "key"))]  # noqa: B009  every masker's spec has one
