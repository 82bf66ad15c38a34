"""Stems on a device: every tile against torch in float64, over poisoned results and behind a poisoned image.

Where TVM's compiler is at hand the kernels are built here. A machine that has only its runtime is sent a folder:

    python tests/gpu/test_stem_device.py pack       every kernel into .gpu_stem
    pytest -m gpu tests/gpu/test_stem_device.py     uses .gpu_stem if it is there
    python tests/gpu/test_stem_device.py            the same without pytest's plug-ins
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from laudc.compare import relative_error
from laudc.kernels.build import Binary, build
from laudc.kernels.kernel import Kernel
from laudc.kernels.run import load_functions
from laudc.ops.conv_max_pool import ConvMaxPoolSpec
from laudc.schedules import SCHEDULES, Work
from laudc.targets import TARGETS
from laudc.types import TensorType

FOLDER = Path(__file__).resolve().parents[2] / ".gpu_stem"
SCHEDULE = "conv-max-pool-wgmma"
TARGET = TARGETS["h200"]
BATCHES = (1, 3, 128)
TOLERANCE = 1e-3
"""float16 rounds the result once: 5e-4 of it at most."""

SIZES = {
    "ImageNet": ((7, 4), 64, (230, 115), "relu", 2),
    "two panels": ((8, 4), 128, (62, 35), "relu6", 2),
    "odd rows": ((3, 2), 64, (35, 17), "none", 2),
    "stride 1": ((3, 4), 64, (34, 35), "silu", 1),
}
VARIANTS = [(name, rows) for name in SIZES for rows in (2, 1, 4)]


def work_of(name: str, batch: int) -> Work:
    kernel, channels, size, activation, down = SIZES[name]
    spec = ConvMaxPoolSpec(
        in_channels=8,
        out_channels=channels,
        kernel=kernel,
        stride=(down, 1),
        bias=True,
        activation=activation,
        pool_kernel=(3, 3),
        pool_stride=(2, 2),
        pool_padding=(1, 1),
    )
    operands = (TensorType(shape=(batch, 8, *size), dtype="float16"),)
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def kernel_of(name: str, rows: int) -> Kernel:
    return Kernel(schedule=SCHEDULE, work=work_of(name, 3), batch=3, choice={"rows": rows}, target=TARGET)


def path_of(name: str, rows: int) -> Path:
    return FOLDER / f"{name.replace(' ', '-')}-{rows}"


def loaded(name: str, rows: int) -> Callable[..., object]:
    packed = path_of(name, rows)
    binary = Binary.unpack(packed.read_bytes()) if FOLDER.is_dir() else build(kernel_of(name, rows))
    return load_functions({"it": binary}, device="cuda")["it"]


def fault(name: str, rows: int, function: Callable[..., object], batch: int) -> str | None:
    """What is wrong with a kernel's result, or None."""
    work = work_of(name, batch)
    spec = work.spec
    assert isinstance(spec, ConvMaxPoolSpec)
    generator = torch.Generator("cuda").manual_seed(batch)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    x = normal(*work.operands[0].shape).half()
    weights = {"weight": (normal(*spec.weights()["weight"]) / 10).half().float(), "bias": normal(spec.out_channels)}
    packed = SCHEDULES[SCHEDULE].pack(work, {"rows": rows}, {key: value.cpu() for key, value in weights.items()})
    beyond = torch.full((2, *work.operands[0].stored[1:]), torch.nan, device="cuda").half()
    image = torch.cat([beyond[:1], x.permute(0, 2, 3, 1), beyond[1:]])[1:-1]
    out = torch.full(work.results[0].stored, torch.nan, device="cuda").half()
    function(image, *(value.cuda() for value in packed), out)
    torch.cuda.synchronize()
    made = F.conv2d(x.double(), weights["weight"].double(), weights["bias"].double(), spec.stride)
    act = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "none": lambda value: value}[spec.activation]
    wanted = F.max_pool2d(act(made), spec.pool_kernel, spec.pool_stride, spec.pool_padding)
    error = relative_error(out.permute(0, 3, 1, 2).double(), wanted)
    return None if error <= TOLERANCE else f"{name}, {rows} rows, batch {batch}: relative error {error:.2e}"


@pytest.mark.gpu
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("name", "rows"), VARIANTS)
def test_a_stem_equals_its_reference(name: str, rows: int, batch: int) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernels of these cases are for sm_90a")
    assert fault(name, rows, loaded(name, rows), batch) is None


def main() -> int:
    if sys.argv[1:] == ["pack"]:
        FOLDER.mkdir(exist_ok=True)
        for name, rows in VARIANTS:
            path_of(name, rows).write_bytes(build(kernel_of(name, rows)).pack())
        return 0
    found = [fault(name, rows, loaded(name, rows), batch) for name, rows in VARIANTS for batch in BATCHES]
    wrong = [said for said in found if said]
    print(*wrong, f"{len(found)} runs, {len(wrong)} wrong", sep="\n")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
