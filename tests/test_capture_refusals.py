"""A network that cannot be read is refused with the reason and the next step, in one line."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laudc.capture import capture
from laudc.errors import CaptureError, InputError
from laudc.testing import TinyNet, conditioned, random_images, tiny

EXAMPLE = random_images(2, 3, 16, 16)


def one_line(error: pytest.ExceptionInfo[CaptureError]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


class DependsOnValues(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class LoopsOverImages(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.stem(image[None])[0] for image in x])


class AsksForItsSize(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, : int(x.shape[2])])


@pytest.mark.parametrize("make", [DependsOnValues, LoopsOverImages, AsksForItsSize])
def test_control_flow_on_values_is_refused(make: type[TinyNet]) -> None:
    with pytest.raises(CaptureError, match=f"the forward of {make.__name__} cannot be traced") as error:
        capture(make().eval(), EXAMPLE)
    assert "take control flow that depends on values out of forward" in one_line(error)


def test_an_example_with_other_channels_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"does not run on an input of \[2, 4, 16, 16\]") as error:
        capture(tiny(), random_images(2, 4, 16, 16))
    assert "try another size (--size, in Python example_inputs=...)" in one_line(error)


def test_an_example_that_the_network_asserts_against_is_refused() -> None:
    class Exact(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[2] == 32, "only 32 x 32")
            return super().forward(x)

    with pytest.raises(CaptureError, match="only 32 x 32"):
        capture(Exact().eval(), EXAMPLE)


@pytest.mark.parametrize(
    "example", [torch.zeros(3, 16, 16), torch.zeros(2, 3, 16, 16, dtype=torch.float64), torch.zeros(2, 3)]
)
def test_an_example_that_is_no_float_image_batch_is_an_input_error(example: Tensor) -> None:
    with pytest.raises(InputError, match="give a float32 image batch"):
        capture(tiny(), example)


class TwoInputs(TinyNet):
    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + prompt


class TwoInputsByName(TinyNet):
    def forward(self, x: Tensor, *, prompt: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + prompt


@pytest.mark.parametrize("make", [TwoInputs, TwoInputsByName])
def test_a_second_input_is_refused_by_name(make: type[TinyNet]) -> None:
    with pytest.raises(CaptureError, match="needs a second input, prompt; wrap it") as error:
        capture(make().eval(), EXAMPLE)
    one_line(error)


class ReturnsTwo(TinyNet):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class ReturnsByName(TinyNet):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


@pytest.mark.parametrize(("make", "what"), [(ReturnsTwo, "tuple"), (ReturnsByName, "dict")])
def test_more_than_one_result_is_refused(make: type[TinyNet], what: str) -> None:
    with pytest.raises(CaptureError, match=f"the model returns a {what}; wrap it") as error:
        capture(make().eval(), EXAMPLE)
    one_line(error)


@pytest.mark.parametrize("name", ["graph", "code", "meta", "recompile", "shape_env"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_submodule_with_a_name_of_torch_fx_is_refused(name: str, inside: bool) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = nn.Conv2d(3, 3, 1)
            self.add_module(name, nn.Sequential(conv) if inside else conv)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = getattr(self, name)(x) + x
            return out

    with pytest.raises(CaptureError, match=f"has a submodule called {name}, .*; rename it") as error:
        capture(Named(), EXAMPLE)
    one_line(error)


def test_deeper_inside_and_where_it_is_not_called_such_a_name_is_no_trouble() -> None:
    class Named(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.meta = nn.Linear(1, 1)
            self.stem.add_module("graph", nn.Conv2d(16, 16, 1))

    capture(conditioned(Named, size=(16, 16)), EXAMPLE)


class ReadsUnderItsOldName(TinyNet):
    """`normed` changes under the hands of F.relu: torch adds the activated map, the traced text says otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        normed = self.stem[0](x)
        active = F.relu(normed, inplace=True)
        out: Tensor = self.stage1(active) + normed
        return out


class AddsIntoAnAlias(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        total = first
        total += self.stage1(first)
        out: Tensor = self.stage1(first) + total
        return out


@pytest.mark.parametrize("make", [ReadsUnderItsOldName, AddsIntoAnAlias])
def test_an_aliasing_trick_is_refused(make: type[TinyNet]) -> None:
    with pytest.raises(CaptureError, match="the traced network differs from the module") as error:
        capture(conditioned(make, size=(16, 16)), EXAMPLE)
    assert "changed in place" in one_line(error)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_trick_behind_a_norm_is_found_whatever_its_scale(scale: float) -> None:
    class Clamps(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.conv(x)
            y.clamp_(-0.05, 0.05)
            out: Tensor = x + self.norm(y)
            return out

    model = conditioned(Clamps, size=(16, 16))
    nn.init.constant_(model.norm.weight, scale)
    with pytest.raises(CaptureError, match="the traced network differs from the module"):
        capture(model, EXAMPLE)


def test_scales_of_zero_are_zero_again_after_the_comparison() -> None:
    model = conditioned(TinyNet, size=(16, 16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight[::2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = capture(model, EXAMPLE).graph.state_dict()
    assert all(torch.equal(found[name], value) for name, value in before.items())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_network_that_overflows_is_refused() -> None:
    model = TinyNet().eval()
    nn.init.constant_(model.head[3].weight, torch.inf)
    with pytest.raises(CaptureError, match="output on the example is not finite"):
        capture(model, EXAMPLE)


def test_a_network_without_its_layer_is_refused_with_its_own_words() -> None:
    class Misspelt(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.haed(x)
            return out

    with pytest.raises(CaptureError, match="has no attribute 'haed'"):
        capture(Misspelt().eval(), EXAMPLE)
