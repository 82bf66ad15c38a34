"""What a .laud file means: a converted network to train or compile, or a compiled one to run.

Both hold the converted graph and its weights. A compiled file adds the target, the options, the lowered text and the
kernels. It is lowered again when it is loaded (the passes are deterministic) and the text must come out the same, so
there is one source of truth; the kernels are built again from their specs and recorded tiles, or come from this
user's cache, unless the caller trusts the file's own binaries.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from laudc import __version__
from laudc.compiled import CompiledModel, Lowering, lower
from laudc.dynamic_model import DynamicModel
from laudc.errors import ArtifactError, InputError, LaudcError
from laudc.kernels.archive import read_archive, write_archive
from laudc.kernels.build import Binary, build_all
from laudc.kernels.cpu_features import detect_cpu
from laudc.kernels.graph_file import graph_json, program_from, weight_bytes
from laudc.kernels.kernel import Kernel, Tile
from laudc.plan import Plan
from laudc.program import Program
from laudc.targets import Target
from laudc.whole_file import refuse_unwritable

__all__ = ["LaudFile", "read", "read_converted", "save"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _MadeFor:
    """What a compiled file was compiled for."""

    target: Target
    shape: tuple[int, ...]
    dtype: str
    without: tuple[str, ...]
    preferred: dict[str, Tile]
    """The recorded tiles by step."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> _MadeFor:
        return cls(
            target=Target.from_json(manifest["target"]),
            shape=tuple(map(int, manifest["shape"])),
            dtype=str(manifest["dtype"]),
            without=tuple(map(str, manifest["without"])),
            preferred={
                str(s["name"]): Tile(schedule=str(s["schedule"]), choice=dict(s["choice"]), origin=s["origin"])
                for s in manifest["steps"]
            },
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LaudFile:
    """A file that was read, every hash checked; nothing of it has run."""

    path: Path
    kind: str
    """ "converted" or "compiled"."""
    manifest: dict[str, Any]
    members: dict[str, bytes]

    @property
    def graph(self) -> dict[str, Any]:
        """The converted graph as JSON says it."""
        with self._blamed():
            return cast("dict[str, Any]", json.loads(self.members["graph.json"]))

    @property
    def lowered(self) -> str:
        """The lowered program's text; empty before it is compiled."""
        return self.members.get("lowered.txt", b"").decode()

    @property
    def program(self) -> Program:
        """The converted program, its weights included."""
        with self._blamed():
            return program_from(self.graph, self.members["weights.safetensors"])

    @property
    def plan(self) -> Plan | None:
        """None for a static network."""
        with self._blamed():
            plan = self.manifest["plan"]
            return None if plan is None else Plan.from_json(plan)

    def model(self, *, trust: bool = False) -> DynamicModel | CompiledModel:
        """What the file holds. `trust` uses the binaries inside it instead of building the kernels again."""
        if self.kind == "converted":
            return self.dynamic()
        lowering, made_for = self._lowered_again()
        binaries = self._shipped(lowering) if trust else build_all([step.kernel for step in lowering.executable.steps])
        return CompiledModel(
            plan=self.plan,
            target=made_for.target,
            dtype=made_for.dtype,
            without=made_for.without,
            lowering=lowering,
            binaries=binaries,
        )

    def dynamic(self) -> DynamicModel:
        """The trainable network of a converted file, in evaluation mode."""
        plan = self.plan
        if plan is None:
            raise ArtifactError(f"{self.path} lacks its plan", "make it again")
        return DynamicModel(self.program, plan).eval()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """What the manifest lacks is the file's fault."""
        try:
            yield
        except LaudcError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise ArtifactError(f"{self.path} lacks what a {self.kind} file has ({detail})", "make it again") from error

    def _lowered_again(self) -> tuple[Lowering, _MadeFor]:
        with self._blamed():
            made_for, said = _MadeFor.of(self.manifest), str(self.manifest["lowered"])
            made_by = str(self.manifest["versions"]["laudc"])
        lowering = lower(
            self.program,
            made_for.target,
            plan=self.plan,
            shape=made_for.shape,
            dtype=made_for.dtype,
            without=made_for.without,
            preferred=made_for.preferred,
        )
        if lowering.lowered.digest != said:
            raise ArtifactError(
                f"{self.path} was lowered by other passes (laudc {made_by}, this is {__version__})", "compile it again"
            )
        return lowering, made_for

    def _shipped(self, lowering: Lowering) -> dict[str, Binary]:
        """The file's own binaries, for the kernels this laudc would ask for in their place."""
        with self._blamed():
            self._refuse_other_machine()
            return self._own_binaries(lowering)

    def _refuse_other_machine(self) -> None:
        made_for, machine = self.manifest["cpu"], str(self.manifest["machine"])
        lacking = sorted(set(made_for["features"]) - set(detect_cpu().features)) if made_for else []
        if lacking or machine != platform.machine():
            here = f"this CPU lacks {', '.join(lacking[:3])}" if lacking else f"this is a {platform.machine()}"
            raise ArtifactError(
                f"{self.path} was compiled on a {made_for['name'] if made_for else machine}; {here}",
                "load it without trust: kernels are then built for this CPU",
            )

    def _own_binaries(self, lowering: Lowering) -> dict[str, Binary]:
        facts = self.manifest["kernels"]
        names = {step["name"]: str(step["kernel"]) for step in self.manifest["steps"]}
        binaries = {}
        for step in lowering.executable.steps:
            symbol = names[step.name]
            if facts[symbol]["key"] != step.kernel.key:
                raise ArtifactError(
                    f"{self.path}: its kernels were made by another laudc",
                    "load it without trust, or compile it again",
                )
            stem = f"kernels/{symbol}"
            source = self.members.get(f"{stem}.cu") or self.members.get(f"{stem}.py") or b""
            binaries[step.kernel.key] = Binary(
                source=source.decode(),
                library=self.members[f"{stem}.so"],
                cubin=self.members.get(f"{stem}.cubin", b""),
                registers=int(facts[symbol]["registers"]),
                spill_bytes=int(facts[symbol]["spill_bytes"]),
                note=str(facts[symbol]["note"]),
            )
        return binaries


def read(path: Path) -> LaudFile:
    """The file, if it is whole, unedited and not too new; InputError where there is none."""
    manifest, members = read_archive(path)
    kind = manifest.get("kind")
    if kind not in ("converted", "compiled"):
        raise ArtifactError(f"{path} holds something {kind!r}, which this laudc does not know", "pip install -U laudc")
    if not {"graph.json", "weights.safetensors"} <= members.keys():
        raise ArtifactError(f"{path} lacks what a .laud file has", "make it again")
    return LaudFile(path=path, kind=kind, manifest=manifest, members=members)


def read_converted(path: Path) -> LaudFile:
    """The same of an uncompiled file; InputError for a compiled one."""
    found = read(path)
    if found.kind != "converted":
        raise InputError(f"{path} is {found.kind} already", "give the file it was compiled from")
    return found


def save(path: Path, model: DynamicModel | CompiledModel, *, force: bool = False) -> None:
    """Write the file, whole or not at all; an existing one only with `force`."""
    refuse_unwritable(path, force)
    if isinstance(model, DynamicModel):
        program, extra = model.program, dict[str, bytes]()
        manifest: dict[str, Any] = {"kind": "converted", "plan": model.plan.to_json()}
    else:
        program = model.lowering.converted
        manifest = {"kind": "compiled", "plan": model.plan and model.plan.to_json(), **_compiled_manifest(model)}
        extra = {"lowered.txt": model.lowering.lowered.text().encode(), **_kernel_members(model)}
    members = {"graph.json": json.dumps(graph_json(program)).encode(), "weights.safetensors": weight_bytes(program)}
    write_archive(path, {"versions": _versions(), **manifest}, members | extra)


def _versions() -> dict[str, str]:
    found = {"laudc": __version__, "python": platform.python_version()}
    for name in ("torch", "apache-tvm", "apache-tvm-ffi"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _compiled_manifest(model: CompiledModel) -> dict[str, Any]:
    steps = model.lowering.executable.steps
    kernels = {step.kernel.symbol: _kernel_facts(step.kernel, model.binaries[step.kernel.key]) for step in steps}
    return {
        "target": model.target.to_json(),
        "shape": list(model.shape),
        "dtype": model.dtype,
        "without": list(model.without),
        "lowered": model.lowering.lowered.digest,
        "machine": platform.machine(),
        "cpu": _cpu_facts() if model.target.kind == "cpu" else None,
        "arena_bytes": model.lowering.executable.arena_bytes,
        "passes": [asdict(step) for step in model.lowering.steps],
        "kernels": kernels,
        "steps": [
            {
                "name": s.name,
                "block": s.block,
                "kernel": s.kernel.symbol,
                "schedule": s.kernel.schedule,
                "choice": dict(s.kernel.choice),
                "origin": s.kernel.origin,
            }
            for s in steps
        ],
    }


def _kernel_facts(kernel: Kernel, binary: Binary) -> dict[str, Any]:
    return {
        "key": kernel.key,
        "schedule": kernel.schedule,
        "spec": str(kernel.work.spec),
        "choice": dict(kernel.choice),
        "registers": binary.registers,
        "spill_bytes": binary.spill_bytes,
        "note": binary.note,
    }


def _cpu_facts() -> dict[str, Any]:
    cpu = detect_cpu()
    return {"name": cpu.name, "triple": cpu.triple, "features": list(cpu.features)}


def _kernel_members(model: CompiledModel) -> dict[str, bytes]:
    suffix = "cu" if model.target.kind == "cuda" else "py"
    members: dict[str, bytes] = {}
    for step in model.lowering.executable.steps:
        binary, stem = model.binaries[step.kernel.key], f"kernels/{step.kernel.symbol}"
        members[f"{stem}.{suffix}"] = binary.source.encode()
        members[f"{stem}.so"] = binary.library
        if binary.cubin:
            members[f"{stem}.cubin"] = binary.cubin
    return members
