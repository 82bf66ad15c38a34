"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from laudc.errors import InputError, StorageError

_UNFINISHED = ".laud-"  # not the file's own name and more: that may be as long as a name can be


def refuse_unwritable(path: Path, force: bool) -> None:
    """Before any work: InputError if the file is there and not to be replaced, StorageError if it cannot be written."""
    try:
        if path.is_dir():
            raise StorageError(f"{path} is a folder", "name a file in it")
        if path.exists() and not force:
            raise InputError(f"{path} exists", "give another name, or replace it (--force, in Python force=True)")
        if not path.parent.is_dir():
            raise StorageError(f"there is no folder {path.parent}", "make it first")
        # permissions do not tell: root may write anywhere, yet not to /proc or a read-only disk
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED):
            pass
    except OSError as error:
        raise storage_error(path, error) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that takes its place only when it is done. StorageError where the disk refuses."""
    try:
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(unfinished, 0o666 & ~_UMASK)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        raise storage_error(path, error) from error


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """A text file; an existing one only with `force`."""
    refuse_unwritable(path, force)
    write_whole(path, lambda file: file.write(text.encode()))


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
"""Read once, when this is imported: asking for it means changing it, for all threads."""


def storage_error(path: Path, error: OSError) -> StorageError:
    """The one-line form of what the disk said."""
    if error.errno == errno.ENOSPC:
        return StorageError(f"the disk is full while writing {path}", "free some space; nothing was left behind")
    return StorageError(f"{path} cannot be written: {error.strerror}", "choose another folder")
