"""Every CUDA convolution and linear layer on a device, against torch in float64.

Every draw has fresh random masks. Operands are poisoned where they are undefined (NaN past a sample's channels and
past a list's rows, wild numbers past a list's count) and so are results, which shows what was read or written amiss.

Where TVM's compiler is at hand the kernels are built here. A machine that has only its runtime is sent a folder:

    python tests/gpu/test_conv_cuda_device.py pack                         every kernel, built for sm_90a
    pytest -m gpu tests/gpu/test_conv_cuda_device.py                       uses .gpu_conv if it is there
    python tests/gpu/test_conv_cuda_device.py check [WORDS [BATCH]]      the same without pytest's plug-ins
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from conv_case import Case
from conv_cases import CHANNELS, GENERAL, TENSOR_CORE, TF32
from grouped_cases import GROUPED
from resnet50_cases import RESNET50

from laudc.compare import relative_error
from laudc.kernels.build import Binary, build
from laudc.kernels.kernel import Kernel
from laudc.kernels.run import NOT_GIVEN, load_functions
from laudc.ops import OPS, _running
from laudc.ops._lists import make_channel_list, make_row_list, make_sample_list
from laudc.ops._masker import Masker
from laudc.ops._sums import UNITS
from laudc.ops.base import Op
from laudc.ops.deciding_conv2d import DecidingConv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules import SCHEDULES, Choice, Schedule, Work
from laudc.targets import TARGETS
from laudc.tf32 import rounded

FOLDER = Path(__file__).resolve().parents[2] / ".gpu_conv"
ARCH = "sm_90a"
BATCH = 3
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32}
TORCH |= {"int32": torch.int32}
WILD = -77_777_777
POISON = dict.fromkeys(TORCH, math.nan) | {"int32": WILD}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2, "tf32": 2e-3}
"""Against float64: a few hundred to a few thousand products in float32, of which about 1e-6 of the largest result is
lost; float16 adds roundings of the sum, of the result and of what comes out of a prologue, each 5e-4 of it at most,
and bfloat16 the same ones, each 8 times as large. tf32 rounds what it multiplies as float16 does, and no result."""

ROUNDED_ALIKE = 2e-4
"""In tf32, where the reference multiplies the same rounded numbers: tensor cores cut off the bits of a sum that its
largest term has no room for."""

DRAWS = ((1, 0.5), (3, 0.1), (128, 0.5), (3, 0.0), (3, 1.0), (300, 0.5))
"""Batch and rate. The last is for those who look at samples: more than a block has threads."""

EVERY_TILE = {"1x1", "3x3", "5 channels", "between units of 2", "residual", "rows in place", "depthwise", "masker"}
EVERY_TILE |= {"prologue 3x3", "prologue, thin groups", "prologue and gain, in place"}
"""General cases that are tried with every tile; the others with the first."""

EVERY_TILE_IN_TF32 = {"1x1 residual", "1x1 rows in place", "3x3 rows", "3x3 of 128", "masker 3x3 of 64"}
EVERY_TILE_IN_TF32 |= {"prologue and gain of 128, in place", "samples of 128, in place", "1x1 shortcut"}
EVERY_TILE_IN_TF32 |= {"72 to units of 3", "256 from units of 16, residual", "64 from units of 8, several tiles"}
EVERY_TILE_IN_TF32 |= {case.name for case in TF32}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A kernel to check: `target` decides the code, the device's own architecture the machine code."""

    schedule: str
    case: Case
    dtype: str
    choice: Choice
    target: str

    def __str__(self) -> str:
        numbers = "-".join(map(str, self.choice.values()))
        return f"{self.schedule} on {self.target}: {self.case.name}, {self.dtype}, {numbers}"

    @property
    def path(self) -> Path:
        return FOLDER / hashlib.sha256(str(self).encode()).hexdigest()[:16]

    @property
    def kernel(self) -> Kernel:
        work, target = self.case.work(BATCH, self.dtype), TARGETS[self.target]
        return Kernel(schedule=self.schedule, work=work, batch=BATCH, choice=self.choice, target=target)


def variants() -> Iterator[Variant]:
    for dtype in ("float32", "float16"):
        for case in GENERAL:
            yield from of("conv-simt", case, dtype, every=case.name in EVERY_TILE)
        for case in RESNET50:
            yield from of("conv-simt", case, dtype)
    for schedule in ("conv-wgmma", "conv-mma"):
        for case in TENSOR_CORE:
            yield from of(schedule, case, "float16", every=True)
        for case in RESNET50[1:]:
            yield from of(schedule, case, "float16")
    for schedule in ("conv-wgmma-channels", "conv-mma-channels"):
        for case in CHANNELS:
            yield from of(schedule, case, "float16", every=True)
    for schedule, cases in (("conv-mma", TENSOR_CORE), ("conv-mma-channels", CHANNELS)):
        for case in cases:
            yield from of(schedule, case, "float16", target="a100")

    for case in GENERAL:
        yield from of("conv-simt", case, "bfloat16")
    for schedules, cases in (
        (("conv-wgmma", "conv-mma"), TENSOR_CORE),
        (("conv-wgmma-channels", "conv-mma-channels"), CHANNELS),
    ):
        for case in (case for case in cases if not getattr(case.spec, "sums", False)):
            for schedule in schedules:
                yield from of(schedule, case, "bfloat16")
            yield from of(schedules[-1], case, "bfloat16", target="a100")

    for schedule, target in (
        ("conv-wgmma", "h200"),
        ("conv-wgmma-channels", "h200"),
        *((name, target) for name in ("conv-mma", "conv-mma-channels") for target in ("h200", "a100")),
    ):
        for case in (*TENSOR_CORE, *CHANNELS, *TF32, *RESNET50[1:]):
            if SCHEDULES[schedule].refuse(case.work(BATCH, "tf32"), TARGETS[target]) is None:
                yield from of(
                    schedule, case, "tf32", every=target == "h200" and case.name in EVERY_TILE_IN_TF32, target=target
                )

    for schedule, target in (("conv-wgmma", "h200"), ("conv-mma", "h200"), ("conv-mma", "a100")):
        for dtype in ("float16", "bfloat16", "tf32"):
            for case in GROUPED:
                if SCHEDULES[schedule].refuse(case.work(BATCH, dtype), TARGETS[target]) is None:
                    yield from of(schedule, case, dtype, every=dtype == "float16" and target == "h200", target=target)


def of(schedule: str, case: Case, dtype: str, *, every: bool = False, target: str = "h200") -> Iterator[Variant]:
    """The kernels of a case: with the first tile or with each."""
    choices = SCHEDULES[schedule].choices(case.work(BATCH, dtype), TARGETS[target])
    for choice in choices if every else choices[:1]:
        yield Variant(schedule=schedule, case=case, dtype=dtype, choice=choice, target=target)


def built(variant: Variant) -> Binary:
    """The kernel, its machine code for the device's architecture whatever the target's."""
    from laudc.kernels.toolchain import Missing, compile_cubin, find_compiler

    binary = build(variant.kernel)
    if variant.kernel.target.arch == ARCH:
        return binary
    compiler = find_compiler(ARCH)
    assert not isinstance(compiler, Missing)
    return replace(binary, cubin=compile_cubin(binary.source, ARCH, compiler).cubin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Operands in their logical shapes, and weights."""

    operands: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    given: Tensor | None = None
    """Decisions in place of a masker's own; below zero where there are none."""


def draw(case: Case, *, dtype: str, batch: int, rate: float, seed: int, device: str = "cpu") -> Draw:
    """Fresh operands; `rate` is the share of rows and of channel units that are on."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    spec, kind = case.spec, TORCH[dtype]
    weights = {}
    for name, shape in spec.weights().items():
        values = normal(*shape)
        if "weight" in name:
            values = (values / math.prod(shape[1:]) ** 0.5).to(kind).float()
            values = rounded(values) if dtype == "tf32" else values
        weights[name] = values
    if isinstance(spec, LinearSpec):
        return Draw(operands={"x": normal(batch, spec.in_features).to(kind)}, weights=weights)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) < rate

    operands: dict[str, Tensor] = {}
    height, width = case.out_size
    x_type = case.work(batch, dtype).operands[0]
    x = normal(*x_type.shape).to(kind)
    if spec.samples:
        operands["rows"] = chance(batch, 1, 1).float()
        if spec.listed:
            operands["rows"] = make_sample_list(operands["rows"])
            operands["rows"][1 + int(operands["rows"][0]) :] = WILD
    elif spec.rows:
        rows = make_row_list(chance(batch, height, width))
        count = int(rows[batch])
        rows[batch + 1 + count :] = WILD
        operands["rows"] = rows
        if spec.gathered:
            x[count:] = torch.nan
    if spec.channels_in or spec.channels_out:
        channels = make_channel_list(chance(batch, case.decisions))
        on = channels[:, :1]
        places = torch.arange(channels.shape[1], device=device)
        channels = torch.where(places > on, WILD, channels).to(torch.int32)
        operands["channels"] = channels
        if spec.channels_in:
            columns = torch.arange(spec.in_channels, device=device)
            past = columns >= on * spec.channels_in
            x = torch.where(past[:, :, None, None], torch.nan, x).to(kind)
    if spec.gain:
        operands["gain"] = normal(batch, 1, height, width)
    if spec.shortcut:
        operands["shortcut"] = normal(*case.work(batch, dtype).operands[1].shape).to(kind)
    if spec.residual != "none":
        operands["residual"] = normal(batch, spec.out_channels, height, width).to(kind)
    if spec.sums:
        operands["sums"] = (normal(batch, spec.out_channels) * UNITS).to(torch.int64)
    if spec.running:
        operands["running"] = (normal(batch, spec.running) * _running.UNITS).to(torch.int64)
    if not isinstance(spec, DecidingConv2dSpec):
        return Draw(operands={"x": x, **operands}, weights=weights)
    operands["rows"] = (normal(batch, spec.maskers) * _running.UNITS).to(torch.int64)
    weights["turn"] = torch.tensor([float(seed % spec.maskers)], device=device)
    given = torch.where(chance(batch, 1, 1), chance(batch, 1, 1).float(), NOT_GIVEN)
    return Draw(operands={"x": x, **operands}, weights=weights, given=given)


def expected(case: Case, drawn: Draw, *, tf32: bool) -> tuple[Tensor, ...]:
    """What torch computes in float64: NaN where nothing is asked for. tf32: of rounded maps."""
    op = OPS[case.spec.name].empty(case.spec)
    op = op.double().to(drawn.operands["x"].device)
    operands = [
        rounded(drawn.operands[name]) if tf32 and name in ("x", "shortcut") else drawn.operands[name]
        for name in case.spec.operands
    ]
    with torch.no_grad():
        for name, weight in drawn.weights.items():
            getattr(op, name).copy_(weight)
        values = [value.double() if value.is_floating_point() else value for value in operands]
        results = op(*values, *_forced(op, drawn))
    return results if isinstance(results, tuple) else (results,)


def _forced(op: Op, drawn: Draw) -> tuple[Mapping[str, Tensor], ...]:
    """All decisions of a masker: those that are given, and its own."""
    if drawn.given is None:
        return ()
    assert isinstance(op, Masker)
    own = (op.logits(drawn.operands["rows"]) >= 0).float()
    return ({op.key: torch.where(drawn.given >= 0, drawn.given, own)},)


def stored(tensor: Tensor) -> Tensor:
    """As it lies in memory: maps channels-last."""
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.ndim == 4 else tensor.contiguous()


def arguments(schedule: Schedule, work: Work, choice: Choice, drawn: Draw) -> tuple[list[Tensor], list[Tensor]]:
    """What a kernel is called with: all arguments, and the results among them, poisoned."""
    device = drawn.operands["x"].device
    read = [name for name in work.spec.operands if name not in work.spec.in_place]
    packed = schedule.pack(work, choice, {name: weight.cpu() for name, weight in drawn.weights.items()})
    updated = {index: name for name, index in work.spec.in_place.items()}
    results = [
        stored(drawn.operands[updated[index]]).clone()
        if index in updated
        else stored(torch.full(type_.shape, POISON[type_.dtype], dtype=TORCH[type_.dtype], device=device))
        for index, type_ in enumerate(work.results)
    ]
    operands = [stored(drawn.operands[name]) for name in read]
    given = [] if drawn.given is None else [drawn.given]
    return [*operands, *given, *(tensor.to(device) for tensor in packed), *results], results


def fault(case: Case, drawn: Draw, results: list[Tensor], dtype: str) -> str | None:
    """What is wrong with a kernel's results, or None."""
    alike = dtype == "tf32" and getattr(case.spec, "prologue", None) is None
    for result, reference in zip(results, expected(case, drawn, tf32=alike), strict=True):
        if reference.dtype == torch.int32:
            used = 1 + int(reference[0])
            if not torch.equal(result[:used], reference[:used]):
                return "another list"
            continue
        wanted = stored(reference).double()
        undefined = wanted.isnan()
        if not result[undefined].isnan().all():
            return "something was written that nobody asked for"
        relative = relative_error(result.double()[~undefined], wanted[~undefined])
        if not relative <= (ROUNDED_ALIKE if alike else TOLERANCE[dtype]):
            return f"relative error {relative:.2e} of the {result.dtype}"
    return None


def check(variant: Variant, function: Callable[..., object], *, most: int = 300) -> str | None:
    """Run every draw of at most that batch; what is wrong with the first bad one, or None."""
    case, dtype, schedule = variant.case, variant.dtype, SCHEDULES[variant.schedule]
    # A map of a real network at batch 128 takes the float64 reference seconds.
    samples = getattr(case.spec, "samples", False)
    largest = min(most, (300 if samples else 128) if math.prod(case.size) < 400 else 3)
    for seed, (batch, rate) in enumerate(DRAWS):
        if batch > largest:
            continue
        drawn = draw(case, dtype=dtype, batch=batch, rate=rate, seed=seed, device="cuda")
        given, results = arguments(schedule, case.work(batch, dtype), variant.choice, drawn)
        function(*given)
        torch.cuda.synchronize()
        wrong = fault(case, drawn, results, dtype)
        if wrong:
            return f"{variant}, batch {batch}, rate {rate}: {wrong}"
    return None


def loaded(variant: Variant) -> Callable[..., object]:
    binary = Binary.unpack(variant.path.read_bytes()) if FOLDER.is_dir() else built(variant)
    return load_functions({"it": binary}, device="cuda")["it"]


@pytest.mark.gpu
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_a_device_kernel_equals_its_reference(variant: Variant) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernels of these cases are for sm_90a")
    assert check(variant, loaded(variant)) is None


def _pack_one(variant: Variant) -> str:
    binary = built(variant)
    variant.path.write_bytes(binary.pack())
    return f"{variant}: {binary.registers} registers, {binary.spill_bytes} bytes spilled"


def pack() -> None:
    """Build every kernel into the folder, for a machine without a compiler."""
    FOLDER.mkdir(exist_ok=True)
    todo = [variant for variant in variants() if not variant.path.exists()]
    with ProcessPoolExecutor(2) as pool:
        for said in pool.map(_pack_one, todo):
            print(said, flush=True)


def check_all(words: str, most: int) -> int:
    """Check what is packed and has all the words in its name, print what is wrong, return how many are."""
    began, wrong, count = time.time(), [], 0
    for variant in variants():
        if all(word in str(variant) for word in words.split()):
            count += 1
            found = check(variant, loaded(variant), most=most)
            if found:
                wrong.append(found)
                print("WRONG", found, flush=True)
    print(f"{count} kernels, {len(wrong)} wrong, {time.time() - began:.0f} s", flush=True)
    return len(wrong)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        pack()
    else:
        given = (*sys.argv[2:], *("", "300")[len(sys.argv) - 2 :])
        sys.exit(min(check_all(given[0], int(given[1])), 1))
