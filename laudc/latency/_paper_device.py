"""A device as the published LAUDNet latency predictor sees it: processing engines and two levels of memory.

The numbers are read from paper_devices.toml, every one beside its source. No cache, register or shared memory has
a size in this picture, so every tile fits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from laudc.errors import InputError, TargetError, UnknownName
from laudc.targets.base import Plausible, stated_number

_FILE = Path(__file__).with_name("paper_devices.toml")
_COMMON = ("outputs_in_flight_per_lane", "sector_fp32", "launch_us")
_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperDevice:
    """One device, as the released predictor is told of it."""

    name: str
    pe_count: Annotated[int, Plausible(1, 960)]
    """Processing engines; streaming multiprocessors on these GPUs."""
    fp32_lanes_per_pe: Annotated[int, Plausible(1, 1024)]
    """float32 multiply-adds a clock."""
    clock_mhz: Annotated[float, Plausible(100, 10_000)]
    dram_gb_per_s: Annotated[float, Plausible(5, 20_000)]
    """10^9 bytes a second."""
    l2_over_dram: Annotated[float, Plausible(0.5, 50)]
    """What the global on-chip memory gives the engines, in DRAM bandwidths."""
    batch: Annotated[int, Plausible(1, 4096)]
    """Images priced at once."""
    outputs_in_flight_per_lane: Annotated[int, Plausible(1, 64)]
    """So many outputs does a lane interleave; an engine with fewer of them idles."""
    sector_fp32: Annotated[int, Plausible(1, 64)]
    """float32 values in the smallest access to memory."""
    launch_us: Annotated[float, Plausible(0.1, 50)]
    """Every operator pays it once."""

    def __post_init__(self) -> None:
        for fact, plausible in _facts().items():
            plausible.check(fact, getattr(self, fact), "cuda")

    @property
    def pe_macs_per_us(self) -> float:
        """Peak multiply-adds of one engine."""
        return self.clock_mhz * self.fp32_lanes_per_pe

    @property
    def outputs_in_flight(self) -> int:
        """Outputs that an engine computes side by side at its peak."""
        return self.outputs_in_flight_per_lane * self.fp32_lanes_per_pe

    def dram_us(self, values: float) -> float:
        """Time to move so many float32 values from or to DRAM."""
        return values * _BYTES / (self.dram_gb_per_s * 1e3)

    def l2_us(self, values: float) -> float:
        """Time to move so many float32 values between the on-chip memory and the engines."""
        return self.dram_us(values) / self.l2_over_dram


def paper_device(name: str) -> PaperDevice:
    """The device of that name, spelt as in laudc/targets: v100, rtx3090, rtx3060, jetson-tx2, jetson-nano."""
    devices = paper_devices()
    if name not in devices:
        raise UnknownName.among("device of the paper", name, devices)
    return devices[name]


@cache
def paper_devices(path: Path = _FILE) -> Mapping[str, PaperDevice]:
    """The devices a TOML file describes, by name. TargetError names the device and the field that does not hold."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or 'unknown reason'}", "check the path") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise TargetError(f"{path}: not TOML: {error}", "start from a copy of paper_devices.toml") from error
    common = _numbers(path, "common", table.pop("common", {}), _COMMON)
    own = [fact for fact in _facts() if fact not in _COMMON]
    devices = {}
    for name, stated in table.items():
        values: dict[str, Any] = {"name": name, **common, **_numbers(path, name, stated, own)}
        devices[name] = PaperDevice(**values)
    return devices


@cache
def _facts() -> Mapping[str, Plausible]:
    """The numbers of a device with their ranges, in the order they are declared."""
    hints = get_type_hints(PaperDevice, include_extras=True)
    return {field: hint.__metadata__[0] for field, hint in hints.items() if get_origin(hint) is Annotated}


def _numbers(path: Path, name: str, stated: object, wanted: Collection[str]) -> dict[str, float]:
    """The wanted facts of one table, checked."""
    where = f"{path}: {name}"
    if not isinstance(stated, dict):
        raise TargetError(f"{where} is not a table", f"head its numbers with [{name}]")
    for fact in stated:
        if fact not in wanted:
            unknown = UnknownName.among("fact", fact, wanted)
            raise TargetError(f"{where}: {unknown.fact}", unknown.next_step)
    for fact in wanted:
        if fact not in stated:
            raise TargetError(f"{where}: no fact {fact!r}", f"add it; plausible is {_facts()[fact]}")
    return {fact: _number(where, fact, stated[fact]) for fact in wanted}


def _number(where: str, fact: str, entry: object) -> float:
    try:
        return stated_number(fact, entry, get_type_hints(PaperDevice)[fact], _facts()[fact], "cuda")
    except TargetError as error:
        raise TargetError(f"{where}: {error.fact}", error.next_step) from error
