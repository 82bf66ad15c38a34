"""The public functions: transform, compile, save, load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType

from torch import Tensor, nn

from laudc.compiled import CompiledModel, build, check_planned_for, lower
from laudc.convert import convert, example_for
from laudc.dynamic_model import DynamicModel, example_shape
from laudc.errors import InputError
from laudc.plan import Plan, check_seed
from laudc.plan_file import read_plan
from laudc.program import Program
from laudc.targets import Target, load_target


def transform(
    model: nn.Module,
    example_inputs: Tensor | None = None,
    *,
    paradigm: str | None = None,
    granularity: str | None = None,
    rate: float | None = None,
    keep_first: bool = False,
    target: str | None = None,
    batch: int | None = None,
    plan: str | Path | None = None,
    seed: int = 0,
) -> DynamicModel:
    """A trainable dynamic copy of a static network; the network itself is not touched.

    example_inputs: float32 (B, C, H, W); by default one 224 x 224 image, or one of the plan's size. paradigm:
    "spatial", "layer", "channel", or several joined by "+", or "auto"; by default "spatial", and "auto" where a target
    is named. granularity: see `laudc.plan`; by default planned by predicted latency, for this machine. rate: random
    masks at that rate stand in for the maskers (1.0: everything on); a target is planned for at that rate. keep_first:
    the first block of each stage stays static. target: the device to plan for, by name or path; blocks that
    are predicted not to gain there stay static, and `compile` takes no other target, batch or size. batch: to plan the
    target for, by default that of the example. plan: a file that `laudc plan` wrote, to obey in place of paradigm,
    granularity, target and batch. seed: of the maskers' weights and the random masks.

    Raises CaptureError (cannot be traced, no residual block), InputError (a bad option), PlanError (nothing gains, or
    the plan is for another network).
    """
    _refuse_other(model, nn.Module, "model", "a torch.nn.Module")
    if isinstance(model, DynamicModel):
        raise InputError("the model is dynamic already", "transform the static network")
    _refuse_other(paradigm, str | None, "paradigm", "a text, such as 'spatial+channel'")
    _refuse_other(granularity, str | None, "granularity", "a text, such as '4-4-2-1'")
    _refuse_other(example_inputs, Tensor | None, "example input", "one tensor (B, C, H, W)")
    _refuse_other(target, str | None, "target", "the name of a target, or the path of its file")
    _refuse_other(plan, str | Path | None, "plan", "the path of a file that `laudc plan` wrote")
    _refuse_other(keep_first, bool, "keep_first", "True or False")
    if batch is not None:
        _refuse_batch(batch)
    check_seed(seed)
    return convert(
        model,
        example_inputs,
        paradigm=paradigm,
        granularity=granularity,
        rate=rate,
        keep_first=keep_first,
        target=None if target is None else load_target(target),
        batch=batch,
        seed=seed,
        chosen=None if plan is None else read_plan(Path(plan)),
    )


def compile(
    model: nn.Module | str | Path,
    target: str | Target = "cpu",
    batch: int = 1,
    *,
    size: tuple[int, int] | None = None,
    dtype: str | None = None,
    without: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> CompiledModel:
    """Kernels for a dynamic network (or a static one) on a target, for one batch and image size.

    model: what `transform` returns, any nn.Module, or the path of an uncompiled .laud file. size: (H, W), by default
    what it was captured with. dtype: "float32", "float16", "bfloat16" or "tf32" (float32 but for products on tensor
    cores, which round what they multiply to 10 bits), by default the target's. without: fusions to leave out. progress:
    called with (kernels ready, kernels in all).

    Raises InputError, CaptureError, BuildError (no kernel for an operation), ArtifactError (a bad file).
    """
    if isinstance(model, str | Path):
        from laudc.artifact import read_converted

        model = read_converted(Path(model)).dynamic()
    _refuse_other(model, nn.Module, "model", "what `transform` returns, a torch.nn.Module or a path")
    _refuse_other(target, str | Target, "target", "the name of a target, or the path of its file")
    _refuse_size(size)
    device = load_target(target) if isinstance(target, str) else target
    chosen = dtype or device.default_dtype
    if chosen not in device.computes_in:
        raise InputError(
            f"{device.name} does not compute in {chosen!r}", f"choose from {', '.join(device.computes_in)}"
        )
    _refuse_batch(batch)
    program, plan = _program(model)
    shape = example_shape(program)
    check_planned_for(plan, device, batch=batch, size=size or shape[2:], dtype=chosen)
    lowering = lower(
        program,
        device,
        plan=plan,
        shape=(batch, shape[1], *(size or shape[2:])),
        dtype=chosen,
        without=tuple(without),
    )
    binaries = build(lowering, progress)
    return CompiledModel(
        plan=plan, target=device, dtype=chosen, without=tuple(without), lowering=lowering, binaries=binaries
    )


def _refuse_other(value: object, wanted: type | UnionType, what: str, words: str) -> None:
    if not isinstance(value, wanted):
        raise InputError(f"the {what} is a {type(value).__name__}", f"give {words}")


def _refuse_batch(batch: object) -> None:
    if type(batch) is not int or batch < 1:
        raise InputError(
            f"the batch {batch!r} is not a whole number above 0", "give the number of images a call, such as 1"
        )


def _refuse_size(size: object) -> None:
    sides = size if isinstance(size, tuple) else ()
    if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise InputError(f"the size {size!r} is not two whole numbers above 0", "give (height, width)")


def _program(model: nn.Module) -> tuple[Program, Plan | None]:
    if isinstance(model, DynamicModel):
        return model.program, model.plan
    from laudc.capture import capture

    return capture(model, example_for(model)), None


def save(model: DynamicModel | CompiledModel, path: str | Path, *, force: bool = False) -> None:
    """Write a .laud file: the trainable network as it is now, or the compiled one with its kernels.

    Whole or not at all; an existing file is replaced only with `force`. Raises InputError, StorageError.
    """
    from laudc.artifact import save as save_artifact

    _refuse_other(model, DynamicModel | CompiledModel, "model", "what `transform` or `compile` returns")
    save_artifact(Path(path), model, force=force)


def load(path: str | Path, *, trust: bool = False) -> DynamicModel | CompiledModel:
    """What a .laud file holds: the trainable model of an uncompiled one, the compiled network of a compiled one.

    By default only data is used and the kernels are built again from their specs (or come from this user's own
    cache); `trust=True` uses the binaries inside the file. Raises ArtifactError for a file that is damaged, edited,
    too new or for another CPU.
    """
    from laudc.artifact import read

    return read(Path(path)).model(trust=trust)
