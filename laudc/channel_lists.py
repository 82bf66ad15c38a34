"""Whether the channels that a mask drops can be left out: asked by the pass that lists them, and by the count of what
ran.

Both sides of every masked value must be convolutions that can do without the dropped channels, each value read once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from laudc.ops.conv2d import Conv2d, Conv2dSpec
from laudc.ops.mask_channels import MaskChannels
from laudc.program import Program


def refuse_channel_lists(program: Program, masked: Sequence[fx.Node], writers: Sequence[fx.Node]) -> str | None:
    """Why all uses of one mask run dense, or None. `writers` has what computes each masked value."""
    readers = [next(iter(value.users)) for value in masked]
    for value, writer in zip(masked, writers, strict=True):
        if len(value.users) != 1 or len(writer.users) != 1:
            return f"%{value.name} is read more than once"
    group = mask_group(program, masked[0])
    for node in dict.fromkeys([*writers, *readers]):
        conv = program.op(node)
        if not isinstance(conv, Conv2d):
            return f"%{node.name} is no convolution"
        reason = _refuse_groups(conv.spec, group, both=node in writers and node in readers)
        if reason is not None:
            return f"%{node.name}: {reason}"
        if node in readers and conv.spec.prologue is not None:
            return f"%{node.name} norms or activates what is masked: a dropped channel would be no zero"
    return None


def mask_group(program: Program, masked: fx.Node) -> int:
    """How many adjacent channels one decision is about."""
    op = program.op(masked)
    assert isinstance(op, MaskChannels)
    return op.spec.group


def _refuse_groups(spec: Conv2dSpec, group: int, *, both: bool) -> str | None:
    """A grouped convolution keeps or drops whole groups, or runs dense on zeros."""
    if spec.groups == 1:
        return None
    width = spec.in_channels // spec.groups
    if not both:
        return "a grouped convolution at the edge of the masked width"
    if spec.out_channels != spec.in_channels or group % width:
        return f"{group} channels a decision are not whole groups of {width}"
    return None
