"""A kernel that is decided on but not built: which schedule does which work, with which tile, for which target."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from laudc.errors import BuildError
from laudc.kernels.cpu_features import detect_cpu
from laudc.ops import OPS
from laudc.ops.base import Json
from laudc.schedules import SCHEDULES, Choice, Schedule, Work
from laudc.targets import Target
from laudc.types import TensorType

Origin = Literal["tuned", "predicted", "default", "fallback"]
"""Where a tile came from.

tuned      `laudc tune` timed it on this device
predicted  the latency model finds it clearly faster than the default
default    the schedule's own
fallback   of a schedule of last resort, since a better one refuses the work; or in place of a preferred tile that is
           offered no longer
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A way to do a work: which schedule's, and which of its tiles."""

    schedule: str
    choice: Choice
    origin: Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What has to be built."""

    schedule: str
    work: Work
    batch: int
    choice: Choice
    target: Target
    origin: Origin = field(default="default", compare=False)
    """Of the tile; the code is the same."""

    def to_json(self) -> dict[str, Json]:
        """Plain data that `from_json` reads back."""
        return {
            "schedule": self.schedule,
            "op": self.work.spec.name,
            "spec": self.work.spec.to_json(),
            "operands": [[list(type_.shape), type_.dtype] for type_ in self.work.operands],
            "results": [[list(type_.shape), type_.dtype] for type_ in self.work.results],
            "batch": self.batch,
            "choice": dict(self.choice),
            "target": cast(Json, self.target.to_json()),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Kernel:
        """The inverse of `to_json`."""
        spec = OPS[values["op"]].spec_type.from_json(values["spec"])
        operands, results = (
            tuple(TensorType(shape=tuple(shape), dtype=dtype) for shape, dtype in values[side])
            for side in ("operands", "results")
        )
        return cls(
            schedule=values["schedule"],
            work=Work(spec=spec, operands=operands, results=results),
            batch=values["batch"],
            choice=values["choice"],
            target=Target.from_json(values["target"]),
        )

    @property
    def plan(self) -> Schedule:
        """The schedule itself."""
        return SCHEDULES[self.schedule]

    @property
    def key(self) -> str:
        """sha256 of all that decides the code: the schedules' own source, the work (of any batch), tile, target."""
        content = {
            "schedule": self.schedule,
            "source": _source_hash(type(self.plan)),
            "op": self.work.spec.name,
            "spec": self.work.spec.to_json(),
            "types": [str(unit) for unit in (*self.unit_work.operands, *self.unit_work.results)],
            "choice": dict(sorted(self.choice.items())),
            "target": _target_words(self.target),
            "toolchain": toolchain_version(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def unit_work(self) -> Work:
        """The work at batch 1: the code is the same for any batch."""
        operands = tuple(_at_batch_one(type_, self.batch) for type_ in self.work.operands)
        results = tuple(_at_batch_one(type_, self.batch) for type_ in self.work.results)
        return replace(self.work, operands=operands, results=results)

    @property
    def symbol(self) -> str:
        """A short readable name: operation, shape, the key's beginning."""
        shape = "x".join(map(str, self.work.operands[0].shape[1:])) or "list"
        return f"{self.work.spec.name}_{shape}_{self.key[:8]}"


Search = Callable[[str, Work, Sequence[Choice], Target], Choice]
"""Picks one of the tiles that a schedule offers for a work on a target, the default first."""


def choose(
    work: Work, target: Target, *, batch: int, preferred: Sequence[Tile] = (), search: Search | None = None
) -> Kernel:
    """The first of the preferred tiles that its schedule offers; else, of the first schedule that takes the work, the
    tile that `search` picks, or the default.

    On a CPU the tiles are for the one this process runs on. BuildError, with every reason, if no schedule takes it.
    """
    device = detect_cpu().refine(target) if target.kind == "cpu" else target
    for tile in preferred:
        if _is_offered(tile, work, device):
            return Kernel(
                schedule=tile.schedule, work=work, batch=batch, choice=tile.choice, target=device, origin=tile.origin
            )
    refused: dict[str, str] = {}
    for name in _serving(work.spec.name, target.kind):
        schedule = SCHEDULES[name]
        reason = schedule.refuse(work, device)
        if reason is not None:
            refused[name] = reason
            continue
        offered = schedule.choices(work, device)
        choice = search(name, work, offered, device) if search else offered[0]
        found: Origin = "default" if dict(choice) == dict(offered[0]) else "predicted"
        origin = "fallback" if preferred or _is_last_resort(name, refused, device) else found
        return Kernel(schedule=name, work=work, batch=batch, choice=choice, target=device, origin=origin)
    why = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "no schedule serves it"
    raise BuildError(
        f"no kernel for {work.spec} on {target.name} ({why})", "leave that part static, or add a file to schedules/"
    )


def offers(work: Work, device: Target) -> Iterator[tuple[str, Choice]]:
    """Every tile of every schedule that takes the work, the default first. A CPU is given as it is here."""
    for name in _serving(work.spec.name, device.kind):
        if SCHEDULES[name].refuse(work, device) is None:
            yield from ((name, choice) for choice in SCHEDULES[name].choices(work, device))


def offers_key(work: Work, device: Target) -> str:
    """sha256 of all that decides the code of these tiles: the schedules' own source, the target, the toolchain."""
    content = {
        "sources": {name: _source_hash(type(SCHEDULES[name])) for name in _serving(work.spec.name, device.kind)},
        "target": _target_words(device),
        "toolchain": toolchain_version(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _serving(op: str, kind: str) -> list[str]:
    """The schedules for an operation on that kind of target, in the order in which they are asked."""
    ranked = sorted(SCHEDULES, key=lambda name: (SCHEDULES[name].rank, name))
    return [name for name in ranked if op in SCHEDULES[name].ops and SCHEDULES[name].kind in ("any", kind)]


def _is_offered(tile: Tile, work: Work, device: Target) -> bool:
    if tile.schedule not in _serving(work.spec.name, device.kind):
        return False
    schedule = SCHEDULES[tile.schedule]
    if schedule.refuse(work, device) is not None:
        return False
    return any(dict(choice) == dict(tile.choice) for choice in schedule.choices(work, device))


def _is_last_resort(name: str, refused: Mapping[str, str], device: Target) -> bool:
    """Whether a schedule that does serve the device would have been better."""
    better = any(SCHEDULES[other].refuse_target(device) is None for other in refused)
    return better and SCHEDULES[name].rank > Schedule.rank


def _at_batch_one(type_: TensorType, batch: int) -> TensorType:
    first = type_.shape[0]
    ours = (first - 1) // batch + 1 if len(type_.shape) == 1 else first // batch
    return replace(type_, shape=(ours, *type_.shape[1:]))


def _target_words(target: Target) -> dict[str, object]:
    """What of a target reaches the code."""
    if target.kind == "cpu":
        cpu = detect_cpu()
        return {"cpu": cpu.name, "features": list(cpu.features), "cores": target.sm_count}
    return {"facts": target.content_hash, "host": target.host}


@cache
def _source_hash(kind: type[Schedule]) -> str:
    """Of the schedule's file, the furniture beside it and `base.py`: a change there makes a new kernel.

    The `_*_demand.py` only say what a kernel costs.
    """
    own = Path(inspect.getfile(kind))
    folders = {own.parent, Path(_base_file()).parent}  # a schedule that was dropped in reads ours too
    beside = (file for folder in folders for file in folder.glob("_*.py") if not file.stem.endswith("_demand"))
    furniture = sorted(beside, key=lambda file: file.name)
    digest = hashlib.sha256()
    for path in (own, *furniture, Path(_base_file())):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _base_file() -> str:
    return inspect.getfile(Schedule)


@cache
def toolchain_version() -> str:
    """TVM's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("apache-tvm")
    except PackageNotFoundError:  # a runtime that was copied, not installed
        import tvm

        return str(tvm.__version__)
