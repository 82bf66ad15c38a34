"""The kernels of the small operations against their torch references, and their CUDA source for every generation.

A kernel is compiled once and run at two batch sizes and four rates: the batch is symbolic and lists may be empty.
Results are poisoned first, and behind each lies a guard that must survive. Half precision is held against the
reference on the same numbers in single precision, so that only the rounding of the result is forgiven.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laudc.kernels.cpu_features import detect_cpu
from laudc.kernels.run import NOT_GIVEN
from laudc.kernels.toolchain import compile_cubin
from laudc.ops import OPS
from laudc.ops._lists import make_channel_list
from laudc.ops._masker import Masker
from laudc.ops._sums import UNITS
from laudc.ops.base import Op
from laudc.schedules import SCHEDULES, Choice, Schedule, Work
from laudc.targets import TARGETS, Target
from laudc.testing import nvrtc_for
from laudc.types import TensorType

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from small_kernel_cases import BATCHES, CASES, SHOWN, TORCH, Case, Draw, draws

OURS = (
    "channel-maskers",
    "fold-columns",
    "global-pooling",
    "kept-maskers",
    "lists",
    "maskers",
    "masks",
    "movement",
    "pointwise",
    "pooling",
    "sums",
    "sums-channel-maskers",
)
GENERATIONS = {"sm_53": "jetson-nano", "sm_86": "rtx3060", "sm_90a": "h200"}
GUARD = 64
POISON = {torch.float32: torch.nan, torch.int32: -77, torch.int64: -77, torch.uint8: 77}
ROUNDING = {torch.float16: 6e-4, torch.bfloat16: 4.8e-3}
"""Of a result, relative."""
POISON |= dict.fromkeys(ROUNDING, torch.nan)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """The references are small: torch's threads would only wait for each other and for the kernels'."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case at one type, ready to be compiled for a target."""

    op: Op
    work: Work
    schedule: Schedule
    choice: Choice

    @classmethod
    def of(cls, case: Case, dtype: str, target: Target) -> Prepared:
        torch.manual_seed(0)
        kind = OPS[case.op.replace("_", "-")]
        op = kind.empty(kind.spec_type(**case.fields)).eval()
        for parameter in op.parameters():
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        operands = tuple(map(type_of, case.operands(Draw(batch=BATCHES[-1], rate=1.0, dtype=dtype))))
        work = Work(spec=op.spec, operands=operands, results=op.spec.results(operands))
        schedule = next(SCHEDULES[name] for name in OURS if case.op in SCHEDULES[name].ops)
        assert schedule.refuse(work, target) is None
        return cls(op=op, work=work, schedule=schedule, choice=schedule.choices(work, target)[0])

    def compiled(self, target: Target) -> Any:
        """What TVM makes of it."""
        import tvm

        lowered = self.schedule.build(self.work, target, self.choice)
        assert [variable.name_hint for variable in lowered.module.functions] == ["kernel"]
        chosen = tvm.target.Target(detect_cpu().tvm_target_json())
        if target.kind == "cuda":
            chosen = tvm.target.Target(target.tvm_target_json(), host="llvm")
        with tvm.transform.PassContext(config=dict(lowered.config)):
            return tvm.compile(lowered.module, target=chosen)

    def source(self, target: Target) -> str:
        """The CUDA text."""
        return str(self.compiled(target).mod.imports[0].inspect_source())

    def check(self, kernel: Callable[..., object], operands: tuple[Tensor, ...], device: str) -> None:
        """Run the kernel on these operands and hold it against the reference."""
        types = tuple(map(type_of, operands))
        work = Work(spec=self.op.spec, operands=types, results=self.op.spec.results(types))
        weights = {name: parameter.data for name, parameter in self.op.named_parameters()}
        packed = [tensor.to(device) for tensor in self.schedule.pack(work, self.choice, weights)]
        spaces = [guarded(type_, device) for type_ in self.schedule.workspace(work, self.choice)]
        results = [guarded(type_, device) for type_ in work.results]
        inputs = []
        for name, operand in zip(work.spec.operands, operands, strict=True):
            if name in work.spec.in_place:
                results[work.spec.in_place[name]][0].copy_(operand)
            else:
                inputs.append(stored(operand).to(device))
        given = [torch.full(work.results[0].shape, NOT_GIVEN, device=device)] if isinstance(self.op, Masker) else []
        kernel(*inputs, *given, *packed, *(view for view, _ in (*spaces, *results)))
        for view, tail in (*spaces, *results):
            assert same(tail, torch.full_like(tail, POISON[tail.dtype])), f"{self.op.spec} wrote past {view.shape}"
        with torch.no_grad():
            wanted = self.op(*(x.float() if x.dtype in ROUNDING else x for x in operands))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        made = tuple(view.cpu() for view, _ in results)
        if self.op.spec.name in ("row_list", "patch_rows", "channel_list"):
            for mine, reference in zip(made, wanted, strict=True):
                compare_lists(self.op.spec.name, mine, reference, types[0].shape[0])
        elif isinstance(self.op, Masker):
            compare_decisions(made[:2], wanted[:2])
            if self.op.spec.name == "kept_masker":
                compare(made[2], wanted[2])
            elif self.op.spec.name == "sums_channel_masker":
                compare_lists("channel_list", made[2], make_channel_list(made[0]), types[0].shape[0])
                assert not made[3].any()
            elif len(wanted) == 3:
                kept = torch.where(made[0].view(-1, 1) != 0, torch.zeros_like(operands[0]), operands[0])
                assert torch.equal(made[2], kept)
        elif wanted[0].dtype == torch.int64:
            compare(made[0].double() / UNITS, wanted[0].double() / UNITS)
        else:
            compare(made[0], stored(wanted[0]))


def type_of(x: Tensor) -> TensorType:
    return TensorType(shape=tuple(x.shape), dtype=str(x.dtype).removeprefix("torch."))


def stored(x: Tensor) -> Tensor:
    """As it lies in memory: maps channels-last."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()


def guarded(type_: TensorType, device: str) -> tuple[Tensor, Tensor]:
    """A poisoned buffer, and the guard behind it."""
    shape = stored(torch.empty(type_.shape, device="meta")).shape
    dtype = TORCH[type_.dtype]
    whole = torch.full((type_.numel + GUARD,), POISON[dtype], dtype=dtype, device=device)
    return whole[: type_.numel].view(shape), whole[type_.numel :]


def same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a != a) & (b != b)).all())


def compare(made: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding, wherever the reference says anything."""
    assert made.shape == wanted.shape
    relative, absolute = (ROUNDING[made.dtype], 1e-6) if made.dtype in ROUNDING else (2e-6, 2e-6)
    made, wanted = made.float(), wanted.float()
    off = (made - wanted).abs() - relative * wanted.abs() - absolute
    wrong = ~(off <= 0) & ~wanted.isnan()
    assert not wrong.any(), f"{int(wrong.sum())} wrong, the first {made[wrong][0]} for {wanted[wrong][0]}"


def compare_decisions(made: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """The logits agree, the decisions follow from them, and agree unless it was a near tie."""
    compare(made[1], wanted[1])
    assert torch.equal(made[0], (made[1] >= 0).float())
    clear = wanted[1].abs() > 1e-5
    assert torch.equal(made[0][clear], wanted[0][clear])


def compare_lists(name: str, made: Tensor, wanted: Tensor, batch: int) -> None:
    """Equal as far as the counts say."""
    if name != "channel_list":
        end = batch + 1 + int(wanted[batch])
        assert made[:end].tolist() == wanted[:end].tolist()
        return
    for mine, reference in zip(made.tolist(), wanted.tolist(), strict=True):
        assert mine[: 1 + reference[0]] == reference[: 1 + reference[0]]


def variants(cases: tuple[Case, ...]) -> list[Any]:
    """Every case at every type it has; slow but for one case an operation, and in bfloat16."""
    found = []
    for case in cases:
        dtypes = ["float32", "float16"][not case.everywhere : 1 + case.halves]
        if case.halves and case.op != "channel_sums":
            dtypes.append("bfloat16")
        for dtype in dtypes:
            slow = [] if case in SHOWN and dtype != "bfloat16" else [pytest.mark.slow]
            found.append(pytest.param(case, dtype, id=f"{case}-{dtype}", marks=slow))
    return found


@pytest.mark.parametrize(("case", "dtype"), variants(tuple(case for case in CASES if case.everywhere)))
def test_a_cpu_kernel_equals_its_reference(case: Case, dtype: str) -> None:
    if (case.op, dtype) == ("scatter", "bfloat16"):
        pytest.skip("TVM makes no vectors of bfloat16 zeros for a CPU")
    prepared = Prepared.of(case, dtype, TARGETS["cpu"])
    kernel = prepared.compiled(TARGETS["cpu"])["kernel"]
    for operands in draws(case, dtype):
        prepared.check(kernel, operands, "cpu")


def test_max_pool_keeps_nan_and_infinity() -> None:
    case = Case(op="max_pool", fields={"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}, operands=lambda d: (x,))
    x = torch.randn(1, 2, 5, 5)
    x[0, 0, 2, 2], x[0, 1] = torch.nan, -torch.inf
    prepared = Prepared.of(case, "float32", TARGETS["cpu"])
    made, _ = guarded(prepared.work.results[0], "cpu")
    prepared.compiled(TARGETS["cpu"])["kernel"](stored(x), made)
    assert same(made, stored(prepared.op(x)))


@pytest.mark.parametrize(
    ("name", "op", "fields", "dtype", "reason"),
    [
        (
            "pointwise",
            "activation",
            {"function": "relu"},
            "int32",
            "computes on float32, float16, bfloat16, not on int32",
        ),
        ("pointwise", "activation", {"function": "tan"}, "float32", "does not know the function 'tan'"),
        ("lists", "row-list", {}, "float32", "lists uint8 decisions, not float32"),
        ("masks", "pixel-mask", {"granularity": 4, "map_size": (8, 8)}, "uint8", "reads float32 decisions, not uint8"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(
    name: str, op: str, fields: dict[str, Any], dtype: str, reason: str
) -> None:
    x = TensorType(shape=(1, 8, 8), dtype=dtype)
    spec = OPS[op].spec_type(**fields)
    work = Work(spec=spec, operands=(x,), results=spec.results((x,)))
    assert reason in str(SCHEDULES[name].refuse(work, TARGETS["cpu"]))


def _source(case: Case, dtype: str, arch: str) -> str:
    target = TARGETS[GENERATIONS[arch]]
    assert target.arch == arch
    if int(arch[3:5]) < case.since:
        pytest.skip(f"{arch} has no {case.op}")
    if dtype not in target.dtypes:
        pytest.skip(f"{arch} has no {dtype}")
    return Prepared.of(case, dtype, target).source(target)


def _source_is_portable(case: Case, dtype: str, arch: str) -> None:
    source = _source(case, dtype, arch)
    assert "asm" not in source.partition('extern "C"')[2]


@pytest.mark.parametrize(("case", "arch"), list(zip(SHOWN, cycle(GENERATIONS), strict=False)), ids=str)
def test_every_operation_has_cuda_source(case: Case, arch: str) -> None:
    _source_is_portable(case, "float16" if case.halves else "float32", arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", GENERATIONS)
@pytest.mark.parametrize(("case", "dtype"), variants(CASES))
def test_every_case_has_cuda_source(case: Case, dtype: str, arch: str) -> None:
    _source_is_portable(case, dtype, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", GENERATIONS)
@pytest.mark.parametrize(("case", "dtype"), variants(SHOWN))
def test_cuda_source_compiles_without_spills(case: Case, dtype: str, arch: str) -> None:
    compiled = compile_cubin(_source(case, dtype, arch), arch, nvrtc_for(arch))
    assert (compiled.spill_bytes, compiled.stack_bytes) == (0, 0)
