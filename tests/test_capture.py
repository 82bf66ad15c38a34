"""A network becomes a program that computes the same, under the same names, and the user's own stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

import laudc
from laudc.capture import capture
from laudc.compare import relative_error
from laudc.ops.batch_norm import BatchNorm
from laudc.program import Program
from laudc.testing import (
    TinyNet,
    conditioned,
    conv_norm,
    random_images,
    state_hash,
    tiny,
)

FAST = {"resnet18", "timm_resnet26d"}
LIBRARY: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(weights=None),
    "resnet50": lambda: models.resnet50(weights=None),
    "resnext50": lambda: models.resnext50_32x4d(weights=None),
    "wide_resnet50": lambda: models.wide_resnet50_2(weights=None),
    "dilated_resnet50": lambda: models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]),
    "timm_resnet50": lambda: timm.create_model("resnet50"),
    "timm_resnet26d": lambda: timm.create_model("resnet26d"),
}
WITH_NORM_ACT: dict[str, Callable[[], nn.Module]] = {
    "timm_resnetv2_50": lambda: timm.create_model("resnetv2_50"),
    "timm_regnetx": lambda: timm.create_model("regnetx_002"),
    "timm_regnety": lambda: timm.create_model("regnety_002"),
}


def torch_calls(program: Program) -> list[str]:
    """What is left in torch's own words, elements and constants apart."""
    return [
        str(node.target)
        for node in program.nodes
        if node.op in ("call_function", "call_method", "call_module") and program.op(node) is None
    ]


# ---- hand-written networks: one way of writing each


class HandWritten(nn.Module):
    """A stem, one residual block and a classifier; the subclasses say how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3)
        self.first = conv_norm(8, 8, 3)
        self.second = conv_norm(8, 8, 3)
        self.classifier = nn.Linear(8, 5)

    def body(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2, padding=1)
        return F.relu(x + self.second(F.relu(self.first(x))))

    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class TensorMethods(HandWritten):
    def body(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x).relu_(), (3, 3), (2, 2), (1, 1))
        return x.add(self.second(self.first(x).relu())).relu_()


class InPlaceAdd(HandWritten):
    def body(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), kernel_size=3, stride=2, padding=1)
        out = self.second(torch.relu(self.first(x)))
        out += x
        return F.relu_(out)


class AddMethod(HandWritten):
    def body(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return torch.relu(self.second(torch.relu_(self.first(x))).add_(x))


class ViewHead(HandWritten):
    def head(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, (1, 1))
        out: Tensor = self.classifier(pooled.view(pooled.size(0), -1))
        return out


class ReshapeHead(HandWritten):
    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.reshape(F.adaptive_avg_pool2d(x, 1), (-1, 8)))
        return out


class FlattenHead(HandWritten):
    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1).contiguous(), 1))
        return out


class MeanHead(HandWritten):
    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(x.mean([2, 3]))
        return out


class KeptMeanHead(HandWritten):
    def head(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.mean(x, dim=(-2, -1), keepdim=True).reshape(x.shape[0], -1))
        return out


HAND_WRITTEN: list[type[HandWritten]] = [
    HandWritten,
    TensorMethods,
    InPlaceAdd,
    AddMethod,
    ViewHead,
    ReshapeHead,
    FlattenHead,
    MeanHead,
    KeptMeanHead,
]


# ---- the same network


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in LIBRARY]
)
def test_a_library_network_becomes_ops_under_its_own_names(name: str) -> None:
    model = conditioned(LIBRARY[name])
    program = capture(model, random_images(1, 3, 64, 64))
    x = random_images(2, 3, 64, 64, seed=1)
    with torch.no_grad():
        # the same torch calls in the same order: not even rounding differs
        assert relative_error(program(x)[0], model(x)) <= 1e-6
    assert torch_calls(program) == []
    assert program.graph.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("make", HAND_WRITTEN)
def test_a_hand_written_network_becomes_ops_under_its_own_names(make: type[HandWritten]) -> None:
    model = conditioned(make, size=(16, 16))
    program = capture(model, random_images(2, 3, 17, 15))
    x = random_images(2, 3, 17, 15, seed=1)
    with torch.no_grad():
        assert relative_error(program(x)[0], model(x)) <= 1e-6
    assert torch_calls(program) == []
    assert program.graph.state_dict().keys() == model.state_dict().keys()


def test_every_value_of_the_program_has_a_type() -> None:
    program = capture(tiny(), random_images(2, 3, 37, 45))
    types = [str(node.meta["types"][0]) for node in program.nodes if node.op != "output"]
    assert types[0] == "float32[2, 3, 37, 45]"
    assert types[-1] == "float32[2, 10]"


def test_the_program_of_a_small_network_reads_like_this(golden: Callable[[str], None]) -> None:
    golden(capture(HandWritten().eval(), random_images(2, 3, 17, 15)).text())


def test_what_laudc_has_no_op_for_stays_a_torch_node() -> None:
    class Cosine(HandWritten):
        def body(self, x: Tensor) -> Tensor:
            return torch.cos(super().body(x))

    program = capture(Cosine().eval(), random_images(2, 3, 16, 16))
    assert len(torch_calls(program)) == 1
    assert "%cos = cos(%relu_2) : float32[2, 8, 8, 8]" in program.text()


def test_one_layer_called_twice_is_one_set_of_weights() -> None:
    class Twice(HandWritten):
        def body(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            return F.relu(self.first(F.relu(self.first(x))))

    program = capture(Twice().eval(), random_images(1, 3, 8, 8))
    calls = [op for node, op in program.ops() if node.target == "first.0"]
    assert len(calls) == 2
    assert calls[0] is calls[1]


@pytest.mark.parametrize(
    ("make", "function"),
    [
        (nn.ReLU, "relu"),
        (nn.ReLU6, "relu6"),
        (nn.SiLU, "silu"),
        (nn.GELU, "gelu"),
        (nn.Hardswish, "hardswish"),
        (nn.Sigmoid, "sigmoid"),
    ],
)
def test_an_activation_module_is_an_op(make: type[nn.Module], function: str) -> None:
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 1), make()), random_images(1, 3, 5, 5))
    assert f"activation(function={function})" in program.text()


def test_a_default_argument_keeps_its_default() -> None:
    class Extra(HandWritten):
        def forward(  # type: ignore[override]
            self, x: Tensor, mask: Tensor | None = None, scale: int = 2, *rest: Tensor, mode: str = "plain"
        ) -> Tensor:
            if mask is not None or mode != "plain":
                return x
            out = self.body(x)
            for _ in range(scale):
                out = F.relu(out + self.second(F.relu(self.first(out))))
            return self.head(out)

    model = conditioned(Extra, size=(16, 16))
    program = capture(model, random_images(2, 3, 16, 16))
    x = random_images(2, 3, 16, 16, seed=1)
    with torch.no_grad():
        assert relative_error(program(x)[0], model(x)) <= 1e-6
    assert [node.name for node in program.nodes if node.op == "placeholder"] == ["x"]


# ---- training


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ["timm_resnet26d", *WITH_NORM_ACT])]
)
def test_training_moves_every_norms_statistics_as_the_network_does(name: str) -> None:
    model = conditioned((LIBRARY | WITH_NORM_ACT)[name])
    graph = capture(model, random_images(2, 3, 64, 64)).graph.train()
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    x = random_images(4, 3, 64, 64, seed=1)
    with torch.no_grad():
        graph(x)
        model.train()(x)
    moved = graph.state_dict()
    means = [key for key in moved if key.endswith("running_mean")]
    assert len(means) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(moved[key], value, atol=1e-6, rtol=1e-5)
    assert all(not torch.equal(moved[key], before[key]) for key in means)


def test_timms_norm_with_activation_is_a_norm_and_an_activation() -> None:
    program = capture(timm.create_model("resnetv2_50").eval(), random_images(1, 3, 64, 64))
    norms = [node for node, op in program.ops() if isinstance(op, BatchNorm)]
    assert len(norms) == 49
    assert [program.op(next(iter(node.users))).spec.name for node in norms] == ["activation"] * 49  # type: ignore[union-attr]


def test_the_users_model_is_not_touched_by_a_train_step() -> None:
    model = conditioned(TinyNet).train()
    before = state_hash(model)
    graph = capture(model, random_images(2, 3, 32, 32)).graph
    assert state_hash(model) == before
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    graph(random_images(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert state_hash(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    after = graph.state_dict()
    assert not torch.equal(after["stem.0.0.weight"], model.state_dict()["stem.0.0.weight"])


@pytest.mark.parametrize("training", [True, False])
def test_the_program_takes_over_the_mode(training: bool) -> None:
    model = copy.deepcopy(tiny()).train(training)
    graph = capture(model, random_images(2, 3, 32, 32)).graph
    assert {module.training for module in graph.modules()} == {training}
    assert model.training is training


def test_a_norm_that_its_user_froze_stays_frozen() -> None:
    network = conditioned(TinyNet).train()
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    model = laudc.transform(network, random_images(2, 3, 37, 45))
    found = [op for _, op in model.program.ops() if op.spec.name == "batch_norm"]
    assert [op.training for op in found].count(False) == 1
    before = frozen.running_mean.clone()
    model(random_images(4, 3, 37, 45))
    assert torch.equal(next(op for op in found if not op.training).running_mean, before)


def test_functional_dropout_follows_the_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conditioned(TinyNet)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(self.body(x), 0.5, self.training)

    x = random_images(2, 3, 37, 45)
    model = laudc.transform(Dropping().train(), x).train()
    assert bool((model(x) == 0).any())
    assert not bool((model.eval()(x) == 0).any())


def test_the_callers_example_is_not_written() -> None:
    class WritesItsInput(HandWritten):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.relu_())

    x = random_images(2, 3, 16, 16)
    kept = x.clone()
    program = capture(WritesItsInput().eval(), x)
    program(x)
    assert torch.equal(x, kept)
