"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from laudc.errors import InputError, StorageError
from laudc.whole_file import refuse_unwritable, write_text, write_whole


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "eins\nzw\u00f6lf\n")
    assert (tmp_path / "a").read_bytes() == b"eins\nzw\xc3\xb6lf\n"
    assert entries(tmp_path) == ["a"]


def test_a_file_has_the_permissions_that_others_get(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_is_there_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("mine")
    with pytest.raises(InputError, match="a exists; give another name"):
        write_text(path, "new")
    assert path.read_text() == "mine"
    write_text(path, "new", force=True)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a"
    path.write_text("mine")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, half)
    assert (path.read_text(), entries(tmp_path)) == ("mine", ["a"])


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    def full(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"the disk is full while writing .*a; free some space"):
        write_whole(tmp_path / "a", full)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/a", "there is no folder .*none"),
        (".", "is a folder; name a file in it"),
        ("file/a", "there is no folder"),
    ],
)
def test_a_place_that_takes_no_file_is_refused_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    before = entries(tmp_path)
    with pytest.raises(StorageError, match=said):
        refuse_unwritable(tmp_path / name, force=True)
    assert entries(tmp_path) == before


def test_a_folder_without_permission_is_refused() -> None:
    with pytest.raises(StorageError, match="/proc/laudc-plan cannot be written"):
        refuse_unwritable(Path("/proc/laudc-plan"), force=False)


def test_the_check_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a", force=False)
    assert entries(tmp_path) == []
