"""The equality ladder: the same numbers, with the work skipped, shown step by step.

    1  static      all masks one == the static network
    2  pass        before == after, for each pass
    3  lowered     dense and masked == the lowered reference, given the same decisions
    4  kernel      each kernel == its reference, on what it really gets
    5  compiled    the compiled network == dense and masked, given the same decisions
    6  decisions   its own decisions == the reference's, but for logits nearer to zero than rounding
    7  file        what is loaded from a file == what was written to it

Rungs 1 to 3 need no kernels. The first that fails is the last one returned. A value that is not finite fails.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from laudc import pipeline
from laudc.compare import relative_error
from laudc.compiled import CompiledModel, passes_for
from laudc.dynamic_model import DynamicModel, mask_shapes
from laudc.errors import EqualityError, InputError
from laudc.kernels.executable import Step
from laudc.passes import Pass
from laudc.plan import Plan
from laudc.program import Program, in_evaluation, input_type, program_for
from laudc.rates import stratified_masks
from laudc.reference import BARS, expected_results, kernel_error
from laudc.static_network import static_program
from laudc.tf32 import torch_multiplies_as
from laudc.types import in_memory

_NETWORK_BAR = 1e-4
_MARGIN = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1, "tf32": 5e-2}
"""A decision may differ where the logit is nearer to zero than this share of the largest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One comparison. `error` is the largest difference over the largest magnitude of what was expected."""

    name: str
    where: str
    error: float
    bar: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.bar


Progress = Callable[[Rung], None]


def climb(
    model: DynamicModel | CompiledModel,
    *,
    rates: Sequence[float] = (0.0, 0.1, 0.5, 1.0),
    batch: int | None = None,
    progress: Progress | None = None,
) -> tuple[Rung, ...]:
    """The rungs up to the first that fails. Random images and masks, seeded; a different mask for every sample."""
    rungs = []
    with torch.no_grad():
        for rung in _rungs(model, rates, batch):
            rungs.append(rung)
            if progress:
                progress(rung)
            if not rung.passed:
                break
    return tuple(rungs)


def require(rungs: Sequence[Rung]) -> None:
    """EqualityError naming the first rung that failed."""
    for rung in rungs:
        if not rung.passed:
            raise EqualityError(
                f"the rung {rung.name!r} fails at {rung.where}: error {rung.error:.1e}, allowed {rung.bar:.1e}",
                "report it with this file; do not use the network",
            )


def _rungs(model: DynamicModel | CompiledModel, rates: Sequence[float], batch: int | None) -> Iterator[Rung]:
    if isinstance(model, CompiledModel):
        if batch not in (None, model.shape[0]):
            raise InputError(f"the network was compiled for batch {model.shape[0]}", "verify it at that batch")
        program, plan = model.lowering.converted, model.plan
        passes = passes_for(model.target, plan, model.without, dtype=model.dtype)
    else:
        shape = input_type(model.program).shape
        program, plan = program_for(model.program, (batch or 2, *shape[1:])), model.plan
        passes = pipeline.lowering()
    program = in_evaluation(program)
    image = torch.randn(input_type(program).shape, generator=torch.Generator().manual_seed(1))
    if plan is not None:
        yield _static(program, plan, image)
    masks_by_rate = {rate: _masks(program, plan, rate) for rate in (rates if plan is not None else rates[:1])}
    for rate, masks in masks_by_rate.items():
        yield from _lowering(program, image, masks, rate, passes)
    if isinstance(model, CompiledModel):
        for rate, masks in masks_by_rate.items():
            yield from _kernels(model, image, masks, rate)
            yield _compiled(model, program, image, masks, rate)
        yield from _decisions(model, program, image)
        yield _file(model, image, masks_by_rate[rates[-1] if plan is not None else rates[0]])


def _masks(program: Program, plan: Plan | None, rate: float) -> dict[str, Tensor]:
    if plan is None:
        return {}
    shapes = mask_shapes(program, plan)
    return stratified_masks(shapes, batch=input_type(program).shape[0], rate=rate, seed=7)


# ---- 1 to 3: on the reference


def _static(program: Program, plan: Plan, image: Tensor) -> Rung:
    ones = _masks(program, plan, 1.0)
    error = relative_error(program(image, ones)[0], static_program(program)(image)[0])
    return Rung(name="static", where="whole network, all masks one", error=error, bar=_NETWORK_BAR)


def _lowering(
    program: Program, image: Tensor, masks: Mapping[str, Tensor], rate: float, passes: Sequence[Pass]
) -> Iterator[Rung]:
    expected = program(image, masks)[0]
    found: list[Rung] = []

    def compare(rewrite: Pass, before: Program, after: Program) -> None:
        if after is not before:
            error = relative_error(after(image, masks)[0], expected)
            found.append(Rung(name="pass", where=f"{rewrite.name} at rate {rate:g}", error=error, bar=_NETWORK_BAR))

    lowered, _ = pipeline.run(program, passes, watch=compare)
    yield from found
    error = relative_error(lowered(image, masks)[0], expected)
    yield Rung(name="lowered", where=f"whole network at rate {rate:g}", error=error, bar=_NETWORK_BAR)


# ---- 4 to 7: on the kernels


def _kernels(model: CompiledModel, image: Tensor, masks: Mapping[str, Tensor], rate: float) -> Iterator[Rung]:
    """The worst kernel of every operation, each step on the operands it gets in a real run."""
    worst: dict[str, Rung] = {}
    bar = BARS[model.dtype]

    def compare(step: Step, operands: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> None:
        given = masks.get(step.masker)
        expected = expected_results(step.op, operands, dtype=model.dtype, given=given)
        error = kernel_error(step.op, operands, results, expected, given)
        where = f"{step.kernel.symbol} for %{step.name} ({step.block or 'outside the blocks'}) at rate {rate:g}"
        rung = Rung(name="kernel", where=where, error=error, bar=bar)
        held = worst.get(step.op.spec.name)
        if held is None or error > held.error:
            worst[step.op.spec.name] = rung

    model.runner.trace(image.to(model.target.kind), masks, compare)
    yield from worst.values()


def _compiled(model: CompiledModel, program: Program, image: Tensor, masks: Mapping[str, Tensor], rate: float) -> Rung:
    expected = program(image, masks)[0]
    model.runner.poison()
    found = _call(model, image, masks)
    error, bar, note = relative_error(found, expected), _NETWORK_BAR, ""
    if model.dtype != "float32":
        theirs = _torchs_error(model, program, image, masks, expected)
        bar = max(BARS[model.dtype], 1.5 * theirs)
        note = f"torch's own {model.dtype}: {theirs:.1e}"
    return Rung(name="compiled", where=f"whole network at rate {rate:g}", error=error, bar=bar, note=note)


def _call(model: CompiledModel, image: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    return model(image.to(model.target.kind), masks or None).float().cpu()


def _torchs_error(
    model: CompiledModel, program: Program, image: Tensor, masks: Mapping[str, Tensor], expected: Tensor
) -> float:
    """What torch loses on the same network in the same type, on the same device."""
    import copy

    dtype = getattr(torch, in_memory(model.dtype))
    graph = copy.deepcopy(program.graph).to(model.target.kind, dtype)
    device = {key: mask.to(model.target.kind) for key, mask in masks.items()}
    x = image.to(model.target.kind, dtype)
    with torch_multiplies_as(model.dtype):
        out = graph(x, device) if masks else graph(x)
    found = out[0] if isinstance(out, tuple) else out
    return relative_error(found.float().cpu(), expected)


def _decisions(model: CompiledModel, program: Program, image: Tensor) -> Iterator[Rung]:
    """The maskers' own decisions, also where a plan's rate would force others."""
    if model.plan is None:
        return
    _, decided = program(image, None)
    _, found = model.runner(image.to(model.target.kind), {})
    for key, (mask, logits) in decided.items():
        flipped = found[key][0].cpu() != mask
        margin = _MARGIN[model.dtype] * float(logits.abs().max().clamp_min(1e-12))
        far = float(logits[flipped].abs().max()) if bool(flipped.any()) else 0.0
        note = f"{int(flipped.sum())} of {flipped.numel()} flipped"
        yield Rung(name="decisions", where=key, error=far, bar=margin, note=note)
        if bool(flipped.any()):
            break  # what follows saw other values


def _file(model: CompiledModel, image: Tensor, masks: Mapping[str, Tensor]) -> Rung:
    from laudc.artifact import read, save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.laud"
        save(path, model)
        loaded = read(path).model(trust=model.target.kind == "cuda")
    assert isinstance(loaded, CompiledModel)
    error = relative_error(_call(loaded, image, masks), _call(model, image, masks))
    return Rung(name="file", where="written, loaded and run", error=error, bar=0.0)
