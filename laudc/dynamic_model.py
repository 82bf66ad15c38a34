"""The converted network: an nn.Module that trains, decides, and can be told what to decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from laudc.errors import InputError
from laudc.flops import BlockMacs, block_macs, dense_macs, static_macs
from laudc.ops._masker import Masker
from laudc.paradigms import PARADIGMS
from laudc.plan import Plan
from laudc.program import Program, input_type, program_for
from laudc.rates import MaskShape, executed_rates, stratified_masks


class DynamicModel(nn.Module):
    """What `laudc.transform` returns: dense and masked, differentiable, with the parameters of the static network
    under their own names (below `graph.`) and those of the maskers beside them. `load_state_dict` also takes the
    static network's state, its names as they are; with `strict=False`, since the maskers are missing there. What it
    reports as missing or unexpected has the names of here, `graph.` before them.

    Training mode samples straight-through Gumbel decisions at `temperature`; evaluation takes the larger logit. Of
    the last call: `decisions` (0 / 1, float32) and `probabilities` by masker, `rates`, `block_macs()`. With a plan
    that has a rate, random masks at that rate stand in for the maskers' decisions.
    """

    def __init__(self, program: Program, plan: Plan) -> None:
        super().__init__()
        self.graph = program.graph
        self.training = program.graph.training
        self.program = program
        self.plan = plan
        self._calls = 0
        self._size: tuple[int, ...] = input_type(program).shape[2:]
        self._decided: dict[str, tuple[Tensor, Tensor]] = {}
        self.register_load_state_dict_pre_hook(_take_static_names)  # type: ignore[no-untyped-call]  # torch's own

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits of the network for x (B, C, H, W). `masks` (by masker) replace the decisions of those maskers."""
        if x.shape[0] == 0:
            raise InputError("the batch is empty", "give one image at least")
        given = masks or {}
        if given or self.plan.rate is not None:
            shapes = mask_shapes(self._sized(x), self.plan)
            check_masks(given, shapes, x.shape[0])
            given = self._forced(shapes, x.shape[0]) | dict(given)
        self._size = x.shape[2:]
        out, self._decided = self.graph(x, dict(given) or None)
        return torch.as_tensor(out)

    def _sized(self, x: Tensor) -> Program:
        """The program typed for images of x's size."""
        known = input_type(self.program).shape
        return self.program if x.shape[2:] == known[2:] else program_for(self.program, (known[0], *x.shape[1:]))

    def _forced(self, shapes: tuple[MaskShape, ...], batch: int) -> dict[str, Tensor]:
        """Random masks at the plan's rate; none where it has no rate."""
        if self.plan.rate is None:
            return {}
        self._calls += 1
        return stratified_masks(shapes, batch=batch, rate=self.plan.rate, seed=self.plan.seed, call=self._calls - 1)

    @property
    def decisions(self) -> dict[str, Tensor]:
        """What the last call decided, by masker."""
        return {key: mask for key, (mask, _) in self._decided.items()}

    @property
    def probabilities(self) -> dict[str, Tensor]:
        """The maskers' soft keep probabilities in the last call."""
        return {key: torch.sigmoid(logits) for key, (_, logits) in self._decided.items()}

    @property
    def rates(self) -> dict[str, float]:
        """The share of units that were on in the last call, by masker."""
        return executed_rates(self.decisions)

    @property
    def temperature(self) -> float:
        """Of the Gumbel samples in training."""
        return next((module.temperature for module in self.modules() if isinstance(module, Masker)), 1.0)

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"the temperature {value!r} is not a number above 0", "LAUDNet goes from 5.0 to 0.1")
        for module in self.modules():
            if isinstance(module, Masker):
                module.temperature = value

    def extra_repr(self) -> str:
        """What is dynamic, and who decides: the first line of `print(model)`."""
        blocks = {decision.block for decision in self.plan.decisions}
        rate = "the maskers decide" if self.plan.rate is None else f"random masks at rate {self.plan.rate:g}"
        return f"{self.plan.paradigm}, {len(blocks)} of {len(self.program.blocks)} blocks dynamic, {rate}"

    def block_macs(self) -> tuple[BlockMacs, ...]:
        """Multiply-accumulates of the last call per block and sample; `executed` has a gradient."""
        known = input_type(self.program).shape
        sized = self.program if self._size == known[2:] else program_for(self.program, (*known[:2], *self._size))
        return block_macs(sized, self.decisions)

    def static_macs(self) -> float:
        """Multiply-accumulates per sample of the static network."""
        return static_macs(self.program)

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a dynamic model is not pickled", "write it with laudc.save(model, path), read it with laudc.load"
        )

    def __deepcopy__(self, memo: dict[int, object]) -> DynamicModel:
        import copy
        from dataclasses import replace

        program = self.program.clone()
        graph = copy.deepcopy(program.graph, memo)
        for node, original in zip(graph.graph.nodes, self.program.nodes, strict=True):
            node.meta = dict(original.meta)
        return DynamicModel(replace(program, graph=graph), self.plan)


def _take_static_names(model: nn.Module, state: dict[str, object], prefix: str, *_: object) -> None:
    """Before a state is loaded: what has the name it had in the static network gets the one it has here. A state that
    holds both keeps its dynamic one, and the static one is unexpected."""
    known = {prefix + name for name in model.state_dict()}
    for name in list(state):
        here = f"{prefix}graph.{name.removeprefix(prefix)}"
        if name.startswith(prefix) and name not in known and here in known and here not in state:
            state[here] = state.pop(name)


def mask_shapes(program: Program, plan: Plan) -> tuple[MaskShape, ...]:
    """Every masker's name, units and the multiply-accumulates of its block, per sample."""
    costs = dense_macs(program)
    return tuple(
        MaskShape(
            key=decision.key,
            units=PARADIGMS[decision.paradigm].units(block, decision.granularity),
            macs=costs[block.name],
        )
        for block in program.blocks
        for decision in plan.of(block.name)
    )


def check_masks(masks: Mapping[str, Tensor], shapes: tuple[MaskShape, ...], batch: int) -> None:
    """InputError where masks name no masker, do not have its shape, or hold something else than 0 and 1 (which is
    not looked at on a GPU: the host would have to wait for it)."""
    if not isinstance(masks, Mapping):
        raise InputError(f"the masks are a {type(masks).__name__}", "give a dict of tensors by masker")
    known = {shape.key: (batch, *shape.units) for shape in shapes}
    for key, mask in masks.items():
        if key not in known:
            raise InputError(f"there is no masker {key!r}", f"there are {', '.join(known)}")
        if not isinstance(mask, Tensor):
            raise InputError(f"the masks of {key!r} are a {type(mask).__name__}", "give a torch tensor")
        if tuple(mask.shape) != known[key]:
            raise InputError(f"the masks of {key!r} are {list(mask.shape)}", f"give {list(known[key])}")
        if mask.device.type == "cpu" and not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(
                f"the masks of {key!r} hold other numbers than 0 and 1", "give decisions, not probabilities"
            )


def example_shape(program: Program) -> tuple[int, ...]:
    """(B, C, H, W) that the program was captured with."""
    return input_type(program).shape
