"""Files: what goes in comes out, nothing in them runs, and one for another place is refused or built again."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import laudc
from laudc.artifact import read, read_converted, save
from laudc.compiled import CompiledModel
from laudc.dynamic_model import DynamicModel
from laudc.errors import ArtifactError, InputError, LaudcError
from laudc.kernels.archive import read_archive, write_archive
from laudc.testing import TinyNet, conditioned, random_images

IMAGE = random_images(1, 3, 37, 45)


@pytest.fixture(scope="module")
def dynamic() -> DynamicModel:
    return laudc.transform(conditioned(TinyNet), IMAGE, paradigm="spatial+channel", rate=0.5).eval()


@pytest.fixture(scope="module")
def compiled(dynamic: DynamicModel) -> CompiledModel:
    return laudc.compile(dynamic, "cpu")


@pytest.fixture
def converted_file(dynamic: DynamicModel, tmp_path: Path) -> Path:
    save(tmp_path / "tiny.laud", dynamic)
    return tmp_path / "tiny.laud"


@pytest.fixture
def compiled_file(compiled: CompiledModel, tmp_path: Path) -> Path:
    save(tmp_path / "tiny.cpu.laud", compiled)
    return tmp_path / "tiny.cpu.laud"


def test_a_converted_file_gives_the_same_program_plan_and_numbers(dynamic: DynamicModel, converted_file: Path) -> None:
    found = read_converted(converted_file).dynamic()
    assert found.program.text() == dynamic.program.text()
    assert found.plan.to_json() == dynamic.plan.to_json()
    assert found.program.blocks == dynamic.program.blocks
    masks = _decisions(dynamic)
    assert torch.equal(found(IMAGE, masks), dynamic(IMAGE, masks))


def _decisions(model: DynamicModel) -> dict[str, torch.Tensor]:
    model(IMAGE)
    return model.decisions


def test_a_loaded_model_trains(converted_file: Path) -> None:
    model = read_converted(converted_file).dynamic().train()
    model.plan = replace(model.plan, rate=None)  # forced masks leave the maskers without a gradient
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(random_images(4, 3, 37, 45)).square().mean().backward()
    optimizer.step()
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any("masker" in name for name in moved)
    assert any(name.endswith("running_mean") for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("trust", [False, True])
def test_a_compiled_file_gives_the_same_numbers_bit_for_bit(
    dynamic: DynamicModel, compiled: CompiledModel, compiled_file: Path, trust: bool
) -> None:
    loaded = laudc.load(compiled_file, trust=trust)
    assert isinstance(loaded, CompiledModel)
    masks = _decisions(dynamic)
    assert torch.equal(loaded(IMAGE, masks), compiled(IMAGE, masks))


def test_weights_that_lie_anywhere_in_a_file_are_safe_to_load(compiled_file: Path) -> None:
    """Kernels load whole vectors: what safetensors hands out unaligned must be copied first."""
    loaded = laudc.load(compiled_file)
    assert isinstance(loaded, CompiledModel)
    assert bool(torch.isfinite(loaded(IMAGE)).all())


def test_a_file_holds_no_pickle(converted_file: Path, compiled_file: Path) -> None:
    for path in (converted_file, compiled_file):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                assert Path(name).suffix in {".json", ".safetensors", ".txt", ".so", ".py", ".cu", ".cubin"}
                assert not archive.read(name).startswith(b"\x80\x04")


def test_a_compiled_file_is_not_compiled_again(compiled_file: Path) -> None:
    with pytest.raises(InputError, match="is compiled already"):
        laudc.compile(compiled_file)


def test_binaries_in_a_file_are_not_used_without_trust(
    dynamic: DynamicModel, compiled: CompiledModel, compiled_file: Path
) -> None:
    """A library in the file that is no library at all: harmless until it is trusted."""
    manifest, members = read_archive(compiled_file)
    members = {name: b"not a library" if name.endswith(".so") else content for name, content in members.items()}
    del manifest["hashes"]
    write_archive(compiled_file, manifest, members)
    loaded = laudc.load(compiled_file)
    assert isinstance(loaded, CompiledModel)
    masks = _decisions(dynamic)
    assert torch.equal(loaded(IMAGE, masks), compiled(IMAGE, masks))


def _edited(path: Path, **changes: object) -> Path:
    """The file with another manifest and hashes that hold: what an author of bad files would write."""
    manifest, members = read_archive(path)
    del manifest["hashes"]
    write_archive(path, manifest | changes, members)
    return path


@pytest.mark.slow
def test_a_file_of_another_cpu_is_refused_when_trusted_and_rebuilt_otherwise(compiled_file: Path) -> None:
    cpu = {"name": "other", "triple": "riscv64-linux", "features": ["vector-of-the-future"]}
    _edited(compiled_file, cpu=cpu)
    with pytest.raises(ArtifactError, match="this CPU lacks vector-of-the-future"):
        laudc.load(compiled_file, trust=True)
    assert isinstance(laudc.load(compiled_file), CompiledModel)


def test_a_file_lowered_by_other_passes_asks_for_a_new_one(compiled_file: Path) -> None:
    with pytest.raises(ArtifactError, match="compile it again"):
        laudc.load(_edited(compiled_file, lowered="0" * 64))


@pytest.mark.parametrize(
    "changes",
    [
        {"target": {"name": "cpu"}},
        {"plan": {"paradigm": "spatial"}},
        {"plan": {"paradigm": "spatial", "decisions": [[1, 2]], "rate": None, "keep_first": False, "seed": 0}},
        {"shape": "224"},
        {"shape": [1, 4, 37, 45]},
        {"without": ["everything"]},
        {"steps": "none"},
        {"kind": "other"},
    ],
)
def test_a_manifest_that_does_not_hold_is_one_line(compiled_file: Path, changes: dict[str, object]) -> None:
    with pytest.raises(LaudcError) as caught:
        laudc.load(_edited(compiled_file, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("op", "eval"),
        ("op", "../../evil"),
        ("spec", {"in_channels": "many"}),
        ("spec", {"unknown": 1}),
        ("reads", ["nobody"]),
        ("target", "no.such.weights"),
    ],
)
def test_a_graph_that_does_not_hold_is_one_line(converted_file: Path, field: str, value: object) -> None:
    manifest, members = read_archive(converted_file)
    graph = json.loads(members["graph.json"])
    node = next(node for node in graph["nodes"] if node.get("op") == "conv2d")
    node[field] = value
    del manifest["hashes"]
    write_archive(converted_file, manifest, members | {"graph.json": json.dumps(graph).encode()})
    with pytest.raises(LaudcError) as caught:
        read_converted(converted_file).dynamic()
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_say_what_is_frozen_is_all_trainable(converted_file: Path) -> None:
    manifest, members = read_archive(converted_file)
    graph = json.loads(members["graph.json"])
    assert graph.pop("frozen") == []
    del manifest["hashes"]
    write_archive(converted_file, manifest, members | {"graph.json": json.dumps(graph).encode()})
    assert all(parameter.requires_grad for parameter in read_converted(converted_file).dynamic().parameters())


@pytest.mark.parametrize("frozen", [["nonsense.weight"], "abc", [5], [["stem.0.0.weight"]], {"a": 1}, None])
def test_a_file_that_freezes_what_is_no_parameter_is_refused(converted_file: Path, frozen: object) -> None:
    manifest, members = read_archive(converted_file)
    graph = json.loads(members["graph.json"]) | {"frozen": frozen}
    del manifest["hashes"]
    write_archive(converted_file, manifest, members | {"graph.json": json.dumps(graph).encode()})
    with pytest.raises(ArtifactError, match=r"the graph in the file does not hold \(.*\); make the file again"):
        read_converted(converted_file).dynamic()


@pytest.mark.parametrize("where", ["name", "input", "target", "key"])
def test_names_in_a_graph_cannot_become_code(converted_file: Path, tmp_path: Path, where: str) -> None:
    """fx writes the names of a graph into Python that it executes: they must be nothing but names."""
    marker = tmp_path / "ran"
    code = f"x=open({str(marker)!r}, 'w').write('code ran')"
    manifest, members = read_archive(converted_file)
    graph = json.loads(members["graph.json"])
    first = graph["nodes"][0]
    conv = next(node for node in graph["nodes"] if node.get("op") == "conv2d")
    if where == "key":
        graph["decided"][f"a': 0}}); {code}; ({{'"] = next(iter(graph["decided"].values()))
    elif where == "input":
        first["name"] = code
    elif where == "name":
        conv["name"] = code
    else:
        conv["target"] = f'a"); {code}; ("'
    del manifest["hashes"]
    write_archive(converted_file, manifest, members | {"graph.json": json.dumps(graph).encode()})
    with pytest.raises(ArtifactError):
        laudc.load(converted_file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("op", "spec"),
    [
        ("conv2d", {"stride": [0, 0]}),
        ("conv2d", {"kernel": [2**30, 1]}),
        ("conv2d", {"in_channels": 5}),
        ("mask_rows", {"granularity": 3}),
        ("mask_channels", {"group": 0}),
        ("batch_norm", {"channels": 3}),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_before_a_kernel_sees_it(
    converted_file: Path, op: str, spec: dict[str, object]
) -> None:
    manifest, members = read_archive(converted_file)
    graph = json.loads(members["graph.json"])
    node = [node for node in graph["nodes"] if node.get("op") == op][-1]
    node["spec"] |= spec
    del manifest["hashes"]
    write_archive(converted_file, manifest, members | {"graph.json": json.dumps(graph).encode()})
    with pytest.raises(LaudcError) as caught:
        laudc.load(converted_file)
    assert "\n" not in str(caught.value)


def test_reading_tells_without_building(compiled_file: Path) -> None:
    found = read(compiled_file)
    assert found.kind == "compiled"
    assert "conv2d(" in found.lowered
    assert found.manifest["kernels"]
    assert len(found.members["weights.safetensors"]) > 1000
