"""Networks by name: what is recorded of them, and pretrained weights without a network."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from laudc import models
from laudc.convert import read_blocks
from laudc.errors import InputError
from laudc.models import condition_random, file_stem, open_model
from laudc.ops.batch_norm import BatchNorm


@pytest.fixture(autouse=True)
def nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches are empty and nobody answers."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("nobody is there")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet50", "resnet50"),
        ("timm/resnet50.a1_in1k", "timm-resnet50.a1_in1k"),
        ("some/folder/net.py:WideNet", "widenet"),
    ],
)
def test_files_are_named_for_the_model(name: str, stem: str) -> None:
    assert file_stem(name) == stem


def test_what_is_recorded_of_a_torchvision_network() -> None:
    named = open_model("resnet18", seed=0, pretrained=False)
    assert not named.module.training
    assert (named.source["model"], named.source["weights"], named.note) == ("resnet18", "random", "")
    assert named.source["library"] == f"torchvision {torchvision.__version__.partition('+')[0]}"
    assert json.loads(named.source["classes"])[:2] == ["tench", "goldfish"]


def test_what_is_recorded_of_a_timm_network() -> None:
    named = open_model("timm/resnet10t", seed=0, pretrained=False)
    assert named.source["library"] == f"timm {timm.__version__}"
    assert json.loads(named.source["classes"])[0] == "tench, Tinca tinca"
    assert named.preprocessing.interpolation == "bicubic"


def test_opening_a_network_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    open_model("timm/resnet10t", seed=0, pretrained=False)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_without_a_network_random_weights_and_a_sentence(name: str) -> None:
    named = open_model(name, seed=0)
    assert named.source["weights"] == "random"
    assert named.note.startswith(f"the pretrained weights of {name} (")
    assert named.note.endswith("; going on with random ones")
    assert "\n" not in named.note


def test_weights_in_torchs_cache_are_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["fc.bias"] = torch.arange(1000.0)
    torch.save(state, cache / "made.pth")  # noqa: TID251  as the download would have left it
    digest = hashlib.sha256((cache / "made.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(weights.value, "url", f"https://download.pytorch.org/models/resnet18-{digest[:8]}.pth")
    (cache / "made.pth").rename(cache / f"resnet18-{digest[:8]}.pth")
    named = open_model("resnet18", seed=0)
    assert (named.source["weights"], named.note) == ("IMAGENET1K_V1", "")
    assert torch.equal(named.module.state_dict()["fc.bias"], torch.arange(1000.0))


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_weights_in_torchs_cache_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]).write_bytes(content)
    named = open_model("resnet18", seed=0)
    assert named.source["weights"] == "random"
    assert named.note.endswith(".pth is damaged, delete it; going on with random ones")


def test_weights_of_timm_are_loaded_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = timm.create_model("resnet10t").state_dict()
    state["fc.bias"] = torch.arange(1000.0)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    monkeypatch.setattr(models, "_timm_file", lambda config: path)
    named = open_model("timm/resnet10t", seed=0)
    assert (named.source["weights"], named.note) == ("c3_in1k", "")
    assert torch.equal(named.module.state_dict()["fc.bias"], torch.arange(1000.0))


def test_a_place_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(models, "_PROBE_S", 0.01)

    def hang(*_: object, **__: object) -> None:
        answered.wait()
        raise urllib.error.URLError("at last")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    with pytest.raises(ConnectionError, match=r"no connection to example\.org"):
        models._probe("https://example.org/weights.pth")
    answered.set()


def test_any_answer_is_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(request: urllib.request.Request, timeout: float) -> None:
        raise urllib.error.HTTPError(request.full_url, 403, "forbidden", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", forbid)
    models._probe("https://example.org/weights.pth")


def test_conditioning_sets_the_last_norm_of_each_branch() -> None:
    named = open_model("timm/resnet10t", seed=0, pretrained=False)  # timm makes them zero
    program = read_blocks(named.module, torch.randn(1, 3, 64, 64))
    condition_random(program)
    for block in program.blocks:
        norms = [op for op in map(program.op, map(program.node, block.branch)) if isinstance(op, BatchNorm)]
        assert [norm.weight.mean().item() for norm in norms] == pytest.approx([1.0] * (len(norms) - 1) + [0.2])


def test_a_file_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "parts_of_it.py").write_text("from torch import nn\nWIDTH = 4\n")
    (tmp_path / "own.py").write_text("from parts_of_it import WIDTH, nn\ndef net(): return nn.Conv2d(3, WIDTH, 1)\n")
    named = open_model(f"{tmp_path}/own.py:net", seed=0)
    assert named.source["weights"] == "own"
    assert named.module.out_channels == 4


def test_a_file_without_classes_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    with pytest.raises(InputError, match=r"has no class 'Net'; write a torch.nn.Module class in it"):
        open_model(f"{tmp_path}/empty.py:Net", seed=0)
