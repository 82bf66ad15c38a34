"""The few numbers of the model that no data sheet holds: its defaults, or what `laudc calibrate` fitted.

A calibration is a JSON file in the user's folder, one for each device: `$LAUDC_CALIBRATION`, or `calibration/` beside
the kernel cache. It is used for a target of the same content only, and says for which state of the machine it holds.
The tiles that `laudc tune` timed lie beside it, and `laudc/latency/tuned.py` reads them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import cast

from laudc.errors import StorageError
from laudc.kernels.cache import cache_dir
from laudc.latency._cpu import CpuConstants
from laudc.latency._cuda import CudaConstants
from laudc.targets import Target

Constants = CpuConstants | CudaConstants

_FORMAT = 1
UNKNOWN = (0.5, 2.0)
"""The interval of a prediction whose constants are defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Constants, and how far to trust them."""

    constants: Constants
    interval: tuple[float, float] = UNKNOWN
    """Measured over predicted of the kernels it was fitted on: where nine tenths of the time they take lies between."""
    calibrated: bool = False
    state: Mapping[str, str] = field(default_factory=dict)
    """Driver, clocks, toolchain and versions it was taken with."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Relative errors before and after, and of a repeated measurement."""
    note: str = ""
    """Why a calibration that is there is not used."""

    @property
    def words(self) -> str:
        """What every report says of it."""
        if not self.calibrated:
            return f"uncalibrated; {self.note}" if self.note else "uncalibrated"
        median, most = (self.errors.get(name, math.nan) for name in ("after_median", "after_p90"))
        return f"calibrated (single kernels: median error {median:.0%}, p90 {most:.0%})"

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` reads it back."""
        return {
            "format": _FORMAT,
            "constants": asdict(self.constants),
            "interval": list(self.interval),
            "state": dict(self.state),
            "errors": dict(self.errors),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, object], target: Target) -> Calibration:
        """The inverse of `to_json`. StorageError for anything else."""
        kind = _kind(target)
        match values:
            case {
                "format": 1,
                "constants": dict(numbers),
                "interval": [float(low), float(high)],
                "state": dict(state),
                "errors": dict(errors),
            } if numbers.keys() == {one.name for one in fields(kind)} and all(map(_is_rate, numbers.values())):
                return cls(
                    constants=kind(**{name: float(number) for name, number in numbers.items()}),
                    interval=(low, high),
                    calibrated=True,
                    state=cast(Mapping[str, str], state),
                    errors=cast(Mapping[str, float], errors),
                )
            case _:
                raise StorageError(
                    f"the calibration of {target.name} is no calibration of this laudc", "run `laudc calibrate` again"
                )


def _is_rate(number: object) -> bool:
    return isinstance(number, float | int) and 0 < number < math.inf


def defaults(target: Target) -> Calibration:
    """The model as it comes."""
    return Calibration(constants=CpuConstants.of(target) if target.kind == "cpu" else CudaConstants())


def calibration_for(target: Target) -> Calibration:
    """What was fitted on this device, or the defaults.

    Of a target that is here, only what was taken in the state the machine is in now.
    """
    try:
        text = calibration_path(target).read_text()
    except OSError:
        return defaults(target)
    try:
        values = json.loads(text)
    except ValueError:
        values = {}
    found = Calibration.from_json(values, target)
    now = _state_here(target)
    differ = sorted(key for key in found.state if now is not None and found.state[key] != now.get(key))
    if not differ:
        return found
    words = ", ".join(f"{key} {found.state[key]}" for key in differ)
    return replace(defaults(target), note=f"its calibration was taken with {words}: run `laudc calibrate` again")


def _state_here(target: Target) -> Mapping[str, str] | None:
    """The state of this machine, if it is the target."""
    from laudc.latency.machine import local_target, state_of

    local = target.kind == "cpu" or local_target() == target
    return state_of(target) if local else None


def calibration_path(target: Target) -> Path:
    """Where the calibration of a device lies, if there is one."""
    chosen = os.environ.get("LAUDC_CALIBRATION")
    folder = Path(chosen).expanduser() if chosen else cache_dir() / "calibration"
    return folder / f"{target.kind}-{device_identity(target)[:16]}.json"


def tuned_path(target: Target) -> Path:
    """Where the tiles lie that were timed on a device, if any were."""
    calibration = calibration_path(target)
    return calibration.with_name(f"tiles-{calibration.name}")


def device_identity(target: Target) -> str:
    """sha256 of what the device is. A CPU's clock is left out: what the system says of it wanders."""
    return replace(target, clock_mhz=1000).content_hash if target.kind == "cpu" else target.content_hash


def _kind(target: Target) -> type[CpuConstants] | type[CudaConstants]:
    return CpuConstants if target.kind == "cpu" else CudaConstants
