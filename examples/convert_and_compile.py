"""Make a torchvision network dynamic, compile it for this CPU, and time it at several rates.

python examples/convert_and_compile.py                 ResNet-50, 224 x 224
python examples/convert_and_compile.py resnet18 96     another network, another size
"""

import statistics
import sys
import time
from collections.abc import Callable

import laudc  # before torchvision, which may need its repair

# isort: split
import torch
import torchvision


def main(name: str = "resnet50", size: str = "224") -> None:
    static = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, int(size), int(size))
    print(f"torch eager, static: {median_ms(static, image):.1f} ms")
    for rate in (1.0, 0.5, 0.1):
        dynamic = laudc.transform(static, image, paradigm="spatial", rate=rate)  # random masks: nothing is trained yet
        dynamic(image)
        blocks = dynamic.block_macs()
        share = sum(float(block.executed) for block in blocks) / sum(block.dense for block in blocks)
        network = laudc.compile(dynamic, target="cpu")
        print(f"laudc at rate {rate}: {median_ms(network, image):.1f} ms, {share:.0%} of the blocks' arithmetic")


@torch.no_grad()
def median_ms(network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> float:
    times = []
    for _ in range(12):
        start = time.perf_counter()
        network(image)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])  # the first ones warm up


if __name__ == "__main__":
    main(*sys.argv[1:])
