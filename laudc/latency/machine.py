"""The device that is here: which target it is, and the state that a measurement holds for."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import laudc
from laudc.errors import InputError, ToolchainError
from laudc.kernels.cpu_features import detect_cpu
from laudc.targets import TARGETS, Target, load_target

_MOST_LOAD = 0.75
"""Runnable processes a core, before anything is measured."""


def local_target() -> Target:
    """The target that describes this machine: its GPU where there is one that laudc knows, else its CPU."""
    return _local_gpu() or detect_cpu().refine(load_target("cpu"))


def here(target: Target) -> Target:
    """The target as this machine has it: a CPU's nominal facts give way to the detected ones."""
    return detect_cpu().refine(target) if target.kind == "cpu" else target


def _local_gpu() -> Target | None:
    return next((TARGETS[name] for name in TARGETS if _is_gpu_here(TARGETS[name])), None)


def _is_gpu_here(target: Target) -> bool:
    import torch

    if not torch.cuda.is_available():
        return False
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    facts = (properties.major * 10 + properties.minor, properties.multi_processor_count)
    return target.kind == "cuda" and facts == (target.capability, target.sm_count)


def refuse_elsewhere(target: Target) -> None:
    """ToolchainError unless the target is this machine's CPU, or its GPU."""
    if target.kind != "cpu" and not _is_gpu_here(target):
        raise ToolchainError(f"{target.name} is not here to be measured", "run it on the device")


def refuse_busy(command: str) -> None:
    """InputError where others use the machine, so that what is measured would not be its own."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > _MOST_LOAD * cores:
        raise InputError(
            f"the machine is busy (load {load:.1f} on {cores} cores), so times would not be its own",
            f"leave it alone and run `laudc {command}` again",
        )


def state_of(target: Target) -> Mapping[str, str]:
    """What a measurement on this machine depends on beside the target's facts."""
    from laudc.kernels.kernel import toolchain_version

    state = {
        "laudc": laudc.__version__,
        "tvm": toolchain_version(),
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    return state | (_cpu_state() if target.kind == "cpu" else _gpu_state())


def _cpu_state() -> dict[str, str]:
    import torch

    cpu = detect_cpu()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": cpu.name,
        "cores": str(cpu.cores),
        "threads": os.environ.get("TVM_NUM_THREADS", str(torch.get_num_threads())),
        "highest clock": f"{round(cpu.clock_mhz or 0, -2):.0f} MHz",
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
        "kernel": platform.release(),
    }


def _gpu_state() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        raise ToolchainError("no CUDA device is here to be measured", "run it on the device")
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
        "clocks": _gpu_clocks(f"GPU-{properties.uuid}"),
    }


def _gpu_clocks(gpu: str) -> str:
    """The highest ones, and those that applications get, as the driver tells them."""
    asked = "clocks.max.sm,clocks.max.mem,clocks.applications.graphics,clocks.applications.memory"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader", f"--id={gpu}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.strip()


def _driver() -> str:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), "unknown")
