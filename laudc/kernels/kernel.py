"""A kernel that is decided on but not built: which schedule does which work, with which tile, for which target."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from laudc.errors import BuildError
from laudc.kernels.cpu_features import detect_cpu
from laudc.ops import OPS
from laudc.ops.base import Json
from laudc.schedules import SCHEDULES, Choice, Schedule, Work
from laudc.targets import Target
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What has to be built."""

    schedule: str
    work: Work
    batch: int
    choice: Choice
    target: Target

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


Recorded = Mapping[str, Choice]
"""Tiles by schedule that are preferred, where that schedule offers them."""


Search = Callable[[str, Work, Sequence[Choice], Target], Choice]
"""Picks one of the tiles that a schedule offers for a work on a target, the default first."""


def choose(
    work: Work, target: Target, *, batch: int, preferred: Recorded | None = None, search: Search | None = None
) -> Kernel:
    """The first schedule that takes the work, with the preferred tile if it offers that, else the one that `search`
    picks, else its default.

    On a CPU the tiles are for the one this process runs on. BuildError, with every reason, if no schedule takes it.
    """
    device = detect_cpu().refine(target) if target.kind == "cpu" else target
    reasons = []
    for name in sorted(SCHEDULES, key=lambda name: (SCHEDULES[name].rank, name)):
        schedule = SCHEDULES[name]
        if work.spec.name not in schedule.ops or schedule.kind not in ("any", target.kind):
            continue
        reason = schedule.refuse(work, device)
        if reason is None:
            offered = schedule.choices(work, device)
            wanted = (preferred or {}).get(name)
            choice = next((one for one in offered if wanted is not None and dict(one) == dict(wanted)), None)
            if choice is None:
                choice = search(name, work, offered, device) if search else offered[0]
            return Kernel(schedule=name, work=work, batch=batch, choice=choice, target=device)
        reasons.append(f"{name}: {reason}")
    why = "; ".join(reasons) or "no schedule serves it"
    raise BuildError(
        f"no kernel for {work.spec} on {target.name} ({why})", "leave that part static, or add a file to schedules/"
    )


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
