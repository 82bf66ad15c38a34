"""Bytes kept on disk under a sha256 key, one folder a user: `$LAUDC_CACHE`, or the platform's cache folder.

    <cache>/ab/abcdef...      32 bytes of sha256 over the rest, then the rest

An entry whose hash does not match is a miss, so a damaged disk or an interrupted copy costs a recompile and no more.
The cache is only ever a saving: a folder that cannot be written keeps nothing, and nothing fails for it (a user
without any folder is asked to name one).
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

from laudc.errors import StorageError

_HASH_BYTES = hashlib.sha256().digest_size


def cache_dir() -> Path:
    """The folder of this user's cache; it need not exist yet."""
    if chosen := os.environ.get("LAUDC_CACHE"):
        return Path(chosen).expanduser()
    return _platform_folder() / "laudc"


def key_of(*parts: str) -> str:
    """A key that differs whenever one of the parts does."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def get(key: str) -> bytes | None:
    """What was put under the key; None if there is nothing, or it is damaged."""
    try:
        entry = _path(key).read_bytes()
    except OSError:
        return None
    payload = entry[_HASH_BYTES:]
    return payload if hashlib.sha256(payload).digest() == entry[:_HASH_BYTES] else None


def put(key: str, payload: bytes) -> bool:
    """Keeps the bytes, all or nothing; whether they were kept."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError:
        return False
    return True


def _path(key: str) -> Path:
    assert re.fullmatch(r"[0-9a-f]{64}", key), f"not a sha256 in hexadecimal: {key!r}"
    return cache_dir() / key[:2] / key


def _platform_folder() -> Path:
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise StorageError("this user has no home folder to keep kernels in", "set LAUDC_CACHE to a folder") from error
    return home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
