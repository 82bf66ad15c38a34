"""Kernels built: TensorIR compiled by TVM, CUDA turned into machine code where a compiler for it is here.

What was built is kept in the user's cache under the kernel's key, so the same kernel is built once, whatever network
asks for it. Several that are missing are built by worker processes (`python -m laudc.kernels.worker`).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from laudc.errors import BuildError, LaudcError, ToolchainError
from laudc.kernels import cache, overlap
from laudc.kernels.cpu_features import detect_cpu
from laudc.kernels.kernel import Kernel
from laudc.kernels.toolchain import Missing, compile_cubin, find_compiler

_FORMAT = "kernel 3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Binary:
    """One kernel as files."""

    source: str
    """CUDA C++, or the TensorIR of a CPU kernel."""
    library: bytes
    """A shared library for this machine's processor, the launch code included."""
    cubin: bytes
    """The device code; empty on a CPU, or where no compiler could make it."""
    registers: int = 0
    spill_bytes: int = 0
    note: str = ""
    """What is missing, and how to get it."""

    def pack(self) -> bytes:
        """All of it as one zip."""
        buffer = io.BytesIO()
        facts = {"registers": self.registers, "spill_bytes": self.spill_bytes, "note": self.note}
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("facts.json", json.dumps(facts))
            archive.writestr("source", self.source)
            archive.writestr("library", self.library)
            archive.writestr("cubin", self.cubin)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Binary:
        """The inverse of `pack`."""
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            facts = json.loads(archive.read("facts.json"))
            source = archive.read("source").decode()
            return cls(source=source, library=archive.read("library"), cubin=archive.read("cubin"), **facts)


def build_all(kernels: Iterable[Kernel], *, built: Callable[[Kernel], None] | None = None) -> dict[str, Binary]:
    """The binaries by key, from the cache or built now. `built` hears of each that is ready."""
    unique = {kernel.key: kernel for kernel in kernels}
    found: dict[str, Binary] = {}
    missing: list[tuple[str, Kernel]] = []
    for key, kernel in unique.items():
        binary = _kept(kernel, key)
        if binary is None:
            missing.append((key, kernel))
        else:
            found[key] = binary
            if built:
                built(kernel)
    if not missing:
        return found
    _require_linker()
    workers = min(len(missing), detect_cpu().cores)
    build_missing = _build_in_workers if workers > 1 and len(missing) > 2 else _build_here
    return found | build_missing(missing, built)


def _require_linker() -> None:
    from tvm.support import cc

    if not cc.get_cc():
        raise ToolchainError("no C++ compiler is here to link the kernels", "install g++ or clang, or set CXX")


def _kept(kernel: Kernel, key: str) -> Binary | None:
    """What the cache has; what was left without device code is built again once a compiler is here."""
    packed = cache.get(_entry(key))
    binary = None if packed is None else Binary.unpack(packed)
    if binary is not None and binary.note and not isinstance(find_compiler(kernel.target.arch), Missing):
        return None
    return binary


def _entry(key: str) -> str:
    return cache.key_of(_FORMAT, key)


def _build_here(missing: list[tuple[str, Kernel]], built: Callable[[Kernel], None] | None) -> dict[str, Binary]:
    made = {}
    for key, kernel in missing:
        made[key] = build(kernel)
        cache.put(_entry(key), made[key].pack())
        if built:
            built(kernel)
    return made


def build(kernel: Kernel) -> Binary:
    """Compile one kernel here and now. BuildError if TVM or the CUDA compiler refuses it."""
    import tvm

    lowered = kernel.plan.build(kernel.unit_work, kernel.target, kernel.choice)
    try:
        with tvm.transform.PassContext(config=dict(lowered.config)):
            target = _tvm_target(kernel)
            pipeline = {} if lowered.pipeline == "default" else {"tir_pipeline": lowered.pipeline}
            with target:
                executable = tvm.compile(lowered.module, target=target, **pipeline)
    except (tvm.TVMError, RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[-1]
        raise BuildError(
            f"TVM does not compile {kernel.symbol}: {line}", "report it with the network's name"
        ) from error
    library = _linked(executable)
    if kernel.target.kind == "cpu":
        return Binary(source=lowered.module.script(), library=library, cubin=b"")
    source = executable.mod.imports[0].inspect_source()
    if kernel.target.capability >= overlap.FIRST_ARCH:
        source = overlap.beginning_early(source)
    compiler = find_compiler(kernel.target.arch)
    if isinstance(compiler, Missing):
        return Binary(source=source, library=library, cubin=b"", note=str(compiler))
    compiled = compile_cubin(source, kernel.target.arch, compiler)
    spills = compiled.spill_bytes
    return Binary(
        source=source, library=library, cubin=compiled.cubin, registers=compiled.registers, spill_bytes=spills
    )


def _tvm_target(kernel: Kernel):  # type: ignore[no-untyped-def]
    from tvm.target import Target

    if kernel.target.kind == "cpu":
        return Target(detect_cpu().tvm_target_json())
    return Target(kernel.target.tvm_target_json(), host="llvm")


def _linked(executable) -> bytes:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        try:
            executable.export_library(str(path))
        except (RuntimeError, OSError, ValueError) as error:
            line = str(error).strip().splitlines()[-1]
            raise BuildError(f"a kernel was not linked: {line}", "check the free space and the C++ compiler") from error
        return path.read_bytes()


def _build_in_workers(missing: list[tuple[str, Kernel]], built: Callable[[Kernel], None] | None) -> dict[str, Binary]:
    """Every worker takes the next kernel when it is done with one."""
    queue: SimpleQueue[tuple[str, Kernel]] = SimpleQueue()
    for item in missing:
        queue.put(item)
    made: dict[str, Binary] = {}
    with tempfile.TemporaryDirectory() as folder:
        count = min(len(missing), detect_cpu().cores)
        with ThreadPoolExecutor(count) as pool:
            feeding = [pool.submit(_feed, queue, made, Path(folder) / str(n), built) for n in range(count)]
            for done in as_completed(feeding):
                if done.exception() is not None:
                    _empty(queue)  # the others finish what they have begun
            for done in feeding:
                done.result()
    return made


def _empty(queue: SimpleQueue[tuple[str, Kernel]]) -> None:
    with suppress(Empty):
        while True:
            queue.get_nowait()


def _feed(
    queue: SimpleQueue[tuple[str, Kernel]], made: dict[str, Binary], path: Path, built: Callable[[Kernel], None] | None
) -> None:
    import laudc.schedules

    # -P: else Python would import from whatever folder the user stands in
    command = [sys.executable, "-P", "-m", "laudc.kernels.worker", str(path), *laudc.schedules.__path__]
    root = str(Path(laudc.schedules.__file__).parent.parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    said = path.with_suffix(".log")
    with (
        said.open("w") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        while True:
            try:
                key, kernel = queue.get_nowait()
            except Empty:
                break
            with suppress(BrokenPipeError):  # a worker that died answers nothing
                worker.stdin.write(json.dumps(kernel.to_json()) + "\n")
                worker.stdin.flush()
            answered = worker.stdout.readline()
            made[key] = _received(answered, path, kernel) if answered else _died(worker, said, kernel)
            cache.put(_entry(key), made[key].pack())
            if built:
                built(kernel)
        worker.stdin.close()


def _died(worker: subprocess.Popen[str], said: Path, kernel: Kernel) -> Binary:
    last = (said.read_text().strip().splitlines() or ["it said nothing"])[-1]
    killed = worker.wait() < 0
    step = "try again with more memory free" if killed else "report it with the network's name"
    raise BuildError(f"the worker that built {kernel.symbol} died: {last}", step)


def _received(line: str, path: Path, kernel: Kernel) -> Binary:
    answer: Mapping[str, str] = json.loads(line)
    if "fact" in answer:
        raise BuildError(f"{kernel.symbol}: {answer['fact']}", answer["next_step"])
    return Binary.unpack(path.read_bytes())


def answer(line: str, path: Path) -> dict[str, str]:
    """What a worker does with one line: build the kernel, leave it at `path`, say so."""
    try:
        path.write_bytes(build(Kernel.from_json(json.loads(line))).pack())
    except LaudcError as error:
        return {"fact": error.fact, "next_step": error.next_step}
    return {"done": str(path)}
