"""The container: damage, edits and tricks are found before anything is used; writing is all or nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from laudc.errors import ArtifactError, InputError, StorageError
from laudc.kernels.archive import FORMAT, read_archive, write_archive
from laudc.whole_file import refuse_unwritable

MEMBERS = {"graph.json": b'{"a": 1}', "weights.safetensors": bytes(range(256)) * 64}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "net.laud"
    write_archive(path, {"kind": "converted"}, MEMBERS)
    return path


def _rewritten(path: Path, **changes: bytes) -> Path:
    """The same file with some members exchanged, hashes left as they were."""
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()} | {
            name.replace("__", "."): content for name, content in changes.items()
        }
        comment = old.comment
    with zipfile.ZipFile(path, "w") as new:
        new.comment = comment
        for name, content in contents.items():
            new.writestr(zipfile.ZipInfo(name), content)
    return path


def test_what_was_written_is_read(archive: Path) -> None:
    manifest, members = read_archive(archive)
    assert manifest["kind"] == "converted"
    assert members == MEMBERS


def test_the_same_content_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "twin.laud", {"kind": "converted"}, MEMBERS)
    assert archive.read_bytes() == (tmp_path / "twin.laud").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_refused(archive: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="is cut, changed or no"):
        read_archive(archive)


@pytest.mark.parametrize("where", range(5))
def test_a_flipped_bit_is_found(archive: Path, where: int) -> None:
    content = bytearray(archive.read_bytes())
    content[where * (len(content) - 1) // 4] ^= 0x10
    archive.write_bytes(content)
    with pytest.raises(ArtifactError):
        read_archive(archive)


def test_an_edited_member_is_refused(archive: Path) -> None:
    with pytest.raises(ArtifactError, match=r"graph\.json is damaged or edited"):
        read_archive(_rewritten(archive, graph__json=b'{"a": 2}'))


def test_an_edited_manifest_is_refused(archive: Path) -> None:
    manifest = json.loads(zipfile.ZipFile(archive).read("manifest.json")) | {"kind": "compiled"}
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged or edited"):
        read_archive(_rewritten(archive, manifest__json=json.dumps(manifest).encode()))


def test_a_newer_format_names_both_versions(archive: Path) -> None:
    newer = json.dumps({"format": FORMAT + 1}).encode()
    with pytest.raises(ArtifactError, match=f"format {FORMAT + 1}, this laudc reads up to {FORMAT}"):
        read_archive(_rewritten(archive, manifest__json=newer))


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "kernels/../../evil.so", "extra.txt", "kernels/a/b.so"])
def test_a_member_of_another_name_is_refused(archive: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(ArtifactError, match=r"which no \.laud file has"):
        read_archive(archive)
    assert not (archive.parent.parent / "evil.py").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.laud"
    info = zipfile.ZipInfo("graph.json")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(ArtifactError, match="is a link"):
        read_archive(path)


def test_a_compressed_member_is_refused_so_nothing_swells(tmp_path: Path) -> None:
    path = tmp_path / "bomb.laud"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("weights.safetensors", bytes(10_000_000))
    with pytest.raises(ArtifactError, match="compressed"):
        read_archive(path)


def test_an_absurd_size_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        info = opened.getinfo("graph.json")
        info.file_size = info.compress_size = 2**40
        opened.writestr(zipfile.ZipInfo("lowered.txt"), b"")  # so that the directory is written again
    with pytest.raises(ArtifactError):
        read_archive(archive)


def test_a_member_that_the_manifest_does_not_name_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo("lowered.txt"), b"x")
    with pytest.raises(ArtifactError, match="not those of its manifest"):
        read_archive(archive)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_archive(tmp_path / "none.laud")


def test_an_existing_file_is_kept_unless_forced(archive: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        refuse_unwritable(archive, force=False)
    refuse_unwritable(archive, force=True)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no folder"):
        refuse_unwritable(tmp_path / "nowhere" / "net.laud", force=False)


@pytest.mark.parametrize("name", ["net.laud", "folder", "much-too-long" * 30])
def test_trying_to_write_leaves_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    if name == "net.laud":
        refuse_unwritable(tmp_path / name, force=True)
    else:
        with pytest.raises(StorageError):
            refuse_unwritable(tmp_path / name, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".laud")
    refuse_unwritable(path, force=False)
    write_archive(path, {}, MEMBERS)
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_where_not_even_root_may_write_is_refused() -> None:
    with pytest.raises(StorageError, match=r"/proc/net\.laud cannot be written: .*; choose another folder"):
        refuse_unwritable(Path("/proc/net.laud"), force=False)


def test_a_disk_that_fills_in_mid_write_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the kernel refuses a write in the middle of the file."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from laudc.errors import StorageError\n"
        "from laudc.kernels.archive import write_archive\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "path = Path(sys.argv[1])\n"
        "path.write_bytes(b'before')\n"
        "try:\n"
        "    write_archive(path, {}, {'weights.safetensors': bytes(1_000_000)})\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    assert signal.SIGXFSZ
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "net.laud")], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.laud"]
    assert (tmp_path / "net.laud").read_bytes() == b"before"


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full while writing"):
        write_archive(tmp_path / "net.laud", {}, MEMBERS)
    assert list(tmp_path.iterdir()) == []
