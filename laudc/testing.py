"""For whoever tests a pass, an operation or a kernel, here or in a package of their own: small networks with honest
weights, programs written line by line, random decisions, a strict comparison.

program = converted(tiny(), random_images(2, 3, 37, 45), paradigm="spatial")
before, after = around(program, "fuse_gather_conv")
same_output(before, after, x, random_masks_like(program, rate=0.3, batch=2))
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, Target

from laudc.capture import capture
from laudc.compare import relative_error
from laudc.kernels.toolchain import EXTRA, CudaCompiler, Missing, find_compiler
from laudc.ops import OPS, Op, Spec
from laudc.ops._masker import Masker
from laudc.ops.patch_masker import PatchMaskerSpec
from laudc.passes import PASSES
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.pipeline import lowering, ordered, run
from laudc.plan import make_plan
from laudc.program import Program, elements, insert_op, types_of
from laudc.types import TensorType

TOLERANCE = 1e-5
"""Of the largest output. A float32 sum of some hundred products taken in another order moves by about 1e-6."""


# ---- networks


def random_images(*shape: int, seed: int = 0) -> Tensor:
    """A batch of noise, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioned(make: Callable[[], nn.Module], *, size: tuple[int, int] = (64, 64), seed: int = 0) -> nn.Module:
    """A network in evaluation whose norms do something and keep every value finite, however deep it is.

    Scales and shifts are random; the running statistics are half of a random batch's own, half (0, 1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.5
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            model.train()(torch.randn(4, first.in_channels, *size))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution that keeps the map lined up, and its norm."""
    conv = _conv(inputs, outputs, kernel, stride=stride, groups=groups, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _conv(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)


class Residual(nn.Module):
    """act(shortcut(x) + branch(x)); the branch is convolutions with norms, an activation between each two."""

    def __init__(self, *branch: nn.Module, shortcut: nn.Module | None = None, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        between = [module for part in branch for module in (part, act())][:-1]
        self.branch = nn.Sequential(*between)
        self.shortcut = shortcut or nn.Identity()
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.branch(x) + self.shortcut(x))
        return out


class TinyNet(nn.Module):
    """One of each: basic and bottleneck, identity and projection, stride, groups, dilation; four stages, six blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stage1 = nn.Sequential(Residual(conv_norm(16, 16, 3), conv_norm(16, 16, 3)))
        self.stage2 = nn.Sequential(
            Residual(conv_norm(16, 24, 3, stride=2), conv_norm(24, 24, 3), shortcut=conv_norm(16, 24, stride=2)),
            Residual(conv_norm(24, 16), conv_norm(16, 16, 3, dilation=2), conv_norm(16, 24)),
        )
        self.stage3 = nn.Sequential(
            Residual(
                conv_norm(24, 16), conv_norm(16, 16, 3, stride=2, groups=4), conv_norm(16, 32),
                shortcut=conv_norm(24, 32, stride=2),
            ),
            Residual(conv_norm(32, 16), conv_norm(16, 16, 3, groups=8), conv_norm(16, 32)),
        )  # fmt: skip
        self.stage4 = nn.Sequential(
            Residual(conv_norm(32, 16), conv_norm(16, 16, 3), conv_norm(16, 48), shortcut=conv_norm(32, 48))
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        out: Tensor = self.head(maps)
        return out


class Preactivated(nn.Module):
    """x + branch(x); the branch is convolutions with a norm and an activation before each."""

    def __init__(self, *convs: nn.Conv2d) -> None:
        super().__init__()
        before = [(nn.BatchNorm2d(conv.in_channels), nn.ReLU(inplace=True), conv) for conv in convs]
        self.branch = nn.Sequential(*(module for three in before for module in three))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class PreactivatedNet(nn.Module):
    """Two basic and two bottleneck blocks with their norms first, as wide as tensor cores want them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 4, 3, bias=False)
        self.basic = nn.Sequential(*(Preactivated(_conv(64, 64, 3), _conv(64, 64, 3)) for _ in range(2)))
        self.widen = nn.Conv2d(64, 256, 2, 2, bias=False)
        self.bottleneck = nn.Sequential(
            *(Preactivated(_conv(256, 64), _conv(64, 64, 3), _conv(64, 256)) for _ in range(2))
        )
        self.norm = nn.BatchNorm2d(256)
        self.classifier = nn.Linear(256, 1000)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.bottleneck(self.widen(self.basic(self.stem(x))))
        out: Tensor = self.classifier(torch.relu(self.norm(maps)).mean((2, 3)))
        return out


@functools.cache
def tiny() -> nn.Module:
    """The TinyNet that tests may read but not change."""
    return conditioned(TinyNet)


# ---- programs


def converted(
    model: nn.Module, example: Tensor, *, paradigm: str = "spatial", granularity: str | None = None
) -> Program:
    """The dense and masked program of a network."""
    found = FindBlocks().run(capture(model, example))
    plan = make_plan(found.blocks, paradigm=paradigm, granularity=granularity)
    return InsertMaskers(plan=plan).run(found)


@functools.cache
def tiny_converted(paradigm: str, batch: int = 3, height: int = 37, width: int = 45) -> Program:
    """TinyNet, converted, on a map that no patch divides."""
    return converted(tiny(), random_images(batch, 3, height, width), paradigm=paradigm)


def around(program: Program, name: str) -> tuple[Program, Program]:
    """The program before and after one pass of the lowering, the passes that come earlier done."""
    names = ordered("lower")
    earlier = [PASSES[other]() for other in names[: names.index(name)]]
    before, _ = run(program, earlier)
    after, _ = run(before, [PASSES[name]()])
    return before, after


@functools.cache
def _tiny_stages(paradigm: str) -> tuple[Program, ...]:
    """TinyNet before the lowering and after each of its passes."""
    stages = [tiny_converted(paradigm)]
    run(stages[0], lowering(), watch=lambda _, before, after: stages.append(after))
    return tuple(stages)


def tiny_around(name: str, paradigm: str = "spatial") -> tuple[Program, Program]:
    """TinyNet before and after one pass of the lowering."""
    index = ordered("lower").index(name)
    before, after = _tiny_stages(paradigm)[index : index + 2]
    return before, after


def change_text(before: Program, after: Program) -> str:
    """Two programs, one above the other, for a golden file."""
    return f"{before.text()}\nbecomes\n\n{after.text()}"


def filled(spec: Spec, generator: torch.Generator) -> Op:
    """The operation with random weights, about as large as keeps its output about as large as its input."""
    op = OPS[spec.name].empty(spec)
    for name, weight in op.named_parameters():
        fan_in = max(weight[0].numel(), 1) if name.startswith("weight") else 4
        with torch.no_grad():
            weight.normal_(std=fan_in**-0.5, generator=generator)
    for buffer in op.buffers():
        buffer.uniform_(0.5, 1.5, generator=generator) if buffer.ndim else buffer.zero_()
    return op.eval()


class Sketch:
    """A program written line by line, for tests that need one which no network leads to.

    sketch = Sketch()
    x = sketch.input(2, 8, 9, 7)
    y = sketch.op("conv", Conv2dSpec(in_channels=8, out_channels=4), x)
    program = sketch.returns(y)
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._program = Program(graph=fx.GraphModule(nn.Module().eval(), fx.Graph()))
        self._generator = torch.Generator().manual_seed(seed)
        self._decided: dict[str, tuple[fx.Node, fx.Node]] = {}

    def input(self, *shape: int) -> fx.Node:
        """The image batch."""
        self._x = self._program.graph.graph.placeholder("x")
        self._x.meta["types"] = (TensorType(shape=shape, dtype="float32"),)
        return self._x

    def op(self, name: str, spec: Spec, *operands: fx.Node, block: str = "") -> fx.Node:
        """One call of an operation with random weights."""
        return insert_op(self._program, name, filled(spec, self._generator), operands, block=block)

    def masker(self, name: str, x: fx.Node, spec: Spec, *, block: str = "") -> fx.Node:
        """The decisions of a masker, whose key is its name."""
        node = self.op(name, spec, x, block=block)
        node.args = (x, self._masks())
        mask, logits = elements(node, "mask", "logits")
        self._decided[name] = (mask, logits)
        return mask

    def patches(self, name: str, x: fx.Node, *, granularity: int, block: str = "") -> fx.Node:
        """The decisions of a spatial masker."""
        channels = types_of(x)[0].shape[1]
        return self.masker(name, x, PatchMaskerSpec(key=name, channels=channels, granularity=granularity), block=block)

    def torch_call(self, function: Callable[..., Tensor], *operands: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        """One call of a torch function that stays what it is, with a result of that shape."""
        node = self._program.graph.graph.call_function(function, operands)
        node.meta["types"] = (TensorType(shape=shape, dtype="float32"),)
        return node

    def returns(self, value: fx.Node) -> Program:
        """The finished program."""
        graph = self._program.graph.graph
        graph.output((value, dict(self._decided)) if self._decided else value)
        return self._program.finished()

    def _masks(self) -> fx.Node:
        """The second input, which comes with the first masker."""
        graph = self._program.graph.graph
        known = [node for node in graph.nodes if node.target == "masks"]
        with graph.inserting_after(self._x):
            return known[0] if known else graph.placeholder("masks", default_value=None)


# ---- decisions


def random_masks_like(program: Program, *, rate: float, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Decisions for every masker of a program, each unit of each sample on with probability `rate`."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for node, op in program.ops():
        if isinstance(op, Masker):
            units = types_of(node)[op.first].shape[1:]
            masks[op.key] = (torch.rand(batch, *units, generator=generator) < rate).float()
    return masks


# ---- comparison


def same_output(
    a: Program, b: Program, x: Tensor, masks: Mapping[str, Tensor] | None = None, *, tolerance: float = TOLERANCE
) -> None:
    """Assert that two programs compute the same, finite values, given the decisions, and take the same decisions."""
    with torch.no_grad():
        (expected, decided), (found, decided_too) = a(x, masks), b(x, masks)
    error = relative_error(found, expected)
    assert math.isfinite(error), "an output is not finite: a program read what nobody computed"
    assert error <= tolerance, f"the outputs differ by {error:.1e}"
    assert decided.keys() == decided_too.keys()
    for key, (mask, logits) in decided.items():
        assert torch.equal(mask, decided_too[key][0]), f"the decisions of {key} differ"
        torch.testing.assert_close(decided_too[key][1], logits, atol=tolerance * float(logits.abs().max()), rtol=0)


class _Overwriting(fx.Interpreter):
    def call_module(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, object]) -> object:
        out = super().call_module(target, args, kwargs)
        op = self.module.get_submodule(cast(str, target))
        if not isinstance(op, Op) or not op.spec.in_place:
            return out
        results = list(out) if isinstance(out, tuple) else [out]
        for name, index in op.spec.in_place.items():
            results[index] = cast(Tensor, args[op.spec.operands.index(name)]).copy_(results[index])
        return tuple(results) if isinstance(out, tuple) else results[0]


def run_overwriting(program: Program, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
    """What comes out where an update in place really writes into its buffer (the reference writes into a copy)."""
    with torch.no_grad():
        out = _Overwriting(program.graph).run(x, masks)
    return cast(Tensor, out[0])


def state_hash(model: nn.Module) -> str:
    """sha256 of every parameter and buffer, by name, and of the mode of every module."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(repr([module.training for module in model.modules()]).encode())
    return digest.hexdigest()


# ---- kernels


def nvrtc_for(arch: str) -> CudaCompiler:
    """NVRTC, which every machine that tests has: without it a test fails."""
    compiler = find_compiler(arch)
    assert not isinstance(compiler, Missing), str(compiler)
    assert compiler.name == "NVRTC", f"{compiler} is here, but not NVRTC for {arch}; {EXTRA}"
    return compiler
