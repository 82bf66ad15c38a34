"""The kernels of the small operations on a CUDA device, against their torch references.

Where TVM's compiler is at hand the kernels are built here. A machine that has only its runtime is sent a folder:

    python tests/gpu/test_small_kernels_device.py .gpu_small [ARCH]      a library a kernel, a cubin a source
    pytest -m gpu tests/gpu/test_small_kernels_device.py                 there: takes them from .gpu_small
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu_small"
CALLBACK = "tvm_callback_cuda_compile"


def _load_cases() -> Any:
    """The cases of the CPU test, by path: tests are no package."""
    path = ROOT / "tests" / "test_small_kernels.py"
    spec = importlib.util.spec_from_file_location("laudc_small_kernel_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cases = _load_cases()


def _file_name(case: Any, dtype: str) -> str:
    return hashlib.sha256(f"{case}-{dtype}".encode()).hexdigest()[:16] + ".so"


def _cubin_name(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest() + ".cubin"


def pack(folder: Path, arch: str) -> None:
    """Build every case into the folder, for a machine without a compiler."""
    from laudc.kernels.toolchain import compile_cubin, find_compiler
    from laudc.targets import TARGETS

    folder.mkdir(exist_ok=True)
    target, compiler = TARGETS[cases.GENERATIONS[arch]], find_compiler(arch)

    def compile_one(source: str) -> None:
        (folder / _cubin_name(source)).write_bytes(compile_cubin(source, arch, compiler).cubin)

    with ThreadPoolExecutor(2) as pool:
        done = []
        for parameters in cases.variants(cases.CASES):
            case, dtype = parameters.values
            executable = cases.Prepared.of(case, dtype, target).compiled(target)
            executable.export_library(str(folder / _file_name(case, dtype)))
            done.append(pool.submit(compile_one, str(executable.mod.imports[0].inspect_source())))
        for one in done:
            one.result()


@contextmanager
def _kernel_of(case: Any, dtype: str, target: Any) -> Iterator[Callable[..., object]]:
    import tvm  # the runtime must be loaded before a library of its
    import tvm_ffi

    if tvm_ffi.get_global_func("target.build.cuda", allow_missing=True) is not None:
        from laudc.kernels.toolchain import Missing, compile_cubin, find_compiler

        compiler = find_compiler(target.arch)
        assert not isinstance(compiler, Missing), compiler

        def compiled(source: str) -> bytes:
            return compile_cubin(source, target.arch, compiler).cubin

        tvm_ffi.register_global_func(CALLBACK, compiled, override=True)
        yield cases.Prepared.of(case, dtype, target).compiled(target)["kernel"]
        return
    import ctypes

    runtime = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
    tvm_ffi.register_global_func(CALLBACK, lambda source: (FOLDER / _cubin_name(source)).read_bytes(), override=True)
    yield tvm_ffi.load_module(str(FOLDER / _file_name(case, dtype)))["kernel"]


def _target() -> Any:
    from laudc.targets import TARGETS

    major, minor = torch.cuda.get_device_capability()
    arch = next((arch for arch in cases.GENERATIONS if arch.rstrip("a") == f"sm_{major}{minor}"), None)
    if arch is None:
        pytest.skip(f"no target of ours is an sm_{major}{minor}")
    return TARGETS[cases.GENERATIONS[arch]]


@pytest.mark.gpu
@pytest.mark.parametrize(("case", "dtype"), cases.variants(cases.CASES))
def test_a_device_kernel_equals_its_reference(case: Any, dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    target = _target()
    prepared = cases.Prepared.of(case, dtype, target)
    with _kernel_of(case, dtype, target) as kernel:
        for operands in cases.draws(case, dtype):
            prepared.check(kernel, operands, "cuda")


if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "sm_90a")
