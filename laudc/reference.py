"""What a kernel should have made of what it got: its operation's plain torch reference, and how far it is from that."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laudc.compare import relative_error
from laudc.ops._masker import Masker
from laudc.ops.base import Op
from laudc.ops.conv2d import Conv2d
from laudc.tf32 import rounded
from laudc.types import TF32

BARS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2, "tf32": 2e-3}
"""The largest `kernel_error` of a kernel that is right, by the network's type. bfloat16 keeps 8 bits of a number where
float16 keeps 11: it rounds 8 times as coarsely. tf32 keeps as many as float16, of what it multiplies."""


def expected_results(
    op: Op, operands: tuple[Tensor, ...], *, dtype: str, given: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The reference's own, in float32, from operands on the CPU in their logical shapes.

    given: the decisions that a masker was to make.
    """
    reference = _reference(op, dtype)
    values = [value.float() if value.is_floating_point() else value for value in operands]
    forced = ({op.key: given},) if isinstance(op, Masker) and given is not None else ()
    made = reference(*values, *forced)
    return made if isinstance(made, tuple) else (made,)


def kernel_error(
    op: Op,
    operands: tuple[Tensor, ...],
    results: tuple[Tensor, ...],
    expected: tuple[Tensor, ...],
    given: Tensor | None = None,
) -> float:
    """The largest difference over the largest magnitude, of what the operation defines; infinite where it is wrong in
    kind.

    given: the decisions that a masker was to make.
    """
    compared = list(zip(results, expected, strict=True))
    if isinstance(op, Masker):
        mask, logits = results[op.first : op.first + 2]
        if not torch.equal(mask, (logits >= 0).float() if given is None else given):
            return math.inf
        if given is None and not torch.equal(mask, expected[op.first]):
            compared = compared[op.first + 1 : op.first + 2]  # its decisions may differ by rounding; the logits may not
    return max(_defined_error(op, found, want, operands) for found, want in compared)


def _reference(op: Op, dtype: str) -> Op:
    """The op with the weights that the kernels multiply by: rounded, in a network of less precision."""
    plain = op.replaced()
    if dtype != "float32" and (isinstance(op, Conv2d) or not isinstance(op, Masker)):
        for name in (name for name in op.spec.weights() if name.endswith("weight")):
            weight = getattr(op, name).detach()
            near = rounded(weight) if dtype == TF32 else weight.to(getattr(torch, dtype)).float()
            plain.register_parameter(name, torch.nn.Parameter(near))
    return plain


def _defined_error(op: Op, found: Tensor, expected: Tensor, operands: tuple[Tensor, ...]) -> float:
    """Compares what the operation defines: NaN in the reference marks what nobody may read."""
    if op.spec.name in ("row_list", "patch_rows"):
        batch = operands[0].shape[0]
        used = batch + 1 + int(expected[batch])
        return 0.0 if torch.equal(found[:used], expected[:used]) else math.inf
    if expected.dtype == torch.int32:  # channel lists, or a list of samples
        counted, wanted = (values.view(-1, values.shape[-1]) for values in (found, expected))
        ahead = torch.arange(wanted.shape[1] - 1) < wanted[:, :1]
        listed = torch.cat([torch.ones_like(ahead[:, :1]), ahead], 1)
        return 0.0 if torch.equal(counted[listed], wanted[listed]) else math.inf
    defined = ~torch.isnan(expected) if expected.is_floating_point() else torch.ones_like(expected, dtype=torch.bool)
    return relative_error(found[defined].float(), expected[defined].float())
