"""Compute the masker's logits while the block's first 1x1 convolution reads the same pixels.

    %m = patch_masker(%x)                              %c = conv2d(masker=True, ...)(%x)
    %g = gather(%x, %r)                        ->      %y, %l = %c
    %c = conv2d(gathered, compact)(%g, %r)             %m = patch_decision(%l)
    %y = scatter(%c, %r)

One pass over x instead of two, but the convolution runs before anything is decided, so it runs everywhere. Both
forms stay possible: this pass takes the fused one only where the latency model predicts that, at the expected rate on
the target, it takes no longer than the masker and the convolution of the needed rows. A masker that will read sums
(`keep_sums`) sees no map, and stays. Those that can hand means on to one another (`keep_means`) are weighed together:
one that is fused has none to hand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx, nn

from laudc.defaults import DEFAULT_RATE
from laudc.ops.add import Add
from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2d
from laudc.ops.gather import Gather
from laudc.ops.patch_decision import PatchDecision, PatchDecisionSpec
from laudc.ops.patch_masker import PatchMasker
from laudc.ops.scatter import Scatter
from laudc.passes.base import Pass
from laudc.passes.keep_means import has_kept_kernel, kept, touched_by
from laudc.passes.keep_sums import can_read_sums
from laudc.passes.update_in_place import leaves_rows_alone
from laudc.program import Program, block_of, elements, insert_op, set_op, type_of, types_of
from laudc.targets import TARGETS, Target
from laudc.types import TensorType

if TYPE_CHECKING:
    from laudc.latency.constants import Calibration
    from laudc.latency.kernel import Weighted
    from laudc.latency.search import CalibrationOf

_Parts = tuple[fx.Node, fx.Node]
_DENSE: Mapping[str, Any] = {
    "rows": False,
    "gathered": False,
    "compact": False,
    "map_size": (0, 0),
    "masker": True,
    "bias": True,
}
"""What changes in the specification of the convolution."""


@dataclass(frozen=True, kw_only=True)
class FuseMaskerConv(Pass):
    after = ("lower_masks",)
    optional = True

    target: Target = TARGETS["cpu"]
    expected_rate: float = DEFAULT_RATE
    calibration: Calibration | None = field(default=None, repr=False)
    """What the two forms are priced by; None: what the device has."""

    def run(self, program: Program) -> Program:
        from laudc.latency.network import lists_at
        from laudc.latency.search import calibrations

        found = {
            node: parts
            for node in program.nodes
            if (parts := _first_conv(program, node)) is not None and not can_read_sums(program, node, self.target)
        }
        if not found:
            return program
        calibration, cases = calibrations(self.calibration), lists_at(program, self.expected_rate)
        saved: dict[str, list[float]] = {}
        chain_of: dict[fx.Node, str] = {}
        for node, (conv, _) in found.items():
            before = self._means_from(program, node)
            chain_of[node] = chain_of.get(before, node.name) if before else node.name
            saving = self._saving(program, node, conv, calibration, cases(conv), keeps=before is not None)
            saved.setdefault(chain_of[node], []).append(saving)
        worth = {node.name for node in found if sum(saved[chain_of[node]]) >= 0}
        if not worth:
            return program
        clone = program.clone()
        for node in [node for node in clone.nodes if node.name in worth]:
            parts = _first_conv(clone, node)
            assert parts is not None
            _fuse(clone, node, *parts)
        return clone.finished()

    def _means_from(self, program: Program, masker: fx.Node) -> fx.Node | None:
        """The masker that would hand means on to this one, if neither is fused."""
        x = cast(fx.Node, masker.args[0])
        add = program.op(x)
        if not isinstance(add, Add) or not has_kept_kernel(program, masker, self.target):
            return None
        for scatter, former in permutations(x.all_input_nodes, 2):
            if isinstance(program.op(scatter), Scatter) and leaves_rows_alone(program, former, add.spec.activation):
                touched = touched_by(program, masker, rows=scatter.all_input_nodes[1], former=former)
                if touched is not None:
                    return touched.all_input_nodes[0]
        return None

    def _saving(
        self,
        program: Program,
        masker: fx.Node,
        conv_node: fx.Node,
        calibration: CalibrationOf,
        some: Weighted,
        *,
        keeps: bool,
    ) -> float:
        """Microseconds that the fused form takes less."""
        from laudc.latency.kernel import EVERYTHING, some_rows
        from laudc.latency.search import fastest_time

        conv, op = cast(Conv2d, program.op(conv_node)), cast(PatchMasker, program.op(masker))
        x, rows = type_of(masker.all_input_nodes[0]), type_of(conv_node.all_input_nodes[1])
        dense = replace(conv.spec, **_DENSE)
        listed = replace(conv.spec, gathered=False, map_size=(0, 0))

        def us(spec: Spec, *types: TensorType, cases: Weighted = EVERYTHING) -> float:
            batch = x.shape[0]
            return fastest_time(spec, types, self.target, batch=batch, calibration=calibration, cases=cases).total_us

        together = us(dense, x) + us(_decision(op), dense.results((x,))[1])
        deciding = us(op.spec, x)
        if keeps:
            touched, _, means = kept(op.spec, first=True).results((x,))
            changed = some_rows(self.expected_rate * touched.numel)
            deciding = us(kept(op.spec, first=False), x, touched, means, cases=changed)
        return deciding + us(listed, x, rows, cases=some) - together


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
    both = conv.replaced(**_DENSE)
    row = (op.weight[0] - op.weight[1]).detach().view(1, -1, 1, 1)
    bias = conv.bias if conv.spec.bias else conv.weight.new_zeros(conv.spec.out_channels)
    shift = (op.bias[0] - op.bias[1]).detach().view(1)
    both.register_parameter("weight", nn.Parameter(torch.cat([conv.weight.detach(), row])))
    both.register_parameter("bias", nn.Parameter(torch.cat([bias.detach(), shift])))
    with program.graph.graph.inserting_before(masker):
        node = insert_op(program, f"{conv_node.name}_masker", both, (x,), block=block_of(masker))
    y, logits = elements(node, "map", "logits")
    scatter.replace_all_uses_with(y)
    made = types_of(masker)
    set_op(program, masker, PatchDecision(_decision(op)), (logits,))
    masker.args = (logits, masks)
    assert types_of(masker) == made


def _decision(masker: PatchMasker) -> PatchDecisionSpec:
    spec = masker.spec
    return PatchDecisionSpec(key=masker.key, granularity=spec.granularity, stride=spec.stride)


PASS = FuseMaskerConv
