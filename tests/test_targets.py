"""The hardware files: what they hold, what is refused, and the command that lists them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import laudc.targets
from laudc.commands import targets as command
from laudc.errors import InputError, TargetError, UnknownName
from laudc.kernels.cpu_features import CpuFeatures, detect_cpu, lanes_fp32
from laudc.kernels.toolchain import Missing
from laudc.targets import TARGETS, load_target
from laudc.targets.base import plausible_facts

Edit = Callable[[str, str, str], Path]
NAMES = ["a100", "cpu", "h200", "jetson-nano", "jetson-tx2", "orin", "rtx3060", "rtx3090", "v100"]
FOLDER = Path(laudc.targets.__path__[0])


def facts_in(name: str) -> dict[str, float]:
    facts = tomllib.loads((FOLDER / f"{name}.toml").read_text())["facts"]
    return {fact: entry["value"] for fact, entry in facts.items()}


# A fact that is 0 says that there is none; multiplying it changes nothing.
WRONG_UNITS = [
    (name, fact, factor)
    for name in NAMES
    for fact, value in facts_in(name).items()
    for factor in (1000, 0.001, -1, 0)
    if value and (factor or not plausible_facts()[fact].zero)
]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """Writes a copy of a shipped file with one line replaced, or taken out; its path."""

    def write(name: str, fact: str, line: str) -> Path:
        text = (FOLDER / f"{name}.toml").read_text()
        changed = re.sub(rf"(?m)^{fact} = .*\n", f"{line}\n" if line else "", text)
        assert changed != text
        path = tmp_path / "mine.toml"
        path.write_text(changed)
        return path

    return write


def stated(fact: str, value: object) -> str:
    return f'{fact} = {{ value = {value}, source = "a test" }}'


def test_the_shipped_targets_are_these() -> None:
    assert list(TARGETS) == NAMES
    assert [target.name for target in TARGETS.values()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_target_is_what_its_file_says(name: str) -> None:
    target = load_target(name)
    assert {fact: getattr(target, fact) for fact in facts_in(name)} == facts_in(name)


@pytest.mark.parametrize(
    ("name", "arch", "fp32", "tensor_fp16"),
    [
        ("jetson-nano", "sm_53", 0.236, 0),
        ("jetson-tx2", "sm_62", 0.665, 0),
        ("v100", "sm_70", 15.7, 125),
        ("rtx3060", "sm_86", 12.7, 25.5),
        ("rtx3090", "sm_86", 35.6, 71),
        ("a100", "sm_80", 19.5, 312),
        ("orin", "sm_87", 5.3, 42.5),
        ("h200", "sm_90a", 67, 1070),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name: str, arch: str, fp32: float, tensor_fp16: float) -> None:
    target = load_target(name)
    assert target.arch == arch
    assert target.fp32_tflop_per_s == pytest.approx(fp32, rel=0.01)
    assert target.tensor_fp16_tflop_per_s == pytest.approx(tensor_fp16, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_old_architectures_stop_at_cuda_12_and_default_to_float32(name: str) -> None:
    target = load_target(name)
    old = 0 < target.capability < 75
    assert target.newest_toolkit_major == (12 if old else 0)
    assert target.default_dtype == ("float16" if target.capability >= 80 else "float32")
    assert ("bfloat16" in target.dtypes) == (target.tensor_bf16_flops_per_clock_per_sm > 0)
    assert target.computes_in == (*target.dtypes, *(("tf32",) if target.capability >= 80 else ()))


def test_a_near_miss_suggests_the_name() -> None:
    with pytest.raises(UnknownName, match="no target 'tx2'; did you mean jetson-tx2"):
        load_target("tx2")


@pytest.mark.parametrize("spelling", ["{}", "./{}"])
def test_a_users_file_is_read_by_its_path(spelling: str, edited: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edited("orin", "title", 'title = "My board"')
    monkeypatch.chdir(path.parent)
    target = load_target(spelling.format(path.name))
    assert (target.name, target.title) == ("mine", "My board")
    assert load_target(path) == target
    assert target.content_hash == load_target("orin").content_hash


def test_a_folder_on_the_path_adds_targets(edited: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edited("orin", "title", 'title = "My board"')
    monkeypatch.setattr(laudc.targets, "__path__", [*laudc.targets.__path__, str(path.parent)])
    assert TARGETS["mine"].title == "My board"
    path.rename(path.with_name("orin.toml"))
    with pytest.raises(TargetError, match=r"are target 'orin'; rename one"):
        load_target("orin")


@pytest.mark.parametrize(("name", "fact", "factor"), WRONG_UNITS)
def test_a_number_in_the_wrong_unit_is_refused(name: str, fact: str, factor: float, edited: Edit) -> None:
    path = edited(name, fact, stated(fact, facts_in(name)[fact] * factor))
    with pytest.raises(TargetError) as refused:
        load_target(path)
    assert str(refused.value).startswith(f"{path}: {fact} is ")
    assert f"plausible is {plausible_facts()[fact]}" in str(refused.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (stated("clock_mhz", "nan"), r"clock_mhz is nan; .*plausible is 100 to 10000"),
        (stated("clock_mhz", "inf"), r"clock_mhz is inf; .*plausible is 100 to 10000"),
        (stated("clock_mhz", "1" * 400), r"clock_mhz is 1+; .*plausible is 100 to 10000"),
        (stated("clock_mhz", "true"), r"clock_mhz is True; write a number; plausible is 100 to 10000"),
        (stated("clock_mhz", '"1300"'), r"clock_mhz is '1300'; write a number"),
        ('clock_mhz = { value = 1300, source = " " }', r"clock_mhz has no source; say where"),
        ("clock_mhz = { value = 1300 }", r"clock_mhz does not state a value and its source; write clock_mhz = "),
        ("clock_mhz = 1300", r"clock_mhz does not state a value and its source; write clock_mhz = "),
        ("", r"no fact 'clock_mhz'; add it; plausible is 100 to 10000"),
        (stated("clock_mghz", 1300), r"no fact 'clock_mghz'; did you mean clock_mhz"),
    ],
)
def test_a_broken_fact_is_refused(line: str, message: str, edited: Edit) -> None:
    path = edited("jetson-tx2", "clock_mhz", line)
    with pytest.raises(TargetError, match=f"^{re.escape(str(path))}: {message}"):
        load_target(path)


@pytest.mark.parametrize(
    ("key", "line", "message"),
    [
        ("kind", 'kind = "gpu"', r"kind is 'gpu'; use cuda or cpu"),
        ("kind", 'kind = "cpu"', r"no fact 'fp16_flops_per_clock_per_sm'; "),
        ("arch", 'arch = "62"', r"arch is '62'; write the compute capability like sm_86"),
        ("arch", "arch = 62", r"arch is 62; write it as text"),
        ("host", "", r"no key 'host'; add it"),
        ("title", 'tittle = "x"', r"no key 'tittle'; did you mean title"),
        ("dtypes", 'dtypes = "float32"', r"dtypes are 'float32'; list them"),
        ("dtypes", 'dtypes = ["float32", "float8"]', r"dtypes are .*; list some of float32, float16, bfloat16"),
        ("default_dtype", 'default_dtype = "float64"', r"default_dtype is 'float64'; use one of float32, float16"),
        ("registers_per_block", stated("registers_per_block", 131072), r"registers_per_block is more than registers"),
        ("sm_count", stated("sm_count", 2.5), r"sm_count is 2.5; write a whole number; plausible is 1 to 960"),
        ("sm_count", "sm_count = {", r"not TOML: "),
    ],
)
def test_a_file_that_does_not_hold_is_refused(key: str, line: str, message: str, edited: Edit) -> None:
    path = edited("jetson-tx2", key, line)
    with pytest.raises(TargetError, match=f"^{re.escape(str(path))}: {message}"):
        load_target(path)


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="not TOML"):
        load_target(tmp_path / "noise.toml")
    with pytest.raises(InputError, match="no such file or directory; check the path"):
        load_target(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="is a directory; check the path"):
        load_target(f"{tmp_path}/")


def test_a_target_is_checked_when_it_is_changed() -> None:
    with pytest.raises(TargetError, match="sm_count is 0; check its unit"):
        replace(load_target("v100"), sm_count=0)


def test_the_hash_follows_the_facts_and_not_the_names() -> None:
    v100 = load_target("v100")
    assert replace(v100, name="mine", title="Mine").content_hash == v100.content_hash
    assert replace(v100, dram_gb_per_s=901).content_hash != v100.content_hash
    assert len({target.content_hash for target in TARGETS.values()}) == len(NAMES)


def test_a_target_is_plain_data_for_tvm() -> None:
    assert load_target("h200").tvm_target_json() == {
        "kind": "cuda",
        "arch": "sm_90a",
        "max_shared_memory_per_block": 227 * 1024,
        "max_threads_per_block": 1024,
        "thread_warp_size": 32,
    }
    assert load_target("cpu").tvm_target_json() == {"kind": "llvm"}


@pytest.mark.parametrize("name", NAMES)
def test_tvm_takes_every_target(name: str) -> None:
    from tvm.target import Target as TvmTarget

    target = load_target(name)
    assert TvmTarget(target.tvm_target_json()).attrs.get("arch", "native") == target.arch


def test_the_folder_is_not_importable_under_another_name() -> None:
    root = FOLDER.resolve().parent
    command_line = [sys.executable, "-c", "import targets"]
    done = subprocess.run(command_line, cwd=root, capture_output=True, text=True, check=False)
    assert "the folder targets is the package laudc.targets; import it by that name" in done.stderr


def test_listing_targets_imports_neither_torch_nor_tvm() -> None:
    program = (
        "import sys; from laudc.commands.targets import COMMAND; COMMAND.main([], standalone_mode=False);"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=FOLDER.resolve().parent)


def test_the_table_names_every_target_and_its_peaks() -> None:
    said = CliRunner().invoke(command.COMMAND, []).output
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert set(NAMES) <= set(lines)
    assert {"sm_62", "0.666", "none", "59.7", "float32"} <= set(lines["jetson-tx2"].split())


def test_the_table_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Missing(reason="no compiler here", how_to_get="pip install 'laudc[cuda12]'")
    monkeypatch.setattr(command, "find_compiler", lambda arch: missing)
    said = CliRunner().invoke(command.COMMAND, []).output.splitlines()
    line = next(line for line in said if "missing: pip install 'laudc[cuda12]'" in line)
    assert line.split("   ")[-1].strip().split(", ") == sorted(set(NAMES) - {"cpu"})
    records = json.loads(CliRunner().invoke(command.COMMAND, ["--json"]).output)
    assert {record["missing"] for record in records} == {str(missing), None}


def test_json_holds_every_fact() -> None:
    records = json.loads(CliRunner().invoke(command.COMMAND, ["--json"]).output)
    assert [load_target(record["name"]).content_hash for record in records] == [r["content_hash"] for r in records]
    assert all({*plausible_facts(), "fp32_tflop_per_s", "compiler", "missing"} <= set(record) for record in records)


def test_the_cpu_is_detected_and_its_kernels_run() -> None:
    import torch
    import tvm
    from tvm import te

    cpu = detect_cpu()
    assert cpu.cores >= 1
    x = te.placeholder((64,), "float32", name="x")
    function = te.create_prim_func([x, te.compute((64,), lambda i: x[i] * x[i] + 1.0)])
    kernel = tvm.compile(function.with_attr("global_symbol", "kernel"), target=tvm.target.Target(cpu.tvm_target_json()))
    values, result = torch.linspace(-1, 1, 64), torch.empty(64)
    kernel["kernel"](values, result)
    torch.testing.assert_close(result, values * values + 1)


def test_a_detected_cpu_refines_the_nominal_one() -> None:
    board = CpuFeatures(
        name="cortex-a57",
        triple="aarch64-linux-gnu",
        features=("neon",),
        lacks=("sve",),
        vector_lanes_fp32=4,
        cores=6,
        clock_mhz=None,
        last_cache_kib=2048,
    )
    nominal = load_target("cpu")
    refined = board.refine(nominal)
    assert (refined.sm_count, refined.fp32_lanes_per_sm, refined.clock_mhz, refined.l2_kib) == (6, 8, 3000, 2048)
    assert replace(board, last_cache_kib=None).refine(nominal).l2_kib == nominal.l2_kib
    assert board.tvm_target_json()["mattr"] == ["+neon", "-sve"]


@pytest.mark.parametrize(
    ("triple", "features", "lanes"),
    [
        ("x86_64-pc-linux-gnu", ("avx", "avx512f"), 16),
        ("x86_64-conda-linux-gnu", ("avx", "avx2"), 8),
        ("x86_64-linux-gnu", ("sse2",), 4),
        ("aarch64-linux-gnu", ("neon", "sve"), 4),
        ("arm64-apple-macos", (), 4),
        ("riscv64-linux-gnu", (), 1),
    ],
)
def test_vector_lanes_follow_the_instructions(triple: str, features: tuple[str, ...], lanes: int) -> None:
    assert lanes_fp32(triple, features) == lanes
