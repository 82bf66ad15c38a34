"""From a static network to a dynamic one: capture, find the blocks, plan, insert the maskers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from laudc.capture import capture
from laudc.dynamic_model import DynamicModel
from laudc.errors import CaptureError, InputError
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.plan import make_plan
from laudc.program import Program

DEFAULT_SIZE = 224


def read_blocks(model: nn.Module, example: Tensor | None = None, *, source: Mapping[str, str] | None = None) -> Program:
    """The captured program with its residual blocks. CaptureError if it has none that laudc understands."""
    program = FindBlocks().run(capture(model, example_for(model) if example is None else example, source=source))
    if not program.blocks:
        why = f": %{program.refusals[0].where}: {program.refusals[0].reason}" if program.refusals else ""
        raise CaptureError(
            f"{type(model).__name__} has no residual block that laudc understands{why}",
            "choose a network with residual blocks, such as resnet50",
        )
    return program


def convert(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    paradigm: str = "spatial",
    granularity: str | None = None,
    rate: float | None = None,
    keep_first: bool = False,
    seed: int = 0,
    source: Mapping[str, str] | None = None,
) -> DynamicModel:
    """The trainable dynamic network. Its mode (train or eval) is the model's."""
    program = read_blocks(model, example, source=source)
    plan = make_plan(
        program.blocks, paradigm=paradigm, granularity=granularity, rate=rate, keep_first=keep_first, seed=seed
    )
    return DynamicModel(InsertMaskers(plan=plan).run(program), plan)


def example_for(model: nn.Module) -> Tensor:
    """A 224 x 224 image with as many channels as the model's first convolution reads."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no convolution to tell what it reads", "pass example_inputs")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, first.in_channels, DEFAULT_SIZE, DEFAULT_SIZE, generator=generator)
