"""The network without its masks: what a dynamic one has to beat."""

from __future__ import annotations

import copy
from collections.abc import Callable
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


def in_torch(program: Program, *, dtype: torch.dtype, device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """The static network as torch runs it eagerly, norms folded, by memory format; each takes (B, C, H, W)."""
    plain = in_evaluation(FoldBatchnorm().run(static_program(program)), copy_weights=True).graph
    plain = plain.to(device=device, dtype=dtype)
    formats = {"torch": torch.contiguous_format, "torch, channels_last": torch.channels_last}
    return {name: _eager(copy.deepcopy(plain), memory_format) for name, memory_format in formats.items()}


def _eager(network: nn.Module, memory_format: torch.memory_format) -> Callable[[Tensor], Tensor]:
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    some = next(network.parameters())

    def run(x: Tensor) -> Tensor:
        return cast(Tensor, network(x.to(some.device, some.dtype).contiguous(memory_format=memory_format)))

    return run
