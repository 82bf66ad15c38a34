"""From a static network to a dynamic one: capture, find the blocks, plan, insert the maskers."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from laudc.capture import capture
from laudc.defaults import AUTO, DEFAULT_PARADIGM, DEFAULT_RATE
from laudc.dynamic_model import DynamicModel
from laudc.errors import CaptureError, InputError, PlanError
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import Plan, check_rate, first_kept, make_plan, parse_granularity, parse_paradigms
from laudc.plan_file import PlanFile, check_fits
from laudc.program import Program, input_type, types_of
from laudc.targets import Target

DEFAULT_SIZE = (224, 224)
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
    paradigm: str | None = None,
    granularity: str | None = None,
    rate: float | None = None,
    keep_first: bool = False,
    target: Target | None = None,
    batch: int | None = None,
    seed: int = 0,
    source: Mapping[str, str] | None = None,
    chosen: PlanFile | None = None,
) -> DynamicModel:
    """The trainable dynamic network. Its mode (train or eval) is the model's.

    The decisions are those of `chosen`; or of the given granularity; or they are planned by predicted latency, for
    the target that is named, with its batch (by default the example's) and at the rate, where a block may stay static;
    or for this machine, to hold for any.
    """
    settled = settled_paradigm(paradigm=paradigm, granularity=granularity, target=target, batch=batch, chosen=chosen)
    if example is None:
        example = example_for(model, DEFAULT_SIZE if chosen is None else chosen.basis.size)
    program = read_blocks(model, example, source=source)
    if chosen is not None:
        check_fits(chosen, program)
        if not any(chosen.blocks.values()):
            raise PlanError("the plan leaves every block static", "plan for another target, rate or batch")
        plan = chosen.plan(seed=seed, rate=rate)
    elif granularity is not None or not _has_choice(program, settled, target):
        plan = make_plan(
            program.blocks,
            paradigm=settled,
            granularity=granularity,
            rate=rate,
            target=None if target is None else target.name,
            seed=seed,
        )
    else:
        plan = _planned(program, settled, target, batch=batch, rate=rate, seed=seed)
    if keep_first:
        plan = first_kept(plan, program.blocks)
    return DynamicModel(InsertMaskers(plan=plan).run(program), plan)


def settled_paradigm(
    *, paradigm: str | None, granularity: str | None, target: object, batch: int | None, chosen: PlanFile | None
) -> str:
    """What the options, or the plan in their place, name or imply. InputError where they contradict each other."""
    if chosen is not None:
        if any(option is not None for option in (paradigm, granularity, target, batch)):
            raise InputError(
                "a plan says paradigm, granularity, target and batch", "leave those options out beside the plan"
            )
        return chosen.basis.paradigm
    if batch is not None and (target is None or granularity is not None):
        raise InputError(
            "a batch is planned for only on a named target, without a granularity",
            "name a target, or leave the batch out and give it to compile",
        )
    settled = paradigm
    if settled is None:
        settled = AUTO if target is not None and granularity is None else DEFAULT_PARADIGM
    if settled != AUTO:
        parse_granularity(granularity, parse_paradigms(settled))
    elif granularity is not None:
        raise InputError("auto chooses the granularity too", "leave the granularity out, or name a paradigm")
    return settled


def _has_choice(program: Program, paradigm: str, target: Target | None) -> bool:
    """Whether there is anything to plan: a granularity, a paradigm, or blocks that may stay static."""
    if target is not None or paradigm == AUTO:
        return True
    if unknown_operations(program):  # it can be trained, but not compiled, and so not priced
        return False
    return any(way.takes_granularity for way in parse_paradigms(paradigm).values())


def _planned(
    program: Program,
    paradigm: str,
    target: Target | None,
    *,
    batch: int | None,
    rate: float | None,
    seed: int,
) -> Plan:
    from laudc.latency.machine import here, local_target
    from laudc.latency.planner import Search, planned

    if rate is not None:
        check_rate(rate)
    device = local_target() if target is None else here(target)
    search = Search.of(
        program,
        device,
        batch=batch or input_type(program).shape[0],
        rate=DEFAULT_RATE if rate is None or target is None else rate,
        paradigm=paradigm,
    )
    return planned(program, search, binding=target is not None, seed=seed, rate=rate)


def example_for(model: nn.Module, size: tuple[int, int] = DEFAULT_SIZE) -> Tensor:
    """An image of that size with as many channels as the model's first convolution reads."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise InputError(
            f"{type(model).__name__} has no torch.nn.Conv2d to tell what it reads",
            "add one, or give transform an example (in Python example_inputs=...)",
        )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, first.in_channels, *size, generator=generator)
