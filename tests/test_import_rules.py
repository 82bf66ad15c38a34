"""Imports point down the tree, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "tvm", "tvm_ffi", "torchvision", "timm", "matplotlib")
ABOVE_OPS = ("laudc.passes", "laudc.schedules", "laudc.kernels")
TOP = ("laudc.cli", "laudc.commands")


def modules(*folders: str) -> list[Path]:
    """The files of `folders`, links not followed, so that each is seen once."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def own_modules() -> list[Path]:
    links = [path.name for path in (ROOT / "laudc").iterdir() if path.is_symlink()]
    files = [file for file in modules("laudc") if file.relative_to(ROOT / "laudc").parts[0] not in links]
    return files + modules(*links)


def imports(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Every name that `file` imports, in full: `from laudc.ops import conv2d` is laudc.ops.conv2d."""
    tree = ast.parse(file.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write the whole name of what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def offences(files: list[Path], forbidden: tuple[str, ...], *, top_level_only: bool = False) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file, top_level_only=top_level_only)
        if within(name, forbidden)
    ]


def test_targets_know_only_the_basic_words() -> None:
    allowed = ("laudc.targets", "laudc.errors", "laudc.plugins", "laudc.types")
    seen = [f"{file.name} imports {name}" for file in modules("targets") for name in imports(file)
            if within(name, ("laudc",)) and not within(name, allowed)]  # fmt: skip
    assert seen == []


def test_ops_know_nothing_above_them() -> None:
    assert offences(modules("laudc/ops"), (*ABOVE_OPS, *TOP)) == []


def test_passes_reach_kernels_only_by_binding_them() -> None:
    files = [file for file in modules("passes") if file.name != "bind_kernels.py"]
    assert offences(files, ("laudc.schedules", "laudc.kernels", *TOP)) == []


def test_bind_kernels_knows_schedules_and_kernels_and_no_more() -> None:
    files = [file for file in modules("passes") if file.name == "bind_kernels.py"]
    assert offences(files, TOP) == []


def test_schedules_know_only_ops_and_targets() -> None:
    assert offences(modules("schedules"), ("laudc.passes", "laudc.kernels", *TOP)) == []


def test_kernels_know_nothing_above_them() -> None:
    above = ("laudc.passes", "laudc.compiled", "laudc.artifact", "laudc.ladder", "laudc.api", "laudc.report", *TOP)
    assert offences(modules("laudc/kernels"), above) == []


def test_only_schedules_and_kernels_touch_tvm() -> None:
    allowed = (ROOT / "schedules", ROOT / "laudc" / "kernels")
    files = [file for file in own_modules() if not any(file.is_relative_to(folder) for folder in allowed)]
    assert offences(files, ("tvm", "tvm_ffi")) == []


def test_commands_import_heavy_things_where_they_are_used() -> None:
    files = [*modules("laudc/commands"), ROOT / "laudc/cli.py", ROOT / "laudc/__init__.py"]
    assert offences(files, (*HEAVY, "rich", "laudc.api", "laudc.report"), top_level_only=True) == []


@pytest.mark.parametrize(
    "program",
    ["import laudc", "from laudc.cli import main; main(['--help'])", "from laudc.cli import main; main(['nonsense'])"],
)
def test_nothing_heavy_is_imported_before_it_is_used(program: str) -> None:
    program += "; import json, sys; print(json.dumps(list(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert set(json.loads(said.splitlines()[-1])).isdisjoint({*HEAVY, "rich", "numpy"})


@pytest.mark.parametrize(
    "command",
    [
        "convert resnet18",
        "predict resnet18",
        "plan resnet18",
        "compile a.laud --target cpu",
        "run a.laud a.png",
        "verify a.laud",
        "inspect a.laud",
    ],
)
def test_a_command_shows_progress_before_it_imports_torch(command: str) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import laudc.report.console as console;"
        "console.progress = lambda *_, **__: sys.exit('progress');"
        f"from laudc.cli import main; main({command.split()!r})"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert said.stderr.strip() == "progress", said.stderr


@pytest.mark.parametrize("folder", ["passes", "schedules", "targets"])
def test_a_top_folder_is_imported_by_its_package_name(folder: str) -> None:
    said = subprocess.run([sys.executable, "-c", f"import {folder}"], capture_output=True, text=True, cwd=ROOT)
    assert said.stderr.splitlines()[-1].startswith("ImportError")
    assert f"laudc.{folder}" in said.stderr.splitlines()[-1]


@pytest.mark.parametrize("folder", ["passes", "schedules", "targets"])
def test_a_top_folder_is_linked_by_a_relative_path(folder: str) -> None:
    link = ROOT / "laudc" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
