"""The manners of the command line, tried on commands that are dropped into the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import laudc.commands
from laudc.cli import COMMANDS, main

Drop = Callable[[str], None]


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Adds a command `try-me` that runs the given statement."""

    def write(statement: str) -> None:
        (tmp_path / "try_me.py").write_text(
            "import errno, click\n"
            "from laudc.errors import ArtifactError\n"
            "@click.command('try-me')\n"
            "@click.option('--rate', type=float, default=0.5)\n"
            "def COMMAND(rate):\n"
            "    '''Try what happens.'''\n"
            f"    {statement}\n"
        )
        monkeypatch.setattr(laudc.commands, "__path__", [*laudc.commands.__path__, str(tmp_path)])

    monkeypatch.delitem(sys.modules, "laudc.commands.try_me", raising=False)
    yield write
    sys.modules.pop("laudc.commands.try_me", None)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the only line, which goes to stderr."""
    exit_code = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    return exit_code, lines[0]


def test_a_dropped_file_is_a_command(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("click.echo(f'at {rate}')")
    assert main(["try-me", "--rate", "0.25"]) == 0
    assert capsys.readouterr().out == "at 0.25\n"


def test_help_lists_every_command(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("pass")
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "Try what happens." in said
    assert all(name in said for name in COMMANDS)


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: laudc")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name].get_short_help_str()
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: laudc {name}")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_is_told(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capsys.readouterr().out == f"laudc {laudc.__version__}\n"


def test_an_unknown_command_gets_a_near_miss(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("pass")
    assert fails(capsys, "tryme") == (2, "error: no command 'tryme'; did you mean try-me?")


def test_a_usage_error_is_one_line(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("pass")
    exit_code, line = fails(capsys, "try-me", "--rate", "much")
    assert exit_code == 2
    assert line == "error: invalid value for '--rate': 'much' is not a valid float; see 'laudc try-me --help'"


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, line = fails(capsys, "--bogus")
    assert exit_code == 2
    assert line.startswith("error: no such option")


def test_an_error_of_ours_is_fact_and_help(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("raise ArtifactError('a.laud is cut short', 'copy it again')")
    assert fails(capsys, "try-me") == (4, "error: a.laud is cut short; copy it again")


def test_an_interrupt_is_one_line(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("raise KeyboardInterrupt")
    assert fails(capsys, "try-me") == (130, "error: interrupted")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ENOSPC", "no space left on device; free some space"),
        ("EACCES", "permission denied; choose a place"),
        ("EROFS", "read-only file system; write to a folder"),
    ],
)
def test_a_full_or_closed_disk_is_one_line(
    code: str, said: str, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    drop(f"import os; raise OSError(errno.{code}, os.strerror(errno.{code}), 'a.laud')")
    exit_code, line = fails(capsys, "try-me")
    assert exit_code == 7
    assert line.startswith(f"error: cannot use a.laud: {said}")


def test_a_bug_says_so_without_a_traceback(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop("raise KeyError('x\\ny')")
    exit_code, line = fails(capsys, "try-me")
    assert exit_code == 70
    assert line.startswith("error: this is a bug in laudc (KeyError: 'x")
    assert "--traceback" in line


@pytest.mark.parametrize("arguments", [["--traceback", "try-me"], ["try-me", "--traceback"]])
def test_a_traceback_is_shown_when_asked_for(
    arguments: list[str], drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    drop("1 / 0")
    assert main(arguments) == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "try_me.py" in said


def test_a_reader_that_goes_away_is_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run([sys.executable, "-m", "laudc", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert said.stderr == b""
    assert said.returncode == 1


def test_the_module_runs_like_the_script() -> None:
    said = subprocess.run([sys.executable, "-m", "laudc", "--version"], capture_output=True, text=True)
    assert said.stdout == f"laudc {laudc.__version__}\n"
