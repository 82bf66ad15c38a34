"""A network of your own: convert it, train it a little, compile it, and check that skipping changed no number.

python examples/your_own_network.py        writes wave-net.laud and wave-net.cpu.laud here

The same file serves the command line: laudc convert examples/your_own_network.py:WaveNet --size 32
"""

import torch
from torch import Tensor, nn

import laudc
from laudc.dynamic_model import DynamicModel
from laudc.ladder import climb, require


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class WaveNet(nn.Module):
    """Tells which way the stripes of an image run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32, stride=2), Block(32, 32))
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def stripes(batch: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(2, (batch,))
    waves = torch.sin(torch.arange(32) * 0.8 + 6.3 * torch.rand(batch, 1)).view(batch, 1, 1, 32).expand(-1, 3, 32, -1)
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, waves, waves.transpose(2, 3))
    return images + 0.5 * torch.randn(batch, 3, 32, 32), labels


def train(network: DynamicModel, steps: int, wanted_rate: float) -> None:
    """Cross entropy, and a pull of the executed share of the arithmetic towards the wanted one."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for step in range(steps):
        network.temperature = 5.0 * 0.1 ** (step / steps)
        images, labels = stripes(32)
        loss = nn.functional.cross_entropy(network(images), labels)
        blocks = network.block_macs()
        executed = sum(block.executed for block in blocks) / sum(block.dense for block in blocks)
        optimizer.zero_grad()
        (loss + 5 * (executed - wanted_rate) ** 2).backward()
        optimizer.step()
    network.eval()


def main() -> None:
    torch.manual_seed(0)
    images, labels = stripes(8)
    network = laudc.transform(WaveNet(), images, paradigm="spatial", granularity="4")
    train(network, steps=60, wanted_rate=0.5)
    laudc.save(network, "wave-net.laud", force=True)

    compiled = laudc.compile(network, target="cpu", batch=8)
    correct = (compiled(images).argmax(1) == labels).float().mean()
    print(f"{correct:.0%} of 8 images right; what each masker kept:")
    for masker, rate in compiled.rates.items():
        print(f"  {masker}: {rate:.0%}")

    rungs = climb(compiled)
    require(rungs)
    print(f"all {len({rung.name for rung in rungs})} rungs of the equality ladder hold ({len(rungs)} comparisons)")
    laudc.save(compiled, "wave-net.cpu.laud", force=True)


if __name__ == "__main__":
    main()
