"""The .laud container: a zip of stored members, each with its sha256 in the manifest, the manifest's in the comment.

    manifest.json  graph.json  weights.safetensors      and, once compiled,      lowered.txt  kernels/...

The hashes detect damage and edits, not an author. Before anything is used: the format is known, the names are of
that list (no absolute path, no `..`, no link, none twice), nothing is compressed (so nothing can swell), all hashes
hold. Writing is atomic: the file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from laudc.errors import ArtifactError, InputError, StorageError
from laudc.whole_file import write_whole

FORMAT = 1
_MEMBER = re.compile(
    r"(manifest\.json|graph\.json|weights\.safetensors|lowered\.txt|kernels/[A-Za-z0-9_]+\.(cu|py|so|cubin))"
)
_MOST_BYTES = 8 * 2**30
_AGAIN = "make it again, or copy it again from where it came"


def write_archive(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write the file whole or not at all. StorageError where the disk refuses."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())}
    head = json.dumps({"format": FORMAT, **manifest, "hashes": hashes}, indent=1).encode()

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = f"laud {FORMAT} {hashlib.sha256(head).hexdigest()}".encode()
            for name, content in {"manifest.json": head, **members}.items():
                archive.writestr(zipfile.ZipInfo(name), content)

    write_whole(path, write)


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
