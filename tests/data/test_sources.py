"""What can be imported, and how splits, classes and pairs are found in it."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kartina.data.paths import natural
from kartina.data.sources import Source, open_source
from kartina.errors import DataError
from tests.pictures import pack, pixels, save, tree


def named(source: Source) -> dict[str, tuple[str | None, int]]:
    """name -> (class, given split)."""
    labels = [None] * len(source) if source.labels is None else [source.classes[k] for k in source.labels]
    return {source.name(i): (labels[i], int(source.given[i])) for i in range(len(source))}


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 1})
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "cat" / ".DS_Store").write_text("junk")
    (tmp_path / "cat" / "moving.gif").write_bytes(b"GIF89a")
    (tmp_path / "bird").mkdir()
    found = open_source(tmp_path)
    assert named(found) == {"cat/00.png": ("cat", -1), "cat/01.png": ("cat", -1), "dog/00.png": ("dog", -1)}
    assert found.ignored == {".txt": 1} and found.foreign == ("cat/moving.gif",) and found.empty == ("bird",)


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "home" / "1.png")
    save(tmp_path / "dog" / "1.png")
    assert named(open_source(tmp_path)) == {"cat/home/1.png": ("cat", -1), "dog/1.png": ("dog", -1)}


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "Validation", "Testing"), ("train", "valid", "test")]
)
def test_split_folders_by_all_their_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    tree(tmp_path, {f"{s}/{c}": 1 for s in names for c in ("a1", "b1")})
    found = named(open_source(tmp_path))
    assert [found[f"{s}/a1/00.png"] for s in names] == [("a1", 0), ("a1", 1), ("a1", 2)]


def test_a_vehicle_called_train_is_a_class_and_half_a_split_layout_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 1, "plane": 1})
    assert open_source(tmp_path).classes == ("plane", "train")
    tree(tmp_path, {"test": 1})
    with pytest.raises(DataError, match="Found test, train beside 'plane'"):
        open_source(tmp_path)


def test_classes_are_in_natural_order_and_class_names_can_set_another(tmp_path: Path) -> None:
    tree(tmp_path, {"c10": 1, "c2": 1, "c1": 1})
    assert open_source(tmp_path).classes == ("c1", "c2", "c10")
    found = open_source(tmp_path, class_names=["c2", "c10", "c1"])
    assert found.classes == ("c2", "c10", "c1") and named(found)["c10/00.png"] == ("c10", -1)
    with pytest.raises(DataError, match="can only set their order"):
        open_source(tmp_path, class_names=["x", "y", "z"])


@pytest.mark.parametrize("top", ["", "data/", "data/inner/"])
def test_a_zip_is_read_like_its_folder_whatever_is_around_it(tmp_path: Path, top: str) -> None:
    root = tree(tmp_path / "in", {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    path = pack(root, tmp_path / "a.zip", top, [("__MACOSX/data/._x.png", b"junk"), (top + ".DS_Store", b"junk")])
    inside, outside = open_source(path), open_source(root)
    assert {k.removeprefix(top): v for k, v in named(inside).items()} == named(outside)
    assert inside.kind == "zip" and inside.classes == ("cat", "dog")


def test_pairs_by_equal_names(tmp_path: Path) -> None:
    tree(tmp_path, {f"{s}/{side}": 3 for s in ("train", "test") for side in "AB"})
    found = open_source(tmp_path)
    assert found.paired and found.partner is not None and found.labels is None
    pairs = {found.name(i): found.files.names[int(p)] for i, p in enumerate(found.partner)}
    assert pairs["train/B/01.png"] == "train/A/01.png" and pairs["test/B/02.png"] == "test/A/02.png" and len(pairs) == 6
    save(tmp_path / "train" / "B" / "extra.png")
    with pytest.raises(DataError, match=r"Found 1 images in .* without a partner") as caught:
        open_source(tmp_path)
    assert caught.value.details == ("train/B/extra.png",)
    save(tmp_path / "train" / "A" / "extra.png"), save(tmp_path / "train" / "A" / "extra.jpg")
    with pytest.raises(DataError, match=r"Found 1 images in A of .* that differ from another one"):
        open_source(tmp_path)


def test_classes_called_a_and_b_with_other_names_are_no_pairs(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "train" / "A" / f"a{i}.png", i)
        save(tmp_path / "train" / "B" / f"b{i}.png", i + 9)
    found = open_source(tmp_path)
    assert not found.paired and found.classes == ("A", "B")


def test_images_without_classes_need_to_be_wanted(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    with pytest.raises(DataError, match=r"outside of class folders .* pass --unlabelled"):
        open_source(tmp_path)
    found = open_source(tmp_path, unlabelled=True)
    assert len(found) == 3 and found.labels is None


def test_links_that_go_in_circles_are_followed_once(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert len(open_source(tmp_path)) == 2


# -- arrays ------------------------------------------------------------------------------------------------------------


def idx(path: Path, values: NDArray[np.uint8]) -> None:
    data = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist(root: Path, ending: str = "", train: int = 30, test: int = 10) -> Path:
    root.mkdir(exist_ok=True)
    for name, n in (("train", train), ("t10k", test)):
        images = np.stack([pixels(i, 12, 1) for i in range(n)])
        idx(root / f"{name}-images-idx3-ubyte{ending}", images)
        idx(root / f"{name}-labels-idx1-ubyte{ending}", (np.arange(n) % 3).astype(np.uint8))
    return root


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_folders(tmp_path: Path, ending: str) -> None:
    found = open_source(mnist(tmp_path / "m", ending), class_names=["T-shirt/top", "b", "c"])
    assert found.classes == ("T-shirt/top", "b", "c") and found.uniform == (12, 12, 1)
    assert found.splits() == {"train": 30, "test": 10}
    assert (
        found.name(0) == f"train-images-idx3-ubyte{ending}[0]"
        and found.name(39) == f"t10k-images-idx3-ubyte{ending}[9]"
    )


def test_one_idx_file_finds_its_partner(tmp_path: Path) -> None:
    root = mnist(tmp_path / "m", ".gz")
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        found = open_source(root / name)
        assert len(found) == 10 and found.classes == ("0", "1", "2") and (found.given == -1).all()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_in_a_zip_are_read_like_their_folder(tmp_path: Path, ending: str) -> None:
    root = mnist(tmp_path / "m", ending)
    inside, outside = open_source(pack(root, tmp_path / "m.zip", "mnist/")), open_source(root)
    assert (inside.kind, inside.classes, inside.splits()) == ("idx", outside.classes, outside.splits())
    assert inside.labels is not None and inside.labels.tolist() == outside.labels.tolist()  # type: ignore[union-attr]

    def bodies(source: Source) -> list[bytes]:
        return [body for _, (_, body) in source.files.tasks(source.index)]

    assert bodies(inside) == bodies(outside)


def test_idx_faults(tmp_path: Path) -> None:
    root = mnist(tmp_path / "m")
    idx(root / "t10k-labels-idx1-ubyte", np.zeros(9, np.uint8))
    with pytest.raises(DataError, match="Found 10 images in t10k-images-idx3-ubyte but 9 labels"):
        open_source(root)
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="without its labels"):
        open_source(root)
    mnist(root)
    with pytest.raises(DataError, match=r"labels from 0 to 2 .* and 2 class names"):
        open_source(root, class_names=["a", "b"])
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"of 4,335 bytes; expected 4,336 for its 30 x 12 x 12 values"):
        open_source(root)
    path.write_bytes(b"not idx at all")
    with pytest.raises(DataError, match="does not start like an idx file"):
        open_source(root)


IMAGES = np.stack([pixels(i, 10) for i in range(20)])
LABELS = np.arange(20) % 4


@pytest.mark.parametrize(
    ("arrays", "splits"),
    [
        ({"images": IMAGES, "labels": LABELS}, {"train": 20}),
        ({"X": IMAGES, "Y": LABELS[:, None]}, {"train": 20}),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:5], "y_test": LABELS[:5]}, {"train": 20, "test": 5}),
        ({"train_images": IMAGES, "train_labels": LABELS, "val_images": IMAGES[:4], "val_labels": LABELS[:4]},
         {"train": 20, "val": 4}),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS.astype(np.uint8)}, {"train": 20}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz_keys_and_layouts(tmp_path: Path, arrays: dict[str, NDArray[np.uint8]], splits: dict[str, int],
                              save_npz: object) -> None:  # fmt: skip
    path = tmp_path / "a.npz"
    save_npz(path, **arrays)  # type: ignore[operator]
    found = open_source(path)
    assert found.splits() == splits and found.classes == ("0", "1", "2", "3") and found.uniform == (10, 10, 3)
    ((positions, (head, body)),) = list(found.files.tasks(np.array([3, 7])))
    assert positions.tolist() == [3, 7]
    assert np.array_equal(np.frombuffer(body, np.uint8).reshape(head["array"]), IMAGES[[3, 7]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"foo": IMAGES}, "Found the arrays foo in a.npz; expected images and labels, or x_train"),
        ({"images": IMAGES}, "Found no labels in a.npz"),
        ({"images": IMAGES / 255, "labels": LABELS}, r"Found float64 images .* Save \(images \* 255\)"),
        ({"images": IMAGES, "labels": LABELS[:7]}, "Found 20 images in a.npz:images.npy but 7 labels"),
        ({"images": IMAGES, "labels": np.eye(4)[LABELS].astype(int)}, "labels of shape 20x4 .*argmax"),
        ({"images": IMAGES, "labels": LABELS / 2}, "Found float64 labels"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels from -1 to 2"),
        ({"images": IMAGES[0], "labels": LABELS}, None),
        ({"images": IMAGES[..., :2], "labels": LABELS}, "array of shape 20x10x10x2"),
        ({"images": np.asfortranarray(IMAGES), "labels": LABELS}, "Fortran order"),
        ({"images": IMAGES, "labels": np.array([{"a": 1}] * 20)}, "Python objects .* never read"),
    ],
)
def test_npz_faults(tmp_path: Path, arrays: dict[str, NDArray[np.uint8]], message: str | None) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_a_file_called_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("hello")
    with pytest.raises(DataError, match="cannot be read as npz"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"not numpy")
    with pytest.raises(DataError, match="header that cannot be read"):
        open_source(path)


@pytest.mark.parametrize(
    "header",
    ["{'descr': (", "{b'descr': 1}", "(" * 3000, "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1)}", "\0"],
)
def test_headers_of_arrays_that_are_none_are_refused(tmp_path: Path, header: str) -> None:
    path, text = tmp_path / "a.npz", header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"x")
    with pytest.raises(DataError, match=r"images\.npy"):
        open_source(path)


def test_an_npz_that_unpacks_to_too_much_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((3000, 32, 32), np.uint8), labels=np.arange(3000) % 3)
    with pytest.raises(DataError, match="ZIP bomb"):
        open_source(path)


# -- manifests ---------------------------------------------------------------------------------------------------------


def test_manifests_in_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    tree(tmp_path, {"pics": 4})
    rows = [("pics/03.png", "b", "test", "p2"), ("pics/00.png", "a", "train", "p1"), ("./pics/01.png", "b", "", "p1"),
            ("pics/02.png", "a", "Validation", "p3")]  # fmt: skip
    keys = ("path", "label", "split", "group")
    (tmp_path / "m.csv").write_text("\ufeffPath,label,split,group\n" + "\n".join(",".join(r) for r in rows))
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(dict(zip(keys, r, strict=True))) for r in rows) + "\n\n")
    for name in ("m.csv", "m.jsonl"):
        found = open_source(tmp_path / name)
        assert named(found) == {
            "pics/00.png": ("a", 0),
            "pics/01.png": ("b", -1),
            "pics/02.png": ("a", 1),
            "pics/03.png": ("b", 2),
        }
        assert found.groups is not None and found.groups.tolist() == [0, 0, 1, 2]


def test_rows_without_a_group_are_with_no_other(tmp_path: Path) -> None:
    tree(tmp_path, {"pics": 5})
    groups = ("", "p1", "", "p1", "")
    lines = [f"pics/{i:02}.png,{'ab'[i % 2]},{group}" for i, group in enumerate(groups)]
    (tmp_path / "m.csv").write_text("path,label,group\n" + "\n".join(lines))
    found = open_source(tmp_path / "m.csv").groups
    assert found is not None and found.tolist() == [0, 1, 2, 1, 3]


@pytest.mark.parametrize("top", ["", "data/"])
def test_a_zip_or_folder_with_a_manifest_is_read_by_it(tmp_path: Path, top: str) -> None:
    root = tree(tmp_path / "in", {"T-shirt-top": 3, "Bag": 2, "left-out": 1})
    lines = [f"T-shirt-top/{i:02d}.png,T-shirt/top\n" for i in (2, 0, 1)] + [f"Bag/{i:02d}.png,Bag\n" for i in (1, 0)]
    (root / "manifest.csv").write_text("path,label\n" + "".join(lines))
    path = pack(root, tmp_path / "a.zip", top)
    inside, outside = open_source(path), open_source(root)
    assert inside.classes == outside.classes == ("Bag", "T-shirt/top")
    assert {k.removeprefix(top): v for k, v in named(inside).items()} == named(outside)
    assert len(inside) == 5 and inside.kind == "manifest"
    task, _ = next(task for _, task in inside.files.tasks(np.sort(inside.index)))
    assert [entry[0].removeprefix(top)[:3] for entry in task["entries"]] == ["Bag", "Bag", "T-s", "T-s", "T-s"]
    (root / "manifest.csv").write_text("path,label\nBag/00.png,Bag\nBag/99.png,Bag\n")
    with pytest.raises(DataError, match=r"'Bag/99.png' in manifest.csv, which is not in b.zip"):
        open_source(pack(root, tmp_path / "b.zip", top))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n../x.png,a\n", r"Found the path '../x.png' in line 2 of m.csv"),
        ("path,label\n/etc/x.png,a\n", "expected one inside the folder"),
        ("path,label\na/../../x.png,a\n", "expected one inside the folder"),
        ("path,label\nout/x.png,a\n", "a link that may leave the folder"),
        ("path,label\n1.png,\n", "Found no label in line 2"),
        ("path,label,split\n1.png,a,dev\n", "Found the split 'dev' in line 2"),
        ("path,label\n1.png,a\n1.png,b\n", "Found '1.png' twice"),
        ("path,label\n1.png\n", "more or fewer values"),
        ("file,class\n1.png,a\n", "Found the columns file, class"),
        ("", "Found the columns none"),
        ("path,label\n", "Found no rows"),
    ],
)
def test_manifest_faults(tmp_path: Path, text: str, message: str) -> None:
    root = tmp_path / "in"
    save(root / "1.png")
    save(tmp_path / "elsewhere" / "x.png")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(root / "m.csv")


def test_jsonl_faults(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for text, message in (("{oops", "cannot be read"), ("[1]", "Found no object in line 1")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            open_source(path)


# -- what is nothing ---------------------------------------------------------------------------------------------------


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Found nothing at .*; expected a folder or zip of class folders"):
        open_source(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Found no JPEG, PNG or WebP images"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty" / "x.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"but 1 of other formats, such as x.gif"):
        open_source(tmp_path / "empty")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "m.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"but .csv files; pass such a file"):
        open_source(tmp_path / "lists")
    with pytest.raises(DataError, match=r"Found the file 1.png, which is none of what can be imported"):
        open_source(save(tmp_path / "1.png"))


def test_groups_by_path(tmp_path: Path) -> None:
    for name in ("cat/p1_a.png", "dog/p1_b.png", "dog/p2_a.png"):
        save(tmp_path / name)
    found = open_source(tmp_path, group_by="(p[0-9]+)_")
    assert found.groups is not None and found.groups.tolist() == [0, 0, 1]
    for pattern, message in (
        ("(x)_", "Found 3 of 3 paths"),
        ("p1", "without a capture group"),
        ("(", r"expected a regular expression of RE2's syntax, .*missing \)"),
        ("(p)(?=1)", r"no look-around \(invalid perl operator: \(\?="),
    ):
        with pytest.raises(DataError, match=message):
            open_source(tmp_path, group_by=pattern)


# -- hostile texts -----------------------------------------------------------------------------------------------------


def test_names_of_thousands_of_digits_are_sorted_as_numbers() -> None:
    long = "9" * 5000
    assert sorted(["10", "2", f"a{long}", "a7", "007", "7b", long], key=natural) == [
        "2", "007", "7b", "10", long, "a7", f"a{long}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        '{"path": "pics/00.png", "label": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"path": "pics/00.png", "label": ' + "7" * 5000 + "}",
        '{"path": "pics/\\ud800.png", "label": "a"}',
        '{"path": "pics/00.png", "label": "\\ud800"}',
    ],
)
def test_json_that_no_text_or_number_can_hold_is_refused(tmp_path: Path, line: str) -> None:
    tree(tmp_path, {"pics": 1})
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path / "m.jsonl")
