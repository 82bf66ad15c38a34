"""The CUDA text of a case with its default tile, and what the compiler makes of it; no GPU is needed."""

from __future__ import annotations

from functools import cache

from conv_cases import CHANNELS, GENERAL, TENSOR_CORE, TF32
from grouped_cases import GROUPED
from resnet50_cases import RESNET50

from laudc.kernels.toolchain import Compiled, compile_cubin
from laudc.schedules import SCHEDULES
from laudc.targets import TARGETS
from laudc.testing import nvrtc_for

CASES = {case.name: case for case in (*GENERAL, *TENSOR_CORE, *CHANNELS, *TF32, *GROUPED, *RESNET50)}


@cache
def cuda_text(schedule: str, case: str, dtype: str, target: str) -> str:
    """At batch 1."""
    import tvm

    plan, work, device = SCHEDULES[schedule], CASES[case].work(1, dtype), TARGETS[target]
    assert plan.refuse(work, device) is None
    lowered = plan.build(work, device, plan.choices(work, device)[0])
    tvm_target = tvm.target.Target(device.tvm_target_json(), host="llvm")
    with tvm_target:
        executable = tvm.compile(lowered.module, target=tvm_target, tir_pipeline=lowered.pipeline)
    return str(executable.mod.imports[0].inspect_source())


def compiled(schedule: str, case: str, dtype: str, target: str) -> Compiled:
    arch = TARGETS[target].arch
    return compile_cubin(cuda_text(schedule, case, dtype, target), arch, nvrtc_for(arch))
