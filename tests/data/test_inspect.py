"""inspect: what is counted, which problems are found, and that nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from kartina.data.inspect import LISTED, TINY, Report, inspect_path
from kartina.errors import DataError
from tests.pictures import pack, pixels, save, tree


def kinds(report: Report) -> dict[str, int]:
    return {k: n for k, n in report.problem_counts.items() if k != "tiny_class"}


def test_counts_sizes_and_modes(tmp_path: Path, home: Path) -> None:
    tree(tmp_path, {"train/cat": 60, "train/dog": 20, "test/cat": 3, "test/dog": 2}, size=16)
    save(tmp_path / "train" / "dog" / "wide.jpg", 777, (16, 40), 1)
    report = inspect_path(tmp_path)
    assert (
        report.images == 86 and report.classes == {"cat": 63, "dog": 23} and report.splits == {"train": 81, "test": 5}
    )
    assert report.classes_by_split == {"train": {"cat": 60, "dog": 21}, "test": {"cat": 3, "dog": 2}}
    assert report.sizes == {"16x16": 85, "40x16": 1} and report.modes == {"RGB": 85, "L": 1} and report.grey == 1
    assert report.size == 64, "they differ"
    assert report.imbalance == 2.74 and [p.message for p in report.problems] == [
        f"class 'dog' has 21 training images; below {TINY} a model learns them by heart"
    ]
    assert any("no val split" in a for a in report.advice) and any("2.5 times as long" in a for a in report.advice)
    assert not home.exists()
    json.dumps(report.as_json())


def test_bad_files_do_not_stop_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", {"cat": 4, "dog": 4})
    (root / "cat" / "note.png").write_text("text")
    (root / "cat" / "film.gif").write_bytes(b"GIF89a")
    whole = (root / "dog" / "00.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[:-80])
    for path in (root, pack(root, tmp_path / "a.zip")):
        report = inspect_path(path)
        assert report.size == 16 and report.images == 8 and kinds(report) == {"corrupt": 2, "unsupported": 1}
        assert [p.paths for p in report.problems[:3]] == [("cat/note.png",), ("dog/cut.png",), ("cat/film.gif",)]
        assert any("--skip-bad" in a for a in report.advice)


def test_exact_duplicates_within_and_across(tmp_path: Path) -> None:
    tree(tmp_path, {f"{s}/{c}": 4 for s in ("train", "test") for c in ("cat", "dog")})
    image = Image.fromarray(pixels(4000))
    copies = {"within": ("train/cat/x.png", "train/cat/y.webp"), "splits": ("train/dog/p.png", "test/dog/q.png"),
              "classes": ("test/cat/m.png", "test/dog/n.png"), 
              "both": ("train/cat/j.png", "test/dog/k.png")}  # fmt: skip
    for i, names in enumerate(copies.values()):
        for name in names:
            options = {"lossless": True} if name.endswith("webp") else {}
            image.rotate(90 * i).save(tmp_path / name, **options)
    report = inspect_path(tmp_path)
    found = {p.kind: p.paths for p in report.problems if "duplicate" in p.kind}
    assert found == {
        "exact_duplicate": copies["within"],
        "exact_duplicate_across_splits": copies["splits"][::-1],
        "exact_duplicate_across_classes": copies["classes"],
        "exact_duplicate_across_splits_and_classes": copies["both"][::-1],
    }
    assert any("reach across splits (2 times)" in a for a in report.advice)


def test_near_duplicates_are_those_that_look_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(150):
        noise = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        path = tmp_path / ("cat" if i % 2 else "dog") / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        noise.resize((48, 48), Image.Resampling.BICUBIC).save(path)
    first = Image.open(tmp_path / "cat" / "001.png")
    first.save(tmp_path / "cat" / "a.jpg", quality=75)
    first.resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / "cat" / "b.png")
    ImageEnhance.Brightness(first).enhance(0.9).save(tmp_path / "dog" / "c.png")
    for i in range(5):  # almost plain pictures have hashes that mean nothing
        Image.new("RGB", (48, 48), (200, 200, 200 + i)).save(tmp_path / "cat" / f"plain{i}.png")
    report = inspect_path(tmp_path)
    (near,) = [p for p in report.problems if "near" in p.kind]
    assert near.kind == "near_duplicate_across_classes"
    assert set(near.paths) == {"cat/001.png", "cat/a.jpg", "cat/b.png", "dog/c.png"}


def test_many_problems_of_a_kind_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1})
    for i in range(LISTED + 7):
        (tmp_path / "cat" / f"bad{i}.png").write_text("x")
    report = inspect_path(tmp_path)
    assert report.problem_counts["corrupt"] == LISTED + 7
    assert sum(p.kind == "corrupt" for p in report.problems) == LISTED


def test_classes_that_are_empty_single_or_missing_in_a_split(tmp_path: Path) -> None:
    tree(tmp_path / "one", {"cat": 3})
    (tmp_path / "one" / "dog").mkdir()
    report = inspect_path(tmp_path / "one")
    assert kinds(report) == {"one_class": 1, "empty_class": 1}
    tree(tmp_path / "two", {"train/cat": 3, "train/dog": 3, "test/cat": 1})
    report = inspect_path(tmp_path / "two")
    assert (
        kinds(report) == {"missing_in_split": 1} and report.problems[-1].message == "class 'dog' has no images in test"
    )


def test_groups_that_stand_in_several_splits(tmp_path: Path) -> None:
    for i, name in enumerate(("train/cat/p1_1.png", "train/dog/p2_1.png", "test/cat/p1_2.png", "test/dog/p3_1.png")):
        save(tmp_path / name, i)
    report = inspect_path(tmp_path, group_by="(p[0-9])_")
    (problem,) = [p for p in report.problems if p.kind == "group_across_splits"]
    assert problem.paths == ("train/cat/p1_1.png", "test/cat/p1_2.png")


def test_pairs(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / "train" / "A" / f"{i}.png", i)
        save(tmp_path / "train" / "B" / f"{i}.png", 100 + i)
    (tmp_path / "train" / "A" / "2.png").write_text("x")
    report = inspect_path(tmp_path)
    assert report.paired and report.images == 5 and report.classes == {} and report.splits == {"train": 5}
    assert [p.message[:19] for p in report.problems] == ["its source in A: fo"]


def test_size_advice(tmp_path: Path) -> None:
    for size, advice in ((28, "--size 32 --fit pad"), (100, "--size 64"), (32, None)):
        images = np.stack([pixels(i, size, 1) for i in range(8)])
        np.savez(tmp_path / "a.npz", images=images, labels=np.arange(8) % 2)
        report = inspect_path(tmp_path / "a.npz")
        sized = [a for a in report.advice if "--size" in a]
        assert sized == [] if advice is None else advice in sized[0]
        assert any("--class-names" in a for a in report.advice) and any("not mirrored" in a for a in report.advice)


def test_many_files_are_looked_at_in_processes(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 400, "dog": 200}, size=8)
    told: list[int] = []
    alone = inspect_path(tmp_path, workers=1)
    assert inspect_path(tmp_path, workers=2, progress=lambda done, total: told.append(done)) == alone
    assert told[-1] == 600


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Found nothing"):
        inspect_path(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "images", "splits", "classes"),
    [
        ("fashion-mnist", 70_000, {"train": 60_000, "test": 10_000}, 10),
        ("clothing10.zip", 3781, {"train": 3068, "val": 341, "test": 372}, 10),
        ("bccd_cells64.zip", 4881, {"train": 3936, "test": 945}, 3),
        ("facades256.zip", 500, {"train": 400, "test": 100}, 0),
    ],
)
@pytest.mark.slow
def test_real_data(shared: Path, name: str, images: int, splits: dict[str, int], classes: int) -> None:
    report = inspect_path(shared / "data" / name)
    assert (report.images, report.splits, len(report.classes)) == (images, splits, classes)
    assert not report.problem_counts.get("corrupt")
