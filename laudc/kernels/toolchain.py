"""Which compiler on this machine turns CUDA source into a cubin for an architecture, and that compiler at work.

    sm_53, sm_62, sm_70      NVRTC 12.9, from the extra laudc[cuda12]: CUDA 13 has dropped them
    sm_75 and newer          the same, or the nvcc on the PATH

Numerics are what we promise, so nothing here asks for fast math. What was compiled is kept in the user's cache
under everything that decides the result: source, architecture, options, compiler and version.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from laudc.errors import BuildError, InputError, ToolchainError
from laudc.kernels import cache as kept

EXTRA = "pip install 'laudc[cuda12]'"
"""How a user gets NVRTC 12.9 with its headers."""

_EXTRA_CAPABILITIES = frozenset((50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121))
_HEADERS = ("cuda_fp16.h", "crt/mma.h", "cuda/std/cstdint")
_UNUSED = "--diag-suppress=177"  # TVM's preamble declares helpers that most kernels do not call
_NVRTC_OPTIONS = (
    "--ptxas-options=-v",
    "--device-int128",
    "-default-device",
    _UNUSED,
    "-DINFINITY=__int_as_float(0x7f800000)",  # nvcc has it from the host's math.h
)
_NVCC_OPTIONS = ("-cubin", "-Xptxas", "-v", _UNUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaCompiler:
    """A compiler that is here, and what it compiles for."""

    name: Literal["NVRTC", "nvcc"]
    version: str
    capabilities: frozenset[int]
    """Compute capabilities, 62 for sm_62."""
    path: str = ""
    """The program, for nvcc."""
    include_dirs: tuple[str, ...] = ()
    """The headers, for NVRTC; nvcc has its own."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


_HOLD_BACK = "--ptxas-options=--register-usage-level=2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """No compiler for an architecture, and how to get one."""

    reason: str
    how_to_get: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.how_to_get}"

    def error(self) -> ToolchainError:
        return ToolchainError(self.reason, self.how_to_get)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """One translation unit as machine code. Numbers are those of its hungriest kernel."""

    cubin: bytes
    registers: int
    """A thread."""
    spill_bytes: int
    """A thread, stores and loads together."""
    stack_bytes: int
    """A thread."""
    shared_bytes: int
    """A block, without what the launch adds."""
    log: str


def find_compiler(arch: str) -> CudaCompiler | Missing:
    """The first of NVRTC and nvcc that compiles for `arch`, or why neither does."""
    capability = _capability(arch)
    path = shutil.which("nvcc")
    for compiler in (_nvrtc(), _nvcc(path) if path else None):
        if compiler and capability in compiler.capabilities:
            return compiler
    step = EXTRA if capability in _EXTRA_CAPABILITIES else f"put an nvcc that knows {arch} on PATH"
    return Missing(reason=f"no compiler here can target {arch}", how_to_get=step)


def compile_cubin(source: str, arch: str, compiler: CudaCompiler, *, options: tuple[str, ...] = ()) -> Compiled:
    """The machine code, from the cache if it was compiled before. `options` are added to the compiler's command.

    ptxas may spill a few registers so that one more block fits; then it is asked again to hold back, and the machine
    code that spills less is taken.
    """
    first = _compiled(source, arch, compiler, options)
    if not first.spill_bytes:
        return first
    return min(first, _compiled(source, arch, compiler, (*options, _HOLD_BACK)), key=lambda made: made.spill_bytes)


def _compiled(source: str, arch: str, compiler: CudaCompiler, options: tuple[str, ...]) -> Compiled:
    key = kept.key_of("cubin 1", source, arch, compiler.name, compiler.version, *_options(compiler, arch, options))
    entry = kept.get(key)
    if entry is None:
        run = _run_nvrtc if compiler.name == "NVRTC" else _run_nvcc
        cubin, log = run(source, compiler, _options(compiler, arch, options))
        if cubin is None:
            raise _build_error(log, arch, compiler)
        entry = json.dumps(log).encode() + b"\n" + cubin
        kept.put(key, entry)
    head, _, cubin = entry.partition(b"\n")
    return _measured(cubin, str(json.loads(head)))


def _capability(arch: str) -> int:
    match = re.fullmatch(r"sm_(\d{2,3})([af]?)", arch)
    if match is None or (match[2] and int(match[1]) < 90):
        raise InputError(f"no CUDA architecture {arch!r}", "write it like sm_86 or sm_90a")
    return int(match[1])


def _nvrtc() -> CudaCompiler | None:
    """NVRTC with its headers; None unless every part is installed."""
    try:
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
        _, capabilities = nvrtc.nvrtcGetSupportedArchs()
    except (ImportError, RuntimeError):  # the bindings, or the library they load
        return None
    include_dirs = _include_dirs(major)
    if not all(any((Path(folder) / header).is_file() for folder in include_dirs) for header in _HEADERS):
        return None
    return CudaCompiler(
        name="NVRTC",
        version=f"{major}.{minor}",
        capabilities=frozenset(capabilities),
        include_dirs=include_dirs,
    )


def _include_dirs(major: int) -> tuple[str, ...]:
    """The headers of one CUDA: in a wheel each for CUDA 12, in one folder since."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    patterns = ("cuda_*/include",) if major == 12 else (f"cu{major}/include", f"cu{major}/include/cccl")
    return tuple(str(folder) for root in roots for pattern in patterns for folder in sorted(root.glob(pattern)))


@cache
def _nvcc(path: str) -> CudaCompiler | None:
    """The nvcc at `path`; None if it does not run."""
    try:
        said = [
            subprocess.run([path, option], capture_output=True, text=True, check=True).stdout
            for option in ("--version", "--list-gpu-arch")
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"release (\d+\.\d+)", said[0])
    capabilities = frozenset(int(number) for number in re.findall(r"compute_(\d+)\b", said[1]))
    return CudaCompiler(name="nvcc", version=version[1] if version else "", capabilities=capabilities, path=path)


def _options(compiler: CudaCompiler, arch: str, options: tuple[str, ...]) -> tuple[str, ...]:
    own = _NVRTC_OPTIONS if compiler.name == "NVRTC" else _NVCC_OPTIONS
    return (f"-arch={arch}", *own, *options)


def _run_nvrtc(source: str, compiler: CudaCompiler, options: tuple[str, ...]) -> tuple[bytes | None, str]:
    """The cubin, None if it did not compile, and the log."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], [])
    try:
        command = [option.encode() for option in (*options, *(f"-I{folder}" for folder in compiler.include_dirs))]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(command), command)
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytes(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.rstrip(b"\0 \n").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            return None, text or str(status)
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin = bytes(size)
        nvrtc.nvrtcGetCUBIN(program, cubin)
        return cubin, text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _run_nvcc(source: str, compiler: CudaCompiler, options: tuple[str, ...]) -> tuple[bytes | None, str]:
    """The cubin, None if it did not compile, and the log."""
    with tempfile.TemporaryDirectory(prefix="laudc-") as folder:
        (Path(folder) / "kernel.cu").write_text(source, encoding="utf-8")
        command = [compiler.path, *options, "-o", "kernel.cubin", "kernel.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        log = (done.stdout + done.stderr).strip()
        return ((Path(folder) / "kernel.cubin").read_bytes() if done.returncode == 0 else None), log


def _build_error(log: str, arch: str, compiler: CudaCompiler) -> BuildError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    first = next((line for line in lines if re.search(r"\b(error|fatal)\s*:", line)), "the compiler said nothing")
    error = BuildError(f"{compiler} cannot compile a kernel for {arch}: {first}", "choose another schedule or tile")
    error.add_note(log)
    return error


def _measured(cubin: bytes, log: str) -> Compiled:
    def most(pattern: str) -> int:
        return max((sum(map(int, match.groups())) for match in re.finditer(pattern, log)), default=0)

    return Compiled(
        cubin=cubin,
        registers=most(r"Used (\d+) registers"),
        spill_bytes=most(r"(\d+) bytes spill stores, (\d+) bytes spill loads"),
        stack_bytes=most(r"(\d+) bytes stack frame"),
        shared_bytes=most(r"(\d+) bytes smem"),
        log=log,
    )
