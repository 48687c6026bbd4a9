"""Import: what is packed, that it is the same however it is done, and that nothing is left behind when it fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kartina.data import pool
from kartina.data.digits import IMAGES, SPLITS, import_digits
from kartina.data.imageset import folder, names, open_set, record
from kartina.data.prepare import flips, import_path
from kartina.errors import ConflictError, DataError, IntegrityError, KartinaError, NotFoundError, StorageError
from tests.pictures import pack, pixels, save, tree


def left(home: Path) -> list[str]:
    root = home / "data"
    return sorted(p.name for p in root.iterdir()) if root.is_dir() else []


def test_pixels_labels_and_names_belong_together(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 30, "dog": 20}, size=16)
    found = import_path(tmp_path / "in", "pets")
    assert found.spec.shape == (3, 16, 16) and found.spec.classes == ("cat", "dog") and found.spec.flip_safe
    assert {s: b - a for s, (a, b) in found.bounds.items()} == {"train": 40, "val": 5, "test": 5}
    files = (home / "data" / "pets" / "files.txt").read_text().splitlines()
    assert found.labels is not None and len(files) == 50
    for i, name in enumerate(files):
        stored = np.asarray(Image.open(tmp_path / "in" / name)).transpose(2, 0, 1)
        assert np.array_equal(found.images[i], stored)
        assert found.spec.classes[found.labels[i]] == name.split("/")[0]
    about = record("pets")
    assert about["counts"]["val"] == {"cat": 3, "dog": 2} and about["made"]["splits"] == dict.fromkeys(SPLITS, "made")
    assert str(tmp_path) not in json.dumps(about)
    assert left(home) == ["pets"] and names() == ["digits", "pets"]


def test_the_hash_is_that_of_the_content(tmp_path: Path, home: Path) -> None:
    root = tree(tmp_path / "in", {"train/cat": 240, "train/dog": 20, "test/cat": 2, "test/dog": 1}, size=8)
    first = import_path(root, "one", workers=1).hash
    assert import_path(root, "two", workers=3).hash == first
    assert import_path(pack(root, tmp_path / "a.zip", "top/"), "three", workers=2).hash == first
    rows = [f"{p.relative_to(root)},{p.parent.name},{p.parent.parent.name}" for p in root.rglob("*.png")]
    (root / "m.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert import_path(root / "m.csv", "four").hash == first
    save(root / "train" / "cat" / "00.png", 12345, 8)
    assert import_path(root, "one", replace=True).hash != first
    assert left(home) == ["four", "one", "three", "two"]


def test_size_fit_and_channels(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "grey", {"x1": 4, "y1": 4}, size=20, channels=1)
    assert import_path(tmp_path / "grey", "a").spec.shape == (1, 20, 20)
    assert import_path(tmp_path / "grey", "b", channels="3", size=8).spec.shape == (3, 8, 8)
    save(tmp_path / "grey" / "x1" / "wide.png", 1, (20, 30))
    found = import_path(tmp_path / "grey", "c", fit="pad", skip_bad=True)
    assert found.spec.shape == (3, 64, 64) and record("c")["made"]["original_sizes"] == {"20x20": 8, "30x20": 1}
    for size in (3, 5000):
        with pytest.raises(DataError, match=f"Found size {size}"):
            import_path(tmp_path / "grey", "d", size=size)


def test_fashion_mnist_pads_without_resampling(tmp_path: Path, home: Path) -> None:
    images = np.zeros((60, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = np.random.default_rng(0).integers(0, 256, (60, 20, 20))
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(60) % 2)
    found = import_path(tmp_path / "a.npz", "f", size=32, fit="pad", class_names=["bag", "boot"])
    where = [int(n.split("[")[1][:-1]) for n in (folder("f") / "files.txt").read_text().splitlines()]
    assert found.spec.shape == (1, 32, 32) and np.array_equal(found.images[:, 0, 2:30, 2:30], images[where])


def test_pairs(tmp_path: Path, home: Path) -> None:
    for s, n in (("train", 20), ("test", 4)):
        for i in range(n):
            save(tmp_path / "in" / s / "A" / f"{i}.png", i, 16, 1)
            save(tmp_path / "in" / s / "B" / f"{i}.png", 500 + i, 16)
    found = import_path(tmp_path / "in", "p")
    assert found.spec.paired and found.spec.classes == () and found.labels is None and found.sources is not None
    assert found.sources.shape == (24, 1, 16, 16) and found.images.shape == (24, 3, 16, 16)
    for i, name in enumerate((folder("p") / "files.txt").read_text().splitlines()):
        source = np.asarray(Image.open(tmp_path / "in" / name.replace("/B/", "/A/")))
        assert np.array_equal(found.sources[i, 0], source)
    assert found.bounds == {"train": (0, 18), "val": (18, 20), "test": (20, 24)}
    (tmp_path / "in" / "train" / "A" / "3.png").write_text("no image")
    with pytest.raises(DataError, match=r"Found 1 of 24 images"):
        import_path(tmp_path / "in", "q")
    skipped = import_path(tmp_path / "in", "q", skip_bad=True)
    assert len(skipped) == 23 and skipped.sources is not None and len(skipped.sources) == 23


def test_groups_keep_to_one_split(tmp_path: Path, home: Path) -> None:
    for i in range(120):
        save(tmp_path / "in" / ("cat" if i % 3 else "dog") / f"p{i // 4}_{i}.png", i, 8)
    found = import_path(tmp_path / "in", "g", group_by="(p[0-9]+)_")
    assert found.groups is not None
    parts = [set(found.groups[a:b].tolist()) for a, b in found.bounds.values()]
    assert len(parts) == 3 and sum(map(len, parts)) == len(set.union(*parts)) == 30


def test_equal_images_are_in_one_split_of_those_that_are_made(tmp_path: Path, home: Path) -> None:
    root = tmp_path / "in"
    for i in range(60):
        for copy in "ab":
            save(root / ("cat" if i % 2 else "dog") / f"{i:02}{copy}.png", i, 8)
    (root / "cat" / "broken.png").write_text("no image")
    found = import_path(root, "twins", skip_bad=True)
    seen = [{image.tobytes() for image in found.images[a:b]} for a, b in found.bounds.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 60 and found.groups is None
    assert [b - a for a, b in found.bounds.values()] == [96, 12, 12]
    # Each image is the one of its name and label still, and another import is the same.
    for i, name in enumerate((folder("twins") / "files.txt").read_text().splitlines()):
        assert found.spec.classes[found.labels[i]] == name.split("/")[0]  # type: ignore[index]
        assert np.array_equal(found.images[i].transpose(1, 2, 0), np.asarray(Image.open(root / name)))
    assert import_path(root, "again", skip_bad=True).hash == found.hash

    # What was given stays as it is; val is made of train alone.
    for part in ("train", "test"):
        for i in range(40):
            for copy in "ab":
                save(tmp_path / "split" / part / f"c{i % 2}" / f"{i}{copy}.png", i, 8)
    found = import_path(tmp_path / "split", "half")
    seen = [{image.tobytes() for image in found.images[a:b]} for a, b in found.bounds.values()]
    assert found.bounds["test"] == (80, 160) and not seen[0] & seen[1] and len(seen[2]) == 40

    # A group and equal images of another group: together, by a chain.
    for i in range(80):
        save(tmp_path / "chain" / f"c{i % 2}" / f"p{i // 4}_{i}.png", i % 70, 8)
    found = import_path(tmp_path / "chain", "chain", group_by="(p[0-9]+)_")
    assert found.groups is not None
    for column in (found.groups.tolist(), [image.tobytes() for image in found.images]):
        parts = [set(column[a:b]) for a, b in found.bounds.values()]
        assert len(parts) == 3 and sum(map(len, parts)) == len(set.union(*parts))


def test_bad_files_stop_the_import_with_their_list_or_are_skipped(tmp_path: Path, home: Path) -> None:
    root = tree(tmp_path / "in", {"cat": 30, "dog": 30}, size=16)
    (root / "cat" / "note.png").write_text("just text")
    whole = (root / "dog" / "00.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"Found 2 of 62 images in in that cannot be used.*--skip-bad") as caught:
        import_path(root, "pets")
    assert [d.split(":")[0] for d in caught.value.details] == ["cat/note.png", "dog/cut.png"]
    assert "found text" in caught.value.details[0] and "truncated" in caught.value.details[1]
    assert left(home) == []
    found = import_path(root, "pets", skip_bad=True)
    assert len(found) == 60 and [s["path"] for s in record("pets")["skipped"]] == ["cat/note.png", "dog/cut.png"]
    for i, name in enumerate((folder("pets") / "files.txt").read_text().splitlines()):
        assert np.array_equal(found.images[i], np.asarray(Image.open(root / name)).transpose(2, 0, 1))
    for path in root.rglob("*.png"):
        path.write_text("x")
    with pytest.raises(DataError, match="Found 62 of 62"):
        import_path(root, "none", skip_bad=True)


def test_one_class_is_refused_unless_unlabelled(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 12})
    with pytest.raises(DataError, match=r"Found 1 class \('cat'\) in in; expected at least 2, or pairs"):
        import_path(tmp_path / "in", "one")
    found = import_path(tmp_path / "in", "one", unlabelled=True)
    assert found.labels is None and found.spec.classes == () and len(found) == 12
    with pytest.raises(DataError, match=r"Found the images|Found no"):
        import_path(tmp_path / "none", "two")
    assert left(home) == ["one"]


def test_names(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    for name in ("", "Big", "../up", "a b", ".hidden", "a/b", "x" * 65):
        with pytest.raises(DataError, match="Found the name"):
            import_path(tmp_path / "in", name)
    first = import_path(tmp_path / "in", "a.b_c-1")
    with pytest.raises(ConflictError, match="pass --replace"):
        import_path(tmp_path / "in", "a.b_c-1")
    with pytest.raises(ConflictError, match="embedded"):
        import_path(tmp_path / "in", "digits", replace=True)
    save(tmp_path / "in" / "cat" / "00.png", 99)
    assert import_path(tmp_path / "in", "a.b_c-1", replace=True).hash != first.hash
    assert left(home) == ["a.b_c-1"]


def test_a_failed_replacement_keeps_what_there_was(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    first = import_path(tmp_path / "in", "a").hash
    (tmp_path / "in" / "cat" / "bad.png").write_text("x")
    with pytest.raises(DataError):
        import_path(tmp_path / "in", "a", replace=True)
    assert open_set("a").hash == first and left(home) == ["a"]


@pytest.mark.parametrize(
    ("classes", "safe"),
    [(("cat", "dog"), True), (("0", "1"), False), (("a", "b"), False), (("left hand", "right hand"), False),
     (("digit_3", "digit_4"), False), (("bright", "leftover"), True), (("seven", "eight"), False), ((), True),
     (("T-shirt/top", "Ankle boot"), True), (("10", "cat"), False)],
)  # fmt: skip
def test_flips(classes: tuple[str, ...], safe: bool) -> None:
    assert flips(classes) is safe


def test_flip_can_be_said(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    assert not import_path(tmp_path / "in", "a", flip="off").spec.flip_safe
    assert record("a")["made"]["flip"] == "off"


def test_digits_are_embedded(home: Path) -> None:
    found = open_set("digits")
    assert len(found) == IMAGES and found.spec.shape == (1, 32, 32) and not found.spec.flip_safe
    assert {s: b - a for s, (a, b) in found.bounds.items()} == SPLITS
    assert found.spec.classes == tuple("0123456789") and found.images.max() == 255
    assert import_digits().hash == found.hash and len(found.hash) == 64


def test_a_set_that_does_not_fit_its_record(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    import_path(tmp_path / "in", "a")
    path = home / "data" / "a" / "images.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match=r"a/images.npy that cannot be read .* --replace"):
        open_set("a")
    (home / "data" / "a" / "data.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"a/data.json that cannot be read"):
        open_set("a")
    with pytest.raises(NotFoundError, match="Did you mean 'a'"):
        open_set("aa")


# -- what goes wrong on the way ----------------------------------------------------------------------------------------


def run(code: str, *args: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *args], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                            **options)  # type: ignore[call-overload,no-any-return]  # fmt: skip


IMPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits it ignored
from kartina.data.prepare import import_path
from kartina.errors import KartinaError
def tell(done, total):
    print(done, flush=True)
try:
    import_path(sys.argv[1], "big", size=64, workers=int(sys.argv[2]), progress=tell)
except KartinaError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, home: Path, workers: str) -> None:
    tree(tmp_path / "in", {"cat": 150, "dog": 150}, size=8)

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # a file of 300 x 3 x 64 x 64 does not fit

    proc = run(IMPORT, str(tmp_path / "in"), workers, preexec_fn=small)
    out, err = proc.communicate(timeout=60)
    assert "StorageError Could not import 'big': the file is over the size limit" in out, err
    assert left(home) == []


def test_a_disk_that_fills_while_workers_write(tmp_path: Path, home: Path) -> None:
    """The limit is set in the workers alone: they meet the full disk, and this process tells of it."""
    out = tmp_path / "out.npy"
    out.write_bytes(b"")
    picture = str(save(tmp_path / "in" / "1.png"))
    head = {"files": "/", "names": [picture], "rows": [0], "out": str(out), "skip": 0, "size": 16, "fit": "crop",
            "channels": 3}  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError) as caught, pool.Pool(2) as decoders:
            list(decoders.run("pack", [(head, b"")]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == "out.npy"


def test_ctrl_c_leaves_nothing_behind_and_what_kill_leaves_the_next_import_removes(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 1000, "dog": 1000}, size=32, kind="jpg")
    for stop in (signal.SIGINT, signal.SIGKILL):
        proc = run(IMPORT, str(tmp_path / "in"), "2", start_new_session=True)
        assert proc.stdout is not None and proc.stdout.readline() == "256\n"
        os.killpg(proc.pid, signal.SIGINT) if stop == signal.SIGINT else proc.kill()
        _, err = proc.communicate(timeout=60)
        assert ("KeyboardInterrupt" in err) == (stop == signal.SIGINT)
        remains = left(home)
        assert remains == [] if stop == signal.SIGINT else len(remains) == 1 and remains[0].startswith(".big.tmp-")
    assert names() == ["digits"]
    tree(tmp_path / "small", {"cat": 5, "dog": 5})
    import_path(tmp_path / "small", "small")
    assert left(home) == ["small"]


def test_a_set_moved_aside_by_a_killed_replacement_is_put_back(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    first = import_path(tmp_path / "in", "a").hash
    gone = subprocess.Popen(["true"])
    gone.wait()
    (home / "data" / "a").rename(home / "data" / f".a.old-{gone.pid}-00112233")
    import_path(tmp_path / "in", "b")
    assert left(home) == ["a", "b"] and open_set("a").hash == first


def test_a_home_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Found a file where the folder"):
        import_path(tmp_path / "in", "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_may_not_be_written(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 5, "dog": 5})
    home.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission is denied"):
        import_path(tmp_path / "in", "a")


def test_a_worker_that_dies_is_told_of() -> None:
    def tasks():  # type: ignore[no-untyped-def]
        for _ in range(4):
            yield {"files": "/", "names": []}, b""
        for child in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
            for pid in child.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.2)
        for _ in range(4):
            yield {"files": "/", "names": []}, b""

    if not list(Path(f"/proc/{os.getpid()}/task").glob("*/children")):
        pytest.skip("needs /proc/PID/task/TID/children")
    ended = r"A process that decodes images ended \(exit code -9\)"
    with pytest.raises(KartinaError, match=ended), pool.Pool(2) as decoders:
        list(decoders.run("look", tasks()))


def test_memory_does_not_grow_with_the_pixels(tmp_path: Path, home: Path) -> None:
    """Peak memory of an import of 16 times the pixels stays within a few MB of the small one's."""
    code = """
import resource, sys
from kartina.data.prepare import import_path
import_path(sys.argv[1], sys.argv[2], size=int(sys.argv[3]), workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    images = np.stack([pixels(i, 16) for i in range(2000)])
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(2000) % 2)
    peaks = []
    for name, size in (("small", "16"), ("large", "64")):
        out, err = run(code, str(tmp_path / "a.npz"), name, size).communicate(timeout=60)
        assert out, err
        peaks.append(int(out) / 1024)
    assert folder("large").joinpath("images.npy").stat().st_size > 24e6
    assert peaks[1] - peaks[0] < 20


def test_progress_counts_every_image(tmp_path: Path, home: Path) -> None:
    tree(tmp_path / "in", {"cat": 300, "dog": 30}, size=8)
    told: list[tuple[int, int]] = []
    import_path(tmp_path / "in", "a", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (330, 330) and [d for d, _ in told] == sorted(d for d, _ in told)


def test_the_data_layer_does_not_load_torch() -> None:
    code = "import sys, kartina.cli.data; print(sorted({'torch', 'sklearn', 'scipy'} & sys.modules.keys()))"
    out, err = run(code).communicate(timeout=60)
    assert out == "[]\n", err


def test_arrays_of_three_equal_channels_are_grey(tmp_path: Path, home: Path) -> None:
    """As `inspect` says of them, and as files of the same images are."""
    grey = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    for name, images, channels in (("grey", grey.repeat(3, axis=3), 1), ("colour", grey + np.uint8([0, 1, 2]), 3)):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(60) % 2)
        assert import_path(tmp_path / f"{name}.npz", name).spec.channels == channels
