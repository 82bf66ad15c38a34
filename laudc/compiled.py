"""The compiled network: a callable on torch tensors whose skipped work is really skipped."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from laudc import pipeline
from laudc.defaults import DEFAULT_RATE
from laudc.dynamic_model import check_masks, mask_shapes
from laudc.errors import InputError, ToolchainError
from laudc.kernels.build import Binary, build_all
from laudc.kernels.executable import Executable, make_executable
from laudc.kernels.kernel import Kernel, Tile
from laudc.kernels.run import Runner
from laudc.latency.constants import Calibration, device_identity
from laudc.latency.machine import here
from laudc.latency.tuned import tuned_for
from laudc.passes import Pass
from laudc.passes.bind_kernels import BindKernels
from laudc.plan import Plan
from laudc.program import Program, in_evaluation, input_type, program_for, types_of
from laudc.rates import MaskShape, executed_rates, stratified_masks
from laudc.targets import Target
from laudc.types import in_memory

_MOST_ELEMENTS = 2**31
_LARGEST_BATCH = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """A converted program made ready for one target, batch, size and data type."""

    converted: Program
    """Dense and masked, typed for this batch and size."""
    lowered: Program
    """What the kernels compute, kernels bound."""
    steps: tuple[pipeline.Step, ...]
    executable: Executable


def lower(
    converted: Program,
    target: Target,
    *,
    plan: Plan | None,
    shape: tuple[int, ...],
    dtype: str,
    without: Sequence[str],
    preferred: Mapping[str, Tile] | None = None,
    calibration: Calibration | None = None,
) -> Lowering:
    """Run the passes and bind the kernels: by the calibration that is given, and no more; else by what is known of the
    device, its calibration and the tiles that were timed on it.

    BuildError where something has no kernel.
    """
    frozen = in_evaluation(program_for(converted, shape), copy_weights=True)
    typed = program_for(frozen, shape, dtype=in_memory(dtype))
    _refuse_too_large(typed)
    bind = BindKernels(
        target=target,
        preferred=preferred or {},
        tuned=tuned_for(here(target)) if calibration is None else None,
        calibration=calibration,
        expected_rate=_expected_rate(plan),
    )
    passes = (*passes_for(target, plan, without, dtype=dtype, calibration=calibration), bind)
    lowered, steps = pipeline.run(typed, passes)
    return Lowering(converted=frozen, lowered=lowered, steps=steps, executable=make_executable(lowered))


def build(lowering: Lowering, progress: Callable[[int, int], None] | None = None) -> dict[str, Binary]:
    """The kernels' binaries by key; `progress` hears how many are ready, of how many."""
    kernels = [step.kernel for step in lowering.executable.steps]
    total, ready = len({kernel.key for kernel in kernels}), 0

    def one_more(_: Kernel) -> None:
        nonlocal ready
        ready += 1
        if progress:
            progress(ready, total)

    return build_all(kernels, built=one_more)


def passes_for(
    target: Target,
    plan: Plan | None,
    without: Sequence[str],
    *,
    dtype: str = "float32",
    calibration: Calibration | None = None,
) -> tuple[Pass, ...]:
    """The passes that lower a network for a target and data type, for the rate that its plan expects."""
    options = {"target": target, "dtype": dtype, "calibration": calibration, "expected_rate": _expected_rate(plan)}
    return pipeline.lowering(options, without=without)


def _expected_rate(plan: Plan | None) -> float:
    return DEFAULT_RATE if plan is None else plan.expected_rate


def _refuse_too_large(program: Program) -> None:
    """Kernels count elements in 32 bits."""
    largest = max((type_.numel for node in program.nodes for type_ in types_of(node)), default=0)
    batch = input_type(program).shape[0]
    if largest >= _MOST_ELEMENTS or batch > _LARGEST_BATCH:
        fits = min(_LARGEST_BATCH, (_MOST_ELEMENTS - 1) * batch // largest)
        step = f"compile for a batch of at most {fits}" if fits else "choose a smaller size"
        raise InputError(f"at batch {batch} a map has {largest} elements", step)


@dataclass(kw_only=True)
class CompiledModel:
    """Runs on `target` for inputs of exactly `shape`. Of the last call: `rates`, `decisions`, `logits`.

    One instance serves one caller at a time for those three; the calls themselves may come from any thread.
    """

    plan: Plan | None
    """None for a static network."""
    target: Target
    dtype: str
    without: tuple[str, ...]
    lowering: Lowering = field(repr=False)
    binaries: dict[str, Binary] = field(repr=False)
    _runner: Runner | None = field(default=None, repr=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)
    """Of the calls whose masks are forced; taking one is atomic."""
    _decided: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W) of the input."""
        return input_type(self.lowering.converted).shape

    def __call__(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, *, out: Tensor | None = None) -> Tensor:
        """The network's output for x, a fresh tensor of x's data type, or written to `out`.

        x: float32, or what the network computes in, on the target's device, of `shape`; any strides; it is only
        read. `masks`, by masker, replace the decisions of those maskers. InputError for anything else; on a GPU the
        values themselves (NaN in x, numbers other than 0 and 1 in masks) are not looked at, since the host would
        have to wait for them.
        """
        if self.target.kind == "cuda":
            check_gpu(self.target)
        self._check(x)
        given = masks or {}
        if self.plan is not None:
            check_masks(given, self.mask_shapes, x.shape[0])
            if self.plan.rate is not None and len(given) < len(self.mask_shapes):
                number = next(self._numbers)
                forced = stratified_masks(
                    self.mask_shapes, batch=x.shape[0], rate=self.plan.rate, seed=self.plan.seed, call=number
                )
                given = forced | dict(given)
        elif given:
            raise InputError("masks were given to a static network", "compile a converted one")
        result, self._decided = self.runner(x.detach(), given)
        result = result.to(x.dtype)
        if out is None:
            return result
        if out.requires_grad:
            raise InputError("out requires a gradient", "give a plain tensor; compiled networks are not trained")
        if out.shape != result.shape or out.device != result.device or not out.is_floating_point():
            raise InputError(
                f"out is {list(out.shape)} on {out.device}, the result {list(result.shape)} on {result.device}",
                "give a tensor like the result",
            )
        return out.copy_(result)

    def _check(self, x: object) -> None:
        if not isinstance(x, Tensor):
            raise InputError(f"the input is a {type(x).__name__}", "give a torch tensor")
        if x.layout is not torch.strided or x.is_neg():
            raise InputError("the input is no plain tensor", "give x.to_dense().resolve_neg()")
        if tuple(x.shape) != self.shape:
            raise InputError(
                f"the input is {list(x.shape)}, compiled for {list(self.shape)}", _step_to(self.shape, tuple(x.shape))
            )
        kind = in_memory(self.dtype)
        if x.dtype not in (torch.float32, getattr(torch, kind)):
            found = str(x.dtype).removeprefix("torch.")
            raise InputError(
                f"the input is {found}, compiled for {self.dtype}", f"convert it, such as x.to(torch.{kind})"
            )
        if x.device.type != self.target.kind:
            raise InputError(
                f"the input is on {x.device.type}, compiled for {self.target.kind}",
                f"move it with x.to({self.target.kind!r})",
            )
        if x.device.type == "cpu" and not np.isfinite(x.detach().numpy()).all():  # torch's threads would spin on
            raise InputError("the input holds NaN or infinity", "check how the image was read and normalized")

    @cached_property
    def mask_shapes(self) -> tuple[MaskShape, ...]:
        """What masks may be given; none for a static network."""
        return () if self.plan is None else mask_shapes(self.lowering.converted, self.plan)

    @property
    def runner(self) -> Runner:
        """The network on its device; loaded when it is first needed."""
        with self._loading:
            if self._runner is None:
                self._runner = Runner(self.lowering.executable, self.binaries, device=self.target.kind)
            return self._runner

    @property
    def decisions(self) -> dict[str, Tensor]:
        """What the last call obeyed, by masker: 0 / 1, float32."""
        return {key: mask for key, (mask, _) in self._decided.items()}

    @property
    def logits(self) -> dict[str, Tensor]:
        """The maskers' own keep logits in the last call (also where other decisions were obeyed)."""
        return {key: logits for key, (_, logits) in self._decided.items()}

    @property
    def rates(self) -> dict[str, float]:
        """The share of units that were on in the last call, by masker."""
        return executed_rates(self.decisions)

    @property
    def missing(self) -> tuple[str, ...]:
        """Notes on kernels that could not be turned into machine code here."""
        return tuple(sorted({binary.note for binary in self.binaries.values() if binary.note}))


def _step_to(shape: tuple[int, ...], given: tuple[int, ...]) -> str:
    """What to do with an input of another shape. Buffers, and lists within them, are laid out for one batch."""
    batch = shape[0]
    if given[1:] != shape[1:] or given[0] == 0:
        return "compile it again for that batch and size"
    fit = "fill it up to" if given[0] < batch else "split it into batches of"
    return f"{fit} {batch}, or compile it again with batch={given[0]}"


def check_planned_for(plan: Plan | None, target: Target, *, batch: int, size: tuple[int, ...], dtype: str) -> None:
    """PlanError, saying what differs, where a plan that binds was made for something else."""
    if plan is not None and plan.made_for is not None:
        plan.made_for.refuse(
            target_hash=device_identity(here(target)), target=target.name, batch=batch, size=size, dtype=dtype
        )


def check_gpu(target: Target) -> None:
    """ToolchainError unless a CUDA device of the target's architecture is here."""
    if not torch.cuda.is_available():
        raise ToolchainError(
            f"no CUDA device is here to run what was compiled for {target.name}", "run it there, or compile for cpu"
        )
    major, minor = torch.cuda.get_device_capability()
    if major * 10 + minor != target.capability:
        found = torch.cuda.get_device_name()
        raise ToolchainError(
            f"this is a {found} (sm_{major}{minor}), compiled for {target.arch}", "compile it for this device"
        )
