"""One device as numbers, read from a TOML file in which every number stands beside its source.

    arch = "sm_62"

    [facts]
    clock_mhz = { value = 1300, source = "Jetson TX2 data sheet, Max-N" }

The record is the schema: its numeric fields are the facts a file must state, and each carries the range that real
hardware lies in. A file that steps outside is refused, because a clock in GHz where MHz is meant would make every
prediction wrong without a word.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_origin, get_type_hints

from laudc.errors import InputError, TargetError, UnknownName
from laudc.types import FLOATS, TF32

Kind = Literal["cuda", "cpu"]

_KINDS = ("cuda", "cpu")
_WARP = 32
_MAX_THREADS_PER_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Plausible:
    """What a fact can be on real hardware, both ends included."""

    low: float
    high: float
    zero: str | None = None
    """What 0 means, where a file may say 0."""
    gpu_only: bool = False
    """A CPU's file leaves it out, and its record holds 0."""

    def check(self, fact: str, value: float, kind: Kind) -> None:
        if value == 0 and (self.zero or (self.gpu_only and kind == "cpu")):
            return
        if not self.low <= value <= self.high:  # NaN, too, is not between them
            raise TargetError(f"{fact} is {value}", f"check its unit: plausible is {self}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("cuda",) if self.gpu_only else ("cuda", "cpu")

    def __str__(self) -> str:
        span = f"{self.low:g} to {self.high:g}"
        return f"{span}, or 0 for {self.zero}" if self.zero else span


_TensorRate = Annotated[int, Plausible(64, 65536, zero="no tensor cores", gpu_only=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One device. Rates are peaks; what share of them a kernel reaches is the latency model's business.

    A multiply-add counts as two flops. A facts field that only a GPU has is 0 on a CPU.
    """

    name: str
    title: str
    kind: Kind
    arch: str
    """The compiler's name for it, "sm_62"; "native" on a CPU."""
    host: str
    """LLVM triple of the machine it sits in; "native" on a CPU."""
    dtypes: tuple[str, ...]
    """What it computes in natively."""
    default_dtype: str

    sm_count: Annotated[int, Plausible(1, 960)]
    """Multiprocessors; cores on a CPU."""
    clock_mhz: Annotated[float, Plausible(100, 10_000)]
    fp32_lanes_per_sm: Annotated[int, Plausible(1, 1024)]
    """float32 multiply-adds a clock."""
    fp16_flops_per_clock_per_sm: Annotated[int, Plausible(2, 4096, zero="no float16 arithmetic", gpu_only=True)]
    """float16 outside the tensor cores."""
    tensor_fp16_flops_per_clock_per_sm: _TensorRate
    """Dense, with float32 accumulation."""
    tensor_bf16_flops_per_clock_per_sm: _TensorRate
    tensor_tf32_flops_per_clock_per_sm: _TensorRate
    dram_gb_per_s: Annotated[float, Plausible(5, 20_000)]
    """10^9 bytes a second."""
    l2_kib: Annotated[int, Plausible(64, 131_072)]
    """The cache that all multiprocessors share; the last level on a CPU."""
    l2_gb_per_s: Annotated[float, Plausible(10, 30_000)]
    launch_us: Annotated[float, Plausible(0.1, 50)]
    """What one more kernel adds to a replayed graph; one more call on a CPU."""
    shared_memory_per_sm_kib: Annotated[int, Plausible(16, 1024, gpu_only=True)]
    shared_memory_per_block_kib: Annotated[int, Plausible(16, 1024, gpu_only=True)]
    """The most that a block may opt in to."""
    registers_per_sm: Annotated[int, Plausible(8192, 1_048_576, gpu_only=True)]
    """Of 32 bits."""
    registers_per_block: Annotated[int, Plausible(8192, 1_048_576, gpu_only=True)]
    max_threads_per_sm: Annotated[int, Plausible(256, 8192, gpu_only=True)]
    max_blocks_per_sm: Annotated[int, Plausible(4, 256, gpu_only=True)]
    newest_toolkit_major: Annotated[int, Plausible(8, 99, zero="no limit", gpu_only=True)]
    """The newest CUDA toolkit that still compiles for it."""

    def __post_init__(self) -> None:
        self._check_words()
        for fact, plausible in plausible_facts().items():
            plausible.check(fact, getattr(self, fact), self.kind)
        for part, whole in (
            ("shared_memory_per_block_kib", "shared_memory_per_sm_kib"),
            ("registers_per_block", "registers_per_sm"),
        ):
            if getattr(self, part) > getattr(self, whole):
                raise TargetError(f"{part} is more than {whole}", "a block lives on one multiprocessor: correct one")

    def _check_words(self) -> None:
        if self.kind not in _KINDS:
            raise TargetError(f"kind is {self.kind!r}", "use cuda or cpu")
        if self.kind == "cuda" and not re.fullmatch(r"sm_\d{2,3}[af]?", self.arch):
            raise TargetError(f"arch is {self.arch!r}", "write the compute capability like sm_86 or sm_90a")
        if self.kind == "cpu" and self.arch != "native":
            raise TargetError(f"arch is {self.arch!r}", "write native: a CPU is detected where the kernels are built")
        if not self.dtypes or not set(self.dtypes) <= set(FLOATS):
            raise TargetError(f"dtypes are {list(self.dtypes)}", f"list some of {', '.join(FLOATS)}")
        if self.default_dtype not in self.dtypes:
            raise TargetError(f"default_dtype is {self.default_dtype!r}", f"use one of {', '.join(self.dtypes)}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The device a TOML file describes, named by the file's stem."""
        try:
            return cls._from_toml(path.stem, _load(path))
        except TargetError as error:
            raise TargetError(f"{path}: {error.fact}", error.next_step) from error

    @classmethod
    def _from_toml(cls, name: str, table: Mapping[str, object]) -> Self:
        hints = get_type_hints(cls, include_extras=True)
        words = [field for field, hint in hints.items() if get_origin(hint) is not Annotated and field != "name"]
        _same_names("key", table, [*words, "facts"])
        values: dict[str, object] = {"name": name}
        for word in words:
            values[word] = _dtypes(table[word]) if word == "dtypes" else _word(word, table[word])
        if values["kind"] not in _KINDS:
            raise TargetError(f"kind is {values['kind']!r}", "use cuda or cpu")
        kind = cast(Kind, values["kind"])
        stated = table["facts"]
        if not isinstance(stated, dict):
            raise TargetError("facts is not a table", "head the numbers with [facts]")
        wanted = {fact: plausible for fact, plausible in plausible_facts().items() if kind in plausible.kinds}
        _same_names("fact", stated, wanted)
        values |= dict.fromkeys(plausible_facts(), 0)
        types = get_type_hints(cls)
        for fact, plausible in wanted.items():
            values[fact] = stated_number(fact, stated[fact], types[fact], plausible, kind)
        return cls(**values)  # type: ignore[arg-type]  # each value was checked against its own field above

    @property
    def capability(self) -> int:
        """Compute capability as one number, 62 for sm_62; 0 on a CPU."""
        return int(re.sub(r"\D", "", self.arch) or 0)

    @property
    def computes_in(self) -> tuple[str, ...]:
        """What a network can be compiled in: its data types, and tf32 where tensor cores multiply that."""
        tf32 = "float32" in self.dtypes and self.tensor_tf32_flops_per_clock_per_sm > 0
        return (*self.dtypes, TF32) if tf32 else self.dtypes

    @property
    def fp32_tflop_per_s(self) -> float:
        """Outside the tensor cores."""
        return self._tflop_per_s(2 * self.fp32_lanes_per_sm)

    @property
    def tensor_fp16_tflop_per_s(self) -> float:
        """Dense, with float32 accumulation; 0 without tensor cores."""
        return self._tflop_per_s(self.tensor_fp16_flops_per_clock_per_sm)

    def _tflop_per_s(self, flops_per_clock_per_sm: int) -> float:
        return self.sm_count * self.clock_mhz * flops_per_clock_per_sm / 1e6

    def to_json(self) -> dict[str, str | float | list[str]]:
        """The record as plain data, for `from_json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """The inverse of `to_json`. TargetError where a field is missing, unknown or absurd."""
        _same_names("a target", values, [field.name for field in fields(cls)])
        facts = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**cast(dict[str, Any], facts))

    @property
    def content_hash(self) -> str:
        """sha256 of everything but the two names: equal exactly where predictions and kernels are."""
        facts = {field: value for field, value in asdict(self).items() if field not in ("name", "title")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def tvm_target_json(self) -> dict[str, str | int]:
        """What `tvm.target.Target` takes, as plain data. A CPU's details come from `laudc.kernels.cpu_features`."""
        if self.kind == "cpu":
            return {"kind": "llvm"}
        return {
            "kind": "cuda",
            "arch": self.arch,
            "max_shared_memory_per_block": self.shared_memory_per_block_kib * 1024,
            "max_threads_per_block": _MAX_THREADS_PER_BLOCK,
            "thread_warp_size": _WARP,
        }


@cache
def plausible_facts() -> Mapping[str, Plausible]:
    """The facts by name with their ranges, in the order they are declared."""
    hints = get_type_hints(Target, include_extras=True)
    return {field: hint.__metadata__[0] for field, hint in hints.items() if get_origin(hint) is Annotated}


def _load(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise InputError(f"cannot read {path}: {reason}", "check the path") from error
    except ValueError as error:  # not UTF-8, or not TOML
        step = "correct it, or start from a copy of a file in laudc/targets"
        raise TargetError(f"not TOML: {error}", step) from error


def _same_names(what: str, stated: Collection[str], wanted: Collection[str]) -> None:
    for name in stated:
        if name not in wanted:
            unknown = UnknownName.among(what, name, wanted)
            raise TargetError(unknown.fact, unknown.next_step)
    for name in wanted:
        if name not in stated:
            plausible = plausible_facts().get(name)
            step = f"add it; plausible is {plausible}" if plausible else "add it, as the files in laudc/targets do"
            raise TargetError(f"no {what} {name!r}", step)


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TargetError(f"{name} is {value!r}", "write it as text in quotes")
    return value


def _dtypes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(dtype, str) for dtype in value):
        raise TargetError(f"dtypes are {value!r}", 'list them like ["float32", "float16"]')
    return tuple(value)


def stated_number(fact: str, entry: object, number: type[int] | type[float], plausible: Plausible, kind: Kind) -> float:
    """The value of `fact = { value = ..., source = "..." }`. TargetError where it has no source, is not a `number` or
    not plausible."""
    if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
        step = f'write {fact} = {{ value = ..., source = "..." }}; plausible is {plausible}'
        raise TargetError(f"{fact} does not state a value and its source", step)
    value, source = entry["value"], entry["source"]
    if not isinstance(source, str) or not source.strip():
        raise TargetError(f"{fact} has no source", "say where the number is from; start with 'estimate:' if it is one")
    if isinstance(value, bool) or not isinstance(value, (int, number)):
        step = f"write a {'whole number' if number is int else 'number'}; plausible is {plausible}"
        raise TargetError(f"{fact} is {value!r}", step)
    plausible.check(fact, value, kind)
    return number(value)
