"""The network without its masks: what a dynamic one has to beat."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from laudc.compiled import CompiledModel, build, lower
from laudc.passes.fold_batchnorm import FoldBatchnorm
from laudc.program import Program, in_evaluation


def static_program(program: Program) -> Program:
    """The network without its masks: every masked value is read as it was."""
    clone = program.clone()
    for node, op in list(clone.ops()):
        if op.spec.name in ("mask_rows", "mask_channels"):
            node.replace_all_uses_with(node.all_input_nodes[0])
    output = clone.graph.graph.output_node()
    if isinstance(output.args[0], tuple):
        output.args = (output.args[0][0],)
    image = next(iter(clone.nodes))
    for node in reversed(list(clone.nodes)):
        if node.op != "output" and not node.users and node is not image:
            clone.graph.graph.erase_node(node)
    return clone.finished()


def in_laudc(model: CompiledModel, progress: Callable[[int, int], None] | None = None) -> CompiledModel:
    """The static network compiled for the target, batch, size and data type of a dynamic one, with every fusion."""
    program = static_program(model.lowering.converted)
    lowering = lower(program, model.target, plan=None, shape=model.shape, dtype=model.dtype, without=())
    return CompiledModel(
        plan=None,
        target=model.target,
        dtype=model.dtype,
        without=(),
        lowering=lowering,
        binaries=build(lowering, progress),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class InTorch:
    """A network as torch runs it, in one memory format; called with (B, C, H, W) wherever and however it lies."""

    module: nn.Module
    memory_format: torch.memory_format
    dtype: torch.dtype
    device: str

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)
        return cast(Tensor, self.module(x))


def in_torch(program: Program, *, dtype: torch.dtype, device: str, folded: bool = True) -> dict[str, InTorch]:
    """The static network as torch runs it eagerly, by memory format; with its norms folded into the convolutions."""
    static = static_program(program)
    plain = in_evaluation(FoldBatchnorm().run(static) if folded else static, copy_weights=True).graph
    plain = plain.to(device=device, dtype=dtype)
    formats = {"torch": torch.contiguous_format, "torch, channels_last": torch.channels_last}
    return {
        name: InTorch(
            module=_formatted(copy.deepcopy(plain), memory_format),
            memory_format=memory_format,
            dtype=dtype,
            device=device,
        )
        for name, memory_format in formats.items()
    }


def _formatted(module: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    return module
