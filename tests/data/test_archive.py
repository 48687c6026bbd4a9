"""ZIPs: what is safe is read like `zipfile` reads it; what is not is refused before anything is unpacked."""

from __future__ import annotations

import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from kartina.data.archive import Archive, read_entry
from kartina.errors import DataError


def contents(path: Path) -> dict[str, bytes]:
    archive = Archive(path)
    with path.open("rb") as file:
        return {archive[i].name: read_entry(file, archive[i]) for i in range(len(archive))}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_are_read_as_zipfile_reads_them(tmp_path: Path, method: int) -> None:
    rng = random.Random(0)
    files = {f"d{i % 3}/ü{i}.png": rng.randbytes(rng.randint(0, 5000)) for i in range(50)}
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = b"made by hand"
        for name, data in files.items():
            archive.writestr(name, data)
    assert contents(path) == files


def test_zip64_and_a_prefix_before_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(66_000):  # more than 65,535 entries need Zip64
            archive.writestr(f"c/{i}.png", b"")
        with archive.open("c/forced.png", "w", force_zip64=True) as file:
            file.write(b"data")
    assert len(Archive(path)) == 66_001
    assert contents(path)["c/forced.png"] == b"data"
    small = tmp_path / "b.zip"
    with zipfile.ZipFile(small, "w") as archive:
        archive.writestr("x.png", b"hello")
    small.write_bytes(b"#!/bin/sh\n" + small.read_bytes())
    assert contents(small) == {"x.png": b"hello"}
    with pytest.raises(DataError, match="66,001 entries"):
        Archive(path, max_entries=1000)


def test_junk_and_folders_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("__MACOSX/a/._1.png", ".DS_Store", "a/.hidden.png", "a/Thumbs.db", "a/1.png"):
            archive.writestr(name, b"x")
        archive.mkdir("empty")
    found = Archive(path)
    assert list(found.names) == ["a/1.png"] and "empty" in found.folders


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "a\\..\\b.png", "\\\\host\\a.png"]
)
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(DataError, match="names inside the archive"):
        Archive(path)


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("a/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"Found the link 'a/link.png'"):
        Archive(path)


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        Archive(path)


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", b"\0" * 50_000_000)
    with pytest.raises(DataError, match="looks like a ZIP bomb; nothing was unpacked"):
        Archive(path)
    many = tmp_path / "b.zip"  # each entry small enough to pass, all of them not
    with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(200):
            archive.writestr(f"a/{i}.png", b"\0" * 60_000)
    with pytest.raises(DataError, match="ZIP bomb"):
        Archive(many)


def test_an_entry_that_lies_about_its_size_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 10_000_000)
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, 100)  # uncompressed size in the list of entries
    path.write_bytes(data)
    archive = Archive(path)
    with path.open("rb") as file, pytest.raises(DataError, match="size and checksum"):
        read_entry(file, archive[0])


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(range(256)) * 10)
        archive.writestr("b.png", b"x" * 10)
    whole = path.read_bytes()
    for cut in (0, 3, 21, 60, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"no ZIP or is cut off|damaged"):
            Archive(path)
    data = bytearray(whole)
    data[40] ^= 0xFF
    path.write_bytes(data)
    archive = Archive(path)
    with path.open("rb") as file, pytest.raises(DataError, match="damaged entry"):
        read_entry(file, archive[0])


def zip64(path: Path, files: dict[str, bytes]) -> bytes:
    """A ZIP whose numbers are all in the records that files of 4 GB have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", -1)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    path.write_bytes(path.read_bytes()[:-14] + b"\xff" * 12 + b"\0\0")  # the old record's own say: see the new one
    assert contents(path) == files
    return path.read_bytes()


@pytest.mark.parametrize("large", [False, True])
def test_random_damage_never_does_worse_than_a_data_error(tmp_path: Path, large: bool) -> None:
    path, rng = tmp_path / "a.zip", random.Random(1)
    files = {f"c/{i}.png": bytes(range(200)) for i in range(5)}
    if large:
        whole = zip64(path, files)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        whole = path.read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            archive = Archive(path)
        except DataError:
            continue
        with path.open("rb") as file:
            for i in range(len(archive)):
                try:
                    read_entry(file, archive[i])
                except DataError:
                    continue


def test_numbers_of_zip64_beyond_the_file_are_damage(tmp_path: Path) -> None:
    path, most = tmp_path / "a.zip", b"\xff" * 8
    whole = zip64(path, {"a.png": b"x" * 20, "b.png": b"y" * 20})
    locator, entry = whole.index(b"PK\x06\x07"), whole.rindex(b"PK\x01\x02")
    extra = entry + 46 + len("b.png")
    assert whole[extra : extra + 4] == b"\x01\x00\x18\x00"  # 24 bytes: size, packed size, offset
    for at, what in (
        (locator + 8, most),  # where the new record is
        (extra + 4 + 16, most),  # where an entry begins
        (extra + 2, b"\x40\x00"),  # how long the field is: less is there
    ):
        path.write_bytes(whole[:at] + what + whole[at + len(what) :])
        if what != b"\x40\x00":
            with pytest.raises(DataError, match="damaged"):
                contents(path)
        else:
            assert set(contents(path)) == {"a.png", "b.png"}
