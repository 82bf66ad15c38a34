"""From a static network to a dynamic one: capture, find the blocks, plan, insert the maskers."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from laudc.capture import capture
from laudc.dynamic_model import DynamicModel
from laudc.errors import CaptureError, InputError
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import make_plan
from laudc.program import Program, types_of

DEFAULT_SIZE = 224
_MOST_KINDS = 3
_PLUMBING = ("getitem", "getattr", "size", "reshape", "transpose", "permute")


def read_blocks(model: nn.Module, example: Tensor | None = None, *, source: Mapping[str, str] | None = None) -> Program:
    """The captured program with its residual blocks. CaptureError if it has none that laudc understands."""
    program = FindBlocks().run(capture(model, example_for(model) if example is None else example, source=source))
    if not program.blocks:
        kinds = unknown_operations(program)
        if program.refusals and kinds:
            raise CaptureError(
                f"the blocks of {type(model).__name__} are of no kind that laudc knows: they hold {kinds}",
                "basic and bottleneck blocks of convolutions (ResNet, ResNeXt, MobileNetV2) are",
            )
        raise CaptureError(
            f"{type(model).__name__} has no residual block that laudc understands: {_why_none(program)}",
            "basic and bottleneck blocks (ResNet, ResNeXt, MobileNetV2) are; a pattern file adds another",
        )
    return program


def unknown_operations(program: Program) -> str:
    """The kinds of operation in it that laudc has none for, the most frequent first; empty where it has all."""
    counts = Counter(_kind(program, node) for node in program.nodes if not _is_known(program, node))
    kinds = sorted(counts, key=lambda kind: (kind in _PLUMBING, -counts[kind]))
    return ", ".join(kinds[:_MOST_KINDS]) + (", ..." if len(kinds) > _MOST_KINDS else "")


def _is_known(program: Program, node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return len(types_of(node.all_input_nodes[0])) > 1  # of several results
    return node.op in ("placeholder", "output", "get_attr") or program.op(node) is not None


def _kind(program: Program, node: fx.Node) -> str:
    shapes = [types_of(operand)[0].shape for operand in node.all_input_nodes if types_of(operand)]
    if node.target in (operator.mul, torch.mul, "mul") and len({shape[2:] for shape in shapes} - {(1, 1)}) == 1:
        return "squeeze-and-excitation" if any(shape[2:] == (1, 1) for shape in shapes) else "mul"
    what: object = node.target
    if node.op == "call_module":
        what = type(program.graph.get_submodule(str(what)))
    return str(getattr(what, "__name__", what))


def _why_none(program: Program) -> str:
    if not program.refusals:
        return "it adds no value to an earlier one"
    kinds = Counter(re.sub(r"%\w+", "%", refusal.reason) for refusal in program.refusals)
    usual, count = kinds.most_common(1)[0]
    one = next(refusal for refusal in program.refusals if re.sub(r"%\w+", "%", refusal.reason) == usual)
    return f"at %{one.where}, {one.reason}" + (
        f" (so it is at {count} of {kinds.total()} additions)" if count > 1 else ""
    )


def convert(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    paradigm: str = "spatial",
    granularity: str | None = None,
    rate: float | None = None,
    keep_first: bool = False,
    target: str | None = None,
    seed: int = 0,
    source: Mapping[str, str] | None = None,
) -> DynamicModel:
    """The trainable dynamic network. Its mode (train or eval) is the model's."""
    program = read_blocks(model, example, source=source)
    plan = make_plan(
        program.blocks,
        paradigm=paradigm,
        granularity=granularity,
        rate=rate,
        keep_first=keep_first,
        target=target,
        seed=seed,
    )
    return DynamicModel(InsertMaskers(plan=plan).run(program), plan)


def example_for(model: nn.Module) -> Tensor:
    """A 224 x 224 image with as many channels as the model's first convolution reads."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise InputError(
            f"{type(model).__name__} has no torch.nn.Conv2d to tell what it reads",
            "add one, or give transform an example (in Python example_inputs=...)",
        )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, first.in_channels, DEFAULT_SIZE, DEFAULT_SIZE, generator=generator)
