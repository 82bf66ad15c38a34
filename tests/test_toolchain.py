"""CUDA source to machine code without a GPU, and the cache of what was compiled."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from laudc.errors import BuildError, InputError, StorageError, ToolchainError
from laudc.kernels import cache, toolchain
from laudc.kernels.toolchain import CudaCompiler, Missing, compile_cubin, find_compiler
from laudc.testing import nvrtc_for

ARCHS = ["sm_53", "sm_62", "sm_70", "sm_86", "sm_90a"]
COMPILERS = ["NVRTC", pytest.param("nvcc", marks=pytest.mark.slow)]
KERNEL = """
#include <cuda_fp16.h>
#include <mma.h>
extern "C" __global__ void kernel(float* y, const half* x) {
  __shared__ float rows[64];
  rows[threadIdx.x] = __half2float(x[threadIdx.x]);
  __syncthreads();
  y[threadIdx.x] = rows[63 - threadIdx.x] / 3.0f + INFINITY;
}
"""
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) spills(float* x, const int* at) {
  float a[64];
  for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];
  #pragma unroll
  for (int j = 0; j < 64; j++)
    for (int i = 0; i < 64; i++) a[i] += a[(i * 7 + j) % 64] * a[j];
  for (int i = 0; i < 64; i++) x[i * 1024 + threadIdx.x] = a[i] + a[at[i]];
}
extern "C" __global__ void does_not(float* x) { x[0] = 1; }
"""
LOG = """ptxas info    : Compiling entry function 'f' for 'sm_62'
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 512 bytes smem, 340 bytes cmem[0]
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Pretended:
    """Stands in for nvcc, and counts."""

    def __init__(self) -> None:
        self.compiler = CudaCompiler(name="nvcc", version="12.9", capabilities=frozenset({62, 70}))
        self.runs = 0

    def __call__(self, source: str, compiler: CudaCompiler, options: tuple[str, ...]) -> tuple[bytes, str]:
        self.runs += 1
        return f"{self.runs}\n{source}".encode(), LOG


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    stand_in = Pretended()
    monkeypatch.setattr(toolchain, "_run_nvcc", stand_in)
    return stand_in


def compiler_named(name: str, arch: str) -> CudaCompiler:
    """That compiler, if it knows the architecture. NVRTC comes with the tests, nvcc need not be here."""
    if name == "NVRTC":
        return nvrtc_for(arch)
    path = shutil.which("nvcc")
    nvcc = toolchain._nvcc(path) if path else None
    if nvcc is None or toolchain._capability(arch) not in nvcc.capabilities:
        pytest.skip(f"no nvcc here compiles for {arch}")
    return nvcc


@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_compiles_for_every_family(arch: str) -> None:
    compiled = compile_cubin(KERNEL, arch, nvrtc_for(arch))
    assert compiled.cubin[:4] == b"\x7fELF"
    assert compiled.registers > 0
    assert (compiled.spill_bytes, compiled.stack_bytes, compiled.shared_bytes) == (0, 0, 256)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILERS)
def test_both_compilers_measure_alike(name: str) -> None:
    compiled = compile_cubin(SPILLING, "sm_86", compiler_named(name, "sm_86"))
    assert compiled.registers == 64
    assert compiled.spill_bytes > 100
    assert compiled.stack_bytes > 100


@pytest.mark.parametrize("name", COMPILERS)
def test_division_stays_exact(name: str) -> None:
    # fast math makes a division one approximate instruction, and the kernel much shorter
    compiler = compiler_named(name, "sm_86")
    plain = compile_cubin(KERNEL, "sm_86", compiler)
    fast = compile_cubin(KERNEL, "sm_86", compiler, options=("--use_fast_math",))
    assert len(plain.cubin) > len(fast.cubin)


@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("__global__ void f(float* x) {\n  x[0] = y;\n}", r'kernel\.cu\(2\): error: identifier "y" is undefined'),
        ("#include <absent.h>\n", r"kernel\.cu.*: .*error: .*absent\.h"),
        ('__global__ void f() { asm volatile("wgmma.fence.sync.aligned;"); }', r"error\s*: Instruction 'wgmma.fence'"),
    ],
    ids=["an unknown name", "an absent header", "an instruction of another chip"],
)
def test_a_kernel_that_does_not_compile_says_its_first_error(source: str, said: str, name: str) -> None:
    compiler = compiler_named(name, "sm_86")
    with pytest.raises(BuildError, match=f"^{compiler} cannot compile a kernel for sm_86: .*{said}") as failed:
        compile_cubin(source, "sm_86", compiler)
    assert "\n" not in str(failed.value)
    assert failed.value.__notes__


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(toolchain, f"_{name}", lambda *_: None)


@pytest.mark.parametrize(
    ("arch", "next_step"),
    [
        ("sm_62", "pip install 'laudc[cuda12]'"),
        ("sm_90a", "pip install 'laudc[cuda12]'"),
        ("sm_35", "put an nvcc that knows sm_35 on PATH"),
        ("sm_110", "put an nvcc that knows sm_110 on PATH"),
    ],
)
def test_a_missing_compiler_is_a_value_with_the_way_to_get_it(
    arch: str, next_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "nvrtc", "nvcc")
    missing = find_compiler(arch)
    assert isinstance(missing, Missing)
    assert str(missing) == f"no compiler here can target {arch}; {next_step}"
    assert isinstance(missing.error(), ToolchainError)


def test_nvcc_of_cuda_13_is_no_help_for_a_jetson_tx2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "nvrtc")
    monkeypatch.setenv("PATH", str(fake_nvcc(tmp_path)), prepend=":")
    assert isinstance(find_compiler("sm_62"), Missing)
    assert str(find_compiler("sm_90a")) == "nvcc 13.0"


def test_an_nvcc_that_does_not_run_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "nvrtc")
    monkeypatch.setenv("PATH", str(fake_nvcc(tmp_path, "exit 1")), prepend=":")
    assert isinstance(find_compiler("sm_90a"), Missing)


def fake_nvcc(folder: Path, script: str = "echo release 13.0; echo compute_75; echo compute_90") -> Path:
    program = folder / "nvcc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def test_nvrtc_without_its_headers_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_include_dirs", lambda major: ())
    assert toolchain._nvrtc() is None


@pytest.mark.parametrize("arch", ["62", "sm62", "sm_6", "compute_62", "sm_62a", "native", ""])
def test_an_architecture_is_spelled_like_one(arch: str) -> None:
    with pytest.raises(InputError, match="write it like sm_86 or sm_90a"):
        find_compiler(arch)


def test_a_second_compile_is_read_from_the_cache(pretended: Pretended) -> None:
    first = compile_cubin("a", "sm_62", pretended.compiler)
    assert compile_cubin("a", "sm_62", pretended.compiler) == first
    assert pretended.runs == 1
    assert (first.cubin, first.log) == (b"1\na", LOG)
    assert (first.registers, first.spill_bytes, first.stack_bytes, first.shared_bytes) == (40, 0, 16, 512)


@pytest.mark.parametrize(("held_back", "kept_bytes"), [("0", 0), ("40", 20)])
def test_what_spills_is_compiled_again_holding_back(
    held_back: str, kept_bytes: int, monkeypatch: pytest.MonkeyPatch, pretended: Pretended
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(source: str, compiler: CudaCompiler, options: tuple[str, ...]) -> tuple[bytes, str]:
        asked.append(options)
        spilled = held_back if "--ptxas-options=--register-usage-level=2" in options else "8"
        return b"", LOG.replace(
            "0 bytes spill stores, 0", f"{spilled} bytes spill stores, {12 if spilled == '8' else 0}"
        )

    monkeypatch.setattr(toolchain, "_run_nvcc", run)
    assert compile_cubin("a", "sm_62", pretended.compiler).spill_bytes == kept_bytes
    assert len(asked) == 2


def test_whatever_changes_the_result_changes_the_key(pretended: Pretended) -> None:
    compiler = pretended.compiler
    compile_cubin("a", "sm_62", compiler)
    compile_cubin("b", "sm_62", compiler)
    compile_cubin("a", "sm_70", compiler)
    compile_cubin("a", "sm_62", compiler, options=("-lineinfo",))
    compile_cubin("a", "sm_62", replace(compiler, version="12.8"))
    assert pretended.runs == 5
    assert cache.key_of("ab", "c") != cache.key_of("a", "bc")


def test_a_damaged_entry_is_compiled_again(pretended: Pretended, cache_folder: Path) -> None:
    compile_cubin("a", "sm_62", pretended.compiler)
    (entry,) = cache_folder.glob("*/*")
    damaged = bytearray(entry.read_bytes())
    damaged[-1] ^= 1
    entry.write_bytes(damaged)
    assert compile_cubin("a", "sm_62", pretended.compiler).cubin == b"2\na"
    assert compile_cubin("a", "sm_62", pretended.compiler).cubin == b"2\na"


def test_a_cut_off_entry_is_a_miss(cache_folder: Path) -> None:
    key = cache.key_of("a")
    assert cache.put(key, b"payload")
    assert cache.get(key) == b"payload"
    (entry,) = cache_folder.glob("*/*")
    for length in (0, 10, 32, 36):
        entry.write_bytes(entry.read_bytes()[:length])
        assert cache.get(key) is None
        cache.put(key, b"payload")


def test_nothing_half_written_is_left_behind(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not cache.put(cache.key_of("a"), b"payload")
    assert not [path for path in cache_folder.rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path / "file"))
    assert compile_cubin("a", "sm_62", pretended.compiler).cubin == b"1\na"


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LAUDC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "laudc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.cache_dir() == tmp_path / ".cache" / "laudc"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.cache_dir() == tmp_path / "Library" / "Caches" / "laudc"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.delenv("LAUDC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(StorageError, match="set LAUDC_CACHE to a folder"):
        cache.cache_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize("arch", ARCHS)
def test_tvms_own_source_compiles_for_every_family(arch: str, name: str) -> None:
    import tvm
    from tvm import s_tir, te

    x = te.placeholder((256,), "float16", name="x")
    function = te.create_prim_func([x, te.compute((256,), lambda i: te.exp(x[i].astype("float32")), name="y")])
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "kernel"))
    blocks, threads = schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, 64])
    schedule.bind(blocks, "blockIdx.x")
    schedule.bind(threads, "threadIdx.x")
    target = tvm.target.Target({"kind": "cuda", "arch": arch}, host="llvm")
    source = tvm.compile(schedule.mod, target=target).mod.imports[0].inspect_source()
    assert compile_cubin(source, arch, compiler_named(name, arch)).spill_bytes == 0


def test_asking_for_a_compiler_imports_neither_torch_nor_tvm() -> None:
    program = (
        "import sys; from laudc.kernels.toolchain import find_compiler; find_compiler('sm_86');"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(toolchain.__file__).parents[2])
