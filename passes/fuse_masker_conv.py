"""Compute the masker's logits while the block's first 1x1 convolution reads the same pixels.

    %m = patch_masker(%x)                              %c = conv2d(masker=True, ...)(%x)
    %g = gather(%x, %r)                        ->      %y, %l = %c
    %c = conv2d(gathered, compact)(%g, %r)             %m = patch_decision(%l)
    %y = scatter(%c, %r)

One pass over x instead of two, but the convolution runs before anything is decided, so it runs everywhere. Both
forms stay possible: this pass takes the fused one only where, at the expected rate on the target, the dense
convolution costs less than reading x for the masker and computing the needed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import fx, nn

from laudc.ops.conv2d import Conv2d
from laudc.ops.gather import Gather
from laudc.ops.patch_decision import PatchDecision, PatchDecisionSpec
from laudc.ops.patch_masker import PatchMasker
from laudc.ops.scatter import Scatter
from laudc.passes.base import Pass
from laudc.program import Program, block_of, elements, insert_op, set_op, type_of, types_of
from laudc.targets import TARGETS, Target

_Parts = tuple[fx.Node, fx.Node]


@dataclass(frozen=True, kw_only=True)
class FuseMaskerConv(Pass):
    after = ("lower_masks",)
    optional = True

    target: Target = TARGETS["cpu"]
    expected_rate: float = 0.5

    def run(self, program: Program) -> Program:
        if not any(self._worth_fusing(program, node) for node in program.nodes):
            return program
        clone = program.clone()
        for node in list(clone.nodes):
            parts = self._worth_fusing(clone, node)
            if parts is not None:
                _fuse(clone, node, *parts)
        return clone.finished()

    def _worth_fusing(self, program: Program, masker: fx.Node) -> _Parts | None:
        """The convolution and the scatter that the masker can join, if that pays."""
        parts = _first_conv(program, masker)
        if parts is None:
            return None
        x, conv = masker.all_input_nodes[0], cast(Conv2d, program.op(parts[0]))
        op = cast(PatchMasker, program.op(masker))
        rate = _grown(self.expected_rate, op.spec.granularity)
        macs = type_of(x).numel * conv.spec.out_channels
        read_us = type_of(x).nbytes / _gb_per_s(self.target, type_of(x).nbytes) / 1e3 + self.target.launch_us
        skipped_us = (1 - rate) * macs / _macs_per_us(self.target, type_of(x).dtype)
        return parts if read_us > skipped_us else None


def _gb_per_s(target: Target, nbytes: int) -> float:
    """x was just written: it comes from the cache where it fits."""
    return target.l2_gb_per_s if nbytes <= target.l2_kib * 1024 else target.dram_gb_per_s


def _macs_per_us(target: Target, dtype: str) -> float:
    tensor = target.tensor_fp16_flops_per_clock_per_sm if dtype == "float16" else 0
    per_clock = tensor / 2 if tensor else target.fp32_lanes_per_sm
    return target.sm_count * per_clock * target.clock_mhz


def _grown(rate: float, granularity: int) -> float:
    """The share of pixels within one of an active S x S patch, for independent patches; S = 0 is the whole map."""
    if granularity == 0:
        return rate
    if granularity == 1:
        return 1 - (1 - rate) ** 9
    inner, side = (granularity - 2) ** 2, 4 * (granularity - 2)
    sees_two, sees_four = 1 - (1 - rate) ** 2, 1 - (1 - rate) ** 4
    return (inner * rate + side * sees_two + 4 * sees_four) / granularity**2


def _first_conv(program: Program, masker: fx.Node) -> _Parts | None:
    """The 1x1 convolution that gathers from the masker's own input, and its scatter."""
    if not isinstance(program.op(masker), PatchMasker):
        return None
    x = masker.all_input_nodes[0]
    for gather in x.users:
        if not isinstance(program.op(gather), Gather) or block_of(gather) != block_of(masker):
            continue
        if len(gather.users) != 1:
            continue
        conv = next(iter(gather.users))
        op, scatter = program.op(conv), next(iter(conv.users))
        scattered = isinstance(program.op(scatter), Scatter) and len(conv.users) == 1
        if isinstance(op, Conv2d) and _looks_at_one_pixel(op) and scattered:
            return conv, scatter
    return None


def _looks_at_one_pixel(conv: Conv2d) -> bool:
    spec = conv.spec
    return spec.kernel == (1, 1) and spec.stride == (1, 1) and not any(spec.padding) and spec.groups == 1


def _fuse(program: Program, masker: fx.Node, conv_node: fx.Node, scatter: fx.Node) -> None:
    x, masks = masker.args
    conv, op = program.op(conv_node), program.op(masker)
    assert isinstance(conv, Conv2d)
    assert isinstance(op, PatchMasker)
    assert isinstance(x, fx.Node)
    both = conv.replaced(rows=False, gathered=False, compact=False, map_size=(0, 0), masker=True, bias=True)
    row = (op.weight[0] - op.weight[1]).detach().view(1, -1, 1, 1)
    bias = conv.bias if conv.spec.bias else conv.weight.new_zeros(conv.spec.out_channels)
    shift = (op.bias[0] - op.bias[1]).detach().view(1)
    both.register_parameter("weight", nn.Parameter(torch.cat([conv.weight.detach(), row])))
    both.register_parameter("bias", nn.Parameter(torch.cat([bias.detach(), shift])))
    with program.graph.graph.inserting_before(masker):
        node = insert_op(program, f"{conv_node.name}_masker", both, (x,), block=block_of(masker))
    y, logits = elements(node, "map", "logits")
    scatter.replace_all_uses_with(y)
    key, spec = op.key, op.spec
    decision = PatchDecision(PatchDecisionSpec(key=key, granularity=spec.granularity, stride=spec.stride))
    made = types_of(masker)
    set_op(program, masker, decision, (logits,))
    masker.args = (logits, masks)
    assert types_of(masker) == made


PASS = FuseMaskerConv
