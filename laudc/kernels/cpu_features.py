"""What the CPU of this machine can do, as LLVM names it.

The name alone is not enough: under a hypervisor a "znver5" may lack instructions that every znver5 has, so what the
machine does not offer is switched off by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from laudc.errors import ToolchainError
from laudc.targets import Target

_FMA_UNITS = 2  # an estimate: most cores of the last ten years have two


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuFeatures:
    """One CPU."""

    name: str
    """LLVM's -mcpu."""
    triple: str
    features: tuple[str, ...]
    """What it offers, in LLVM's spelling, sorted."""
    lacks: tuple[str, ...]
    """What LLVM knows of and it does not offer."""
    vector_lanes_fp32: int
    cores: int
    """The ones this process may use."""
    clock_mhz: float | None
    """The highest; None where the machine does not say."""
    last_cache_kib: int | None
    """The cache that all cores share; None where the machine does not say."""

    def tvm_target_json(self) -> dict[str, str | list[str]]:
        """What `tvm.target.Target` takes, as plain data."""
        attributes = [f"+{feature}" for feature in self.features] + [f"-{feature}" for feature in self.lacks]
        return {"kind": "llvm", "mtriple": self.triple, "mcpu": self.name, "mattr": attributes}

    def refine(self, target: Target) -> Target:
        """The target with the cores, lanes, clock and last cache of this CPU in place of the nominal ones."""
        assert target.kind == "cpu", target.kind
        return replace(
            target,
            sm_count=self.cores,
            fp32_lanes_per_sm=_FMA_UNITS * self.vector_lanes_fp32,
            clock_mhz=self.clock_mhz or target.clock_mhz,
            l2_kib=self.last_cache_kib or target.l2_kib,
        )


@cache
def detect_cpu() -> CpuFeatures:
    """The CPU this process runs on, asked of the LLVM inside TVM."""
    import tvm_ffi
    from tvm.target import codegen

    host_features = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures", allow_missing=True)
    if host_features is None:
        raise ToolchainError("this TVM was built without LLVM", "pip install apache-tvm==0.27.0.post1")
    offered = {str(feature): bool(present) for feature, present in host_features().items()}
    features = tuple(sorted(feature for feature, present in offered.items() if present))
    triple = str(codegen.llvm_get_system_triple())
    return CpuFeatures(
        name=str(codegen.llvm_get_system_cpu()),
        triple=triple,
        features=features,
        lacks=tuple(sorted(feature for feature, present in offered.items() if not present)),
        vector_lanes_fp32=lanes_fp32(triple, features),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        clock_mhz=_clock_mhz(),
        last_cache_kib=_last_cache_kib(),
    )


def lanes_fp32(triple: str, features: tuple[str, ...]) -> int:
    """float32 values in one vector register; 1 where there are no vectors that we know of."""
    architecture = triple.partition("-")[0]
    if architecture in ("aarch64", "arm64", "arm64e"):
        return 4  # NEON; TVM's vectors have fixed lengths, so SVE adds nothing
    if architecture not in ("x86_64", "amd64", "i686"):
        return 1
    if "avx512f" in features:
        return 16
    return 8 if "avx" in features else 4


def _clock_mhz() -> float | None:
    """The highest clock that Linux tells of."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text()) / 1000
    except (OSError, ValueError):
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(clocks, default=None)


def _last_cache_kib() -> int | None:
    """The largest cache that Linux tells of."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) for size in sizes if size.endswith("K")), default=None)
