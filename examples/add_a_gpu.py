"""Describe a GPU that laudc does not know, and compile a network for it. The GPU need not be here.

python examples/add_a_gpu.py        writes my-gpu.toml and small-net.my-gpu.laud here

On the command line: laudc compile --target ./my-gpu.toml
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import laudc
from laudc.targets import TARGETS, load_target

# An RTX 3050: like the RTX 3060, with fewer of everything. Each number stands beside where it comes from.
CHANGES = {
    "sm_count": "20, source = 'NVIDIA product page: 2560 cores, 128 a multiprocessor'",
    "clock_mhz": "1777, source = 'NVIDIA product page: 1.78 GHz boost'",
    "dram_gb_per_s": "224, source = 'NVIDIA product page: 128-bit GDDR6 at 14 Gbit/s'",
    "l2_kib": "2048, source = 'estimate: 512 KiB beside each of 4 memory controllers'",
}


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        return self.head(x.mean((2, 3)))


def write_description(path: Path) -> None:
    """The file of the RTX 3060 with some lines changed."""
    known = Path(laudc.targets.__path__[0]) / "rtx3060.toml"
    lines = []
    for line in known.read_text().splitlines():
        fact = line.partition(" =")[0]
        if fact == "title":
            line = 'title = "NVIDIA GeForce RTX 3050"'
        if fact in CHANGES:
            line = f"{fact} = {{ value = {CHANGES[fact]} }}"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    path = Path("my-gpu.toml")
    write_description(path)
    target = load_target("./my-gpu.toml")  # every number is checked: a clock in GHz would be refused
    print(
        f"{target.title}: {target.fp32_tflop_per_s:.1f} TFLOP/s, {TARGETS['rtx3060'].fp32_tflop_per_s:.1f} of the 3060"
    )

    network = laudc.transform(SmallNet().eval(), torch.randn(1, 3, 64, 64), paradigm="spatial")
    compiled = laudc.compile(network, target=target)
    print(f"{len(compiled.binaries)} kernels, {compiled.dtype}, for {target.arch}")
    for note in compiled.missing:
        print(f"as source only: {note}")
    laudc.save(compiled, "small-net.my-gpu.laud", force=True)


if __name__ == "__main__":
    main()
