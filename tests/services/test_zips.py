"""ZIPs that are made while they are sent."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from kartina.services.zips import Entry, stream, stream_files

AT = datetime(2026, 11, 23, 12, 30, 10, tzinfo=UTC)


def test_a_zip_has_its_files_and_their_times() -> None:
    content = {"a": b"first", "b": b"", "c": bytes(range(256)) * 100}
    entries = [Entry(f"{name}-кот.png", name, AT) for name in content]
    with zipfile.ZipFile(io.BytesIO(b"".join(stream(entries, content.__getitem__)))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            f"{name}-кот.png": body for name, body in content.items()
        }
        assert archive.infolist()[0].date_time == (2026, 11, 23, 12, 30, 10)


def test_memory_does_not_grow_with_the_files() -> None:
    """400 MB of images pass through 3 MB, and a list of 100,000 names through 4."""
    image = bytes(200_000)
    entries = (Entry(f"{i}.png", "x", AT) for i in range(2000))
    tracemalloc.start()
    size = sum(len(part) for part in stream(entries, lambda blob: image + b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 400e6
    assert peak < 3e6
    entries = (Entry(f"{i}.png", "x", AT) for i in range(100_000))
    tracemalloc.start()
    size = sum(len(part) for part in stream(entries, lambda blob: b"png"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 9e6 and peak < 4e6


def test_large_files_pass_in_parts(tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    (tmp_path / "big.safetensors").write_bytes(b"7" * (30 << 20))
    (tmp_path / "classes" / "0.png").write_bytes(b"png")
    tracemalloc.start()
    parts = sum(len(part) for part in stream_files(tmp_path, ["big.safetensors", "classes/0.png"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert parts > 30 << 20 and peak < 8 << 20
    whole = b"".join(stream_files(tmp_path, ["big.safetensors", "classes/0.png"]))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None and archive.namelist() == ["big.safetensors", "classes/0.png"]
