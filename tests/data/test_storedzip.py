"""ZIPs that are gone on with: other tools read them, and a cut one becomes the same bytes."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from kartina.data.archive import Archive, read_entry
from kartina.data.storedzip import Mark, StoredZip


def make(root: Path, files: list[tuple[str, bytes]], cuts: tuple[int, ...] = ()) -> bytes:
    """The ZIP of `files`; after each cut it is left in a mess, and gone on with from the mark."""
    root.mkdir()
    out, mark = StoredZip(root / "a.zip", root / "list"), Mark()
    for i, (name, content) in enumerate(files):
        if i in cuts:
            mark = out.mark()
            out.add("lost.png", b"never seen")
            out.close()
            out = StoredZip(root / "a.zip", root / "list", mark)
        out.add(name, content)
    (root / "m.csv").write_text("path,label\n")
    out.add_file("manifest.csv", root / "m.csv")
    size = out.finish()
    found = (root / "a.zip").read_bytes()
    assert size == len(found)
    return found


@pytest.fixture
def files() -> list[tuple[str, bytes]]:
    rng = random.Random(0)
    return [(f"кот/{i}.png", rng.randbytes(rng.randint(0, 3000))) for i in range(40)]


def test_others_read_it(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    make(tmp_path / "a", files)
    with zipfile.ZipFile(tmp_path / "a" / "a.zip") as archive:
        assert archive.testzip() is None
        assert [(name, archive.read(name)) for name in archive.namelist()] == [
            *files,
            ("manifest.csv", b"path,label\n"),
        ]
    ours = Archive(tmp_path / "a" / "a.zip")
    with ours.path.open("rb") as file:
        assert [(ours[i].name, read_entry(file, ours[i])) for i in range(40)] == files


def test_a_cut_one_becomes_the_same_bytes(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    assert make(tmp_path / "a", files, cuts=(0, 7, 8, 39)) == make(tmp_path / "b", files)


def test_a_lost_file_is_told(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    make(tmp_path / "a", files)
    with pytest.raises(FileNotFoundError):
        StoredZip(tmp_path / "a" / "other.zip", tmp_path / "a" / "list", Mark(3, 1000, 200))


def test_many_entries_and_offsets_beyond_4_gib(tmp_path: Path) -> None:
    out = StoredZip(tmp_path / "a.zip", tmp_path / "list")
    out.add("first", b"1")
    # A hole stands for four gigabytes of images: it takes no room.
    out._listing.size += 2**32
    out._zip.seek(out.size)
    for i in range(70_000):
        out.add(f"{i}", b"")
    out.add("last", b"2")
    out.finish()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.infolist()) == 70_002 and archive.read("first") == b"1" and archive.read("last") == b"2"
    ours = Archive(tmp_path / "a.zip", max_ratio=1e9)
    with ours.path.open("rb") as file:
        assert read_entry(file, ours[70_001]) == b"2"
