"""The .laud container: a zip of stored members, each with its sha256 in the manifest, the manifest's in the comment.

    manifest.json  graph.json  weights.safetensors      and, once compiled,      lowered.txt  kernels/...

The hashes detect damage and edits, not an author. Before anything is used: the format is known, the names are of
that list (no absolute path, no `..`, no link, none twice), nothing is compressed (so nothing can swell), all hashes
hold. Writing is atomic: the file is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laudc.errors import ArtifactError, InputError, StorageError

FORMAT = 1
_MEMBER = re.compile(
    r"(manifest\.json|graph\.json|weights\.safetensors|lowered\.txt|kernels/[A-Za-z0-9_]+\.(cu|py|so|cubin))"
)
_MOST_BYTES = 8 * 2**30
_UNFINISHED = ".laud-"  # not the file's own name and more: that may be as long as a name can be
_AGAIN = "make it again, or copy it again from where it came"


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


def write_archive(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write the file whole or not at all. StorageError where the disk refuses."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())}
    head = json.dumps({"format": FORMAT, **manifest, "hashes": hashes}, indent=1).encode()
    try:
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    archive.comment = f"laud {FORMAT} {hashlib.sha256(head).hexdigest()}".encode()
                    for name, content in {"manifest.json": head, **members}.items():
                        archive.writestr(zipfile.ZipInfo(name), content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(unfinished, 0o666 & ~_UMASK)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        raise storage_error(path, error) from error


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


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the members, every hash checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_names(path, archive)
            manifest = _manifest(path, archive)
            members = {}
            for name, wanted in manifest["hashes"].items():
                content = archive.read(name)
                if hashlib.sha256(content).hexdigest() != wanted:
                    raise ArtifactError(f"{path}: {name} is damaged or edited", _AGAIN)
                members[name] = content
    except FileNotFoundError as error:
        whole = path.with_name(f"{path.name}.laud")
        step = f"did you mean {whole}?" if whole.is_file() else "make one with `laudc convert` (in Python laudc.save)"
        raise InputError(f"there is no file {path}", step) from error
    except (
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise ArtifactError(f"{path} is cut, changed or no .laud file", _AGAIN) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    return manifest, members


def _check_names(path: Path, archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    for info in infos:
        if not _MEMBER.fullmatch(info.filename):
            raise ArtifactError(f"{path} holds {info.filename!r}, which no .laud file has", "do not use it")
        if stat.S_ISLNK(info.external_attr >> 16) or info.compress_type != zipfile.ZIP_STORED:
            raise ArtifactError(
                f"{path}: {info.filename} is a link or compressed, which laudc never writes", "do not use it"
            )
        if info.file_size != info.compress_size or info.file_size > _MOST_BYTES:
            raise ArtifactError(f"{path}: {info.filename} claims {info.file_size} bytes", "do not use it")
    if len(set(names)) != len(names):
        raise ArtifactError(f"{path} holds a member twice", "do not use it")


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    head = archive.read("manifest.json")
    manifest = json.loads(head)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ArtifactError(f"{path} has format {found}, this laudc reads up to {FORMAT}", "pip install -U laudc")
    if archive.comment.decode(errors="replace") != f"laud {FORMAT} {hashlib.sha256(head).hexdigest()}":
        raise ArtifactError(f"{path}: manifest.json is damaged or edited", _AGAIN)
    if set(manifest["hashes"]) | {"manifest.json"} != set(archive.namelist()):
        raise ArtifactError(f"{path}: its members are not those of its manifest", _AGAIN)
    return dict(manifest)
