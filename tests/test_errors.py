"""The error tree is as drawn, and says fact, then help."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from laudc import errors
from laudc.errors import InputError, LaudcError, UnknownName

CLASSES = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, LaudcError)
}


ROOT = Path(errors.__file__).parent
COMMAND_LINE = (ROOT / "commands", ROOT / "cli.py")


def drawn() -> list[tuple[int, str]]:
    """Each error of the picture with its depth; a branch is four characters wide."""
    lines = re.findall(r"^([ │├└─]*)(\w+Error|UnknownName)\b", inspect.cleandoc(errors.__doc__ or ""), re.MULTILINE)
    outermost = min(len(branch) for branch, _ in lines)
    return [((len(branch) - outermost) // 4, name) for branch, name in lines]


def test_every_error_is_drawn_once() -> None:
    assert sorted(name for _, name in drawn()) == sorted(CLASSES)


def test_every_error_hangs_where_it_is_drawn() -> None:
    path: list[str] = []
    for depth, name in drawn():
        path[depth:] = [name]
        assert CLASSES[name].__base__ is (CLASSES[path[depth - 1]] if depth else Exception)


def test_exit_codes_are_stable() -> None:
    direct = {name: error.exit_code for name, error in CLASSES.items() if error.__base__ is LaudcError}
    assert direct == {
        "InputError": 2,
        "CaptureError": 3,
        "ArtifactError": 4,
        "BuildError": 5,
        "EqualityError": 6,
        "StorageError": 7,
    }


@pytest.mark.parametrize("error", CLASSES.values(), ids=CLASSES)
def test_an_error_inherits_its_parents_exit_code_or_sets_its_own(error: type[LaudcError]) -> None:
    assert 1 <= error.exit_code <= 7
    assert error.exit_code >= error.__mro__[1].__dict__.get("exit_code", 1)


def test_an_error_reads_as_fact_then_help() -> None:
    assert str(InputError("the rate is 1.5", "give one from 0 to 1")) == "the rate is 1.5; give one from 0 to 1"


def test_a_near_miss_is_suggested() -> None:
    error = UnknownName.among("target", "tx2", ["v100", "jetson-tx2", "jetson-nano"])
    assert str(error) == "no target 'tx2'; did you mean jetson-tx2?"


@pytest.mark.parametrize("name", ["RTX-3090", "rtx_3090", "RTX3090", "rtx-3090"])
def test_case_and_hyphens_do_not_hide_what_was_meant(name: str) -> None:
    error = UnknownName.among("target", name, ["rtx3060", "rtx3090", "v100"])
    assert str(error) == f"no target {name!r}; did you mean rtx3090?"


def test_a_part_of_a_name_is_a_near_miss_in_any_case() -> None:
    assert "jetson-tx2?" in str(UnknownName.among("target", "TX2", ["v100", "jetson-tx2", "jetson-nano"]))


def test_many_near_misses_are_capped() -> None:
    error = UnknownName.among("kernel", "conv2d", [f"conv2d_of_one_shape_{index}" for index in range(9)])
    assert str(error).endswith("_0 or conv2d_of_one_shape_1 or conv2d_of_one_shape_2 or conv2d_of_one_shape_3 or ...?")


def test_without_a_near_miss_all_names_are_shown() -> None:
    error = UnknownName.among("target", "gameboy", ["v100", "cpu"])
    assert str(error) == "no target 'gameboy'; there are cpu, v100"


def test_errors_of_the_library_name_an_option_only_beside_its_python_form() -> None:
    files = [file for file in ROOT.rglob("*.py") if not any(file.is_relative_to(path) for path in COMMAND_LINE)]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    raised = [ast.unparse(call) for call in calls if isinstance(call.func, ast.Name) and call.func.id in CLASSES]
    assert len(raised) > 100
    assert [said for said in raised if re.search(r"\W--?[a-z]", said) and "in Python" not in said] == []
