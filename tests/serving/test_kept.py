"""What the engine keeps of models: it is bounded, and goes with its model."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kartina.serving import kept

A, B, C = "a" * 64, "b" * 64, "c" * 64
DAY = 24 * 3600.0


def keep(path: Path, size: int, days: float = 0.0) -> Path:
    """A record, or an exported folder, used so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path if path.suffix == ".json" else path / "0.onnx"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def left() -> set[str]:
    return {path.name for path in kept.folder().iterdir()}


def test_all_of_a_model_goes_and_nothing_of_another(home: Path) -> None:
    mine = [keep(kept.record(A, "cpu"), 9), keep(kept.record(A, "cuda:1"), 9), keep(kept.exported(A, "2.13.0"), 9)]
    other = keep(kept.exported(B, "2.13.0"), 9)
    kept.forget(A)
    assert not any(path.exists() for path in mine) and left() == {other.name}
    kept.forget(A)
    kept.forget(C)


def test_what_was_not_used_for_long_goes_and_so_does_what_was_never_finished(home: Path) -> None:
    old, used = keep(kept.exported(A, "2.12.0"), 9, days=31), keep(kept.exported(A, "2.13.0"), 9, days=31)
    kept.used(used)
    part = keep(kept.exported(B, "2.13.0").with_name(f"{B}-onnx1-torch2.13.0.77.part"), 9, days=0.1)
    fresh = keep(kept.exported(C, "2.13.0").with_name(f"{C}-onnx1-torch2.13.0.78.part"), 9)
    assert sorted(kept.prune()) == sorted([old.name, part.name])
    assert left() == {used.name, fresh.name}


def test_beyond_the_size_the_least_recently_used_go_first(home: Path) -> None:
    for days, hash in enumerate((A, B, C)):
        keep(kept.exported(hash, "2.13.0"), 1000, days=days)
    assert kept.prune(size=2500) == [kept.exported(C, "2.13.0").name]
    kept.used(kept.exported(B, "2.13.0"))
    assert kept.prune(size=1500) == [kept.exported(A, "2.13.0").name]
    assert kept.prune(size=10) == [], "the last one used stays"
    assert left() == {kept.exported(B, "2.13.0").name}


def test_without_a_folder_there_is_nothing_to_do(home: Path) -> None:
    kept.forget(A)
    assert kept.prune() == []
