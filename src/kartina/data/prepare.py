"""import: pack images of any source into a data set, KARTINA_HOME/data/NAME (see `imageset` for its files).

    plan    names -> splits; a sample of the images -> size and channels where they are not given
    pack    workers decode chunks and write each image at its row of images.npy; nothing passes through this process
    part    images with equal pixels that stand on both sides of a split made here: the splits are made anew, and the
            rows put in their order
    seal    labels, groups, names; the hash, streamed over what was written; data.json; one rename

Memory does not grow with the pixels; names and labels take some 100 bytes an image. The order of images, and with it
the hash, does not depend on the number of workers. All is written to a hidden folder beside the target: whatever goes
wrong, a full disk or Ctrl-C, that folder is removed; one left by a killed process is removed by the next import.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kartina import owners
from kartina.config import FORMAT, ImageSpec
from kartina.data import imageset, pool, splits, worker
from kartina.data.archive import MAX_ENTRIES
from kartina.data.decode import FITS, Fit
from kartina.data.imageset import ImageSet, open_set
from kartina.data.paths import SPLITS
from kartina.data.sources import Source, open_source
from kartina.errors import ConflictError, DataError, StorageError, disk_errors
from kartina.files import make_folder, sync

Progress = Callable[[int, int], None]  # (images done, images in all)

SAMPLE = 2000  # images looked at to choose size and channels
DEFAULT_SIZE = 64
MAX_SIZE = 1024
_SMALL = 256  # images below which worker processes cost more than they bring
_BLOCK = 8 << 20


def import_path(
    path: Path | str,
    name: str,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Literal["auto", "1", "3"] = "auto",
    class_names: Sequence[str] = (),
    group_by: str | None = None,
    flip: Literal["auto", "on", "off"] = "auto",
    unlabelled: bool = False,
    skip_bad: bool = False,
    replace: bool = False,
    seed: int = 0,
    workers: int | None = None,
    max_entries: int = MAX_ENTRIES,
    by: Maker | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Import the images at `path` (see `sources`) as the data set `name`, and open it.

    size is that of the square images: by default the images' own when they are all equal and square, else 64; channels
    "auto" is 1 when all are grey. Both go by a sample of 2,000 images spread over all.
    Raises DataError for what cannot be used (its `details` list bad files), ConflictError for a name that is taken,
    StorageError for a full or read-only disk; then nothing is left behind.
    """
    check_name(name, replace)
    source = open_source(
        path, class_names=class_names, group_by=group_by, unlabelled=unlabelled, max_entries=max_entries
    )
    return import_source(source, name, size=size, fit=fit, channels=channels, flip=flip, skip_bad=skip_bad,
                         replace=replace, seed=seed, workers=workers, by=by, progress=progress)  # fmt: skip


def import_source(
    source: Source,
    name: str,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Literal["auto", "1", "3"] = "auto",
    flip: Literal["auto", "on", "off"] = "auto",
    skip_bad: bool = False,
    replace: bool = False,
    seed: int = 0,
    workers: int | None = None,
    by: Maker | None = None,
    more: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """`import_path` for a source that is open already. `more`: further files of the set, by name."""
    if size is not None and not 4 <= size <= MAX_SIZE:
        raise DataError(f"Found size {size}; expected 4 to {MAX_SIZE} pixels.")
    if fit not in FITS or channels not in ("auto", "1", "3") or flip not in ("auto", "on", "off"):
        raise DataError(
            f"Found fit={fit}, channels={channels}, flip={flip}; expected fit crop, pad or stretch, "
            f"channels auto, 1 or 3, flip auto, on or off."
        )
    _check_classes(source)
    asked = {"fit": fit, "channels": channels, "flip": flip, "seed": seed}
    with pool.Pool(workers_for(source, workers)) as decoders:
        plan = _plan(source, size, fit, channels, seed, decoders)
        if by is not None and by.room is not None:
            by.room(len(source) * plan.size**2 * (plan.channels + plan.source_channels))
        owner = owners.LOCAL if by is None else by.owner
        with _folder_for(name, replace, owner) as folder, disk_errors(f"import {name!r}"):
            owners.write(folder, owner)
            order, bad = _pack(source, plan, folder, skip_bad, decoders, progress)
            plan, order = _part_equals(source, plan, folder, order, seed)
            flip_safe = flips(source.classes) if flip == "auto" else flip == "on"
            for file, content in (more or {}).items():
                (folder / file).write_bytes(content)
            _seal(source, plan, folder, name, order, bad, flip_safe, asked)
    return open_set(name)


@dataclass(frozen=True)
class Maker:
    """On whose behalf a data set is made."""

    owner: str
    room: Callable[[int], None] | None = None  # is told its bytes before they are written, and may refuse


def remove(name: str) -> None:
    """Delete a data set. Raises NotFoundError, ConflictError for the embedded one, StorageError."""
    if name == "digits":
        raise ConflictError("Found the data set 'digits', which is embedded; only imported ones can be deleted.")
    imageset.record(name)
    target = imageset.folder(name)
    gone = target.parent / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with disk_errors(f"delete {name!r}"):
        target.rename(gone)
        sync(target.parent)
    shutil.rmtree(gone, ignore_errors=True)


def check_name(name: str, replace: bool = False) -> None:
    """Raises DataError for a name that cannot be used, ConflictError for one that is taken."""
    if not imageset.NAME.fullmatch(name):
        raise DataError(
            f"Found the name {name!r}; expected 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first."
        )
    if name == "digits":
        raise ConflictError("Found the name 'digits', which is the embedded data set's; expected another one.")
    if not replace and imageset.folder(name).exists():
        raise ConflictError(f"Found a data set called {name!r} already; choose another name, or pass --replace.")


def workers_for(source: Source, asked: int | None) -> int:
    """How many processes decode: as many as asked for or as there are cores; 1, inline, for a few images."""
    return 1 if len(source) <= _SMALL else pool.default_workers() if asked is None else asked


def own_size(sizes: Mapping[tuple[int, int], int]) -> int:
    """Pixels a side that images of these (width, height) are packed to, unless another size is asked for: their own
    where all are equal and square, else 64."""
    if len(sizes) != 1:
        return DEFAULT_SIZE
    ((width, height),) = sizes
    return min(max(width, 4), MAX_SIZE) if width == height else DEFAULT_SIZE


def room(source: Source, size: int) -> int:
    """Bytes that its packed images take at most."""
    return len(source) * (2 if source.paired else 1) * size**2 * 3


def flips(classes: Sequence[str]) -> bool:
    """Whether a mirrored image keeps its class, as far as the names tell: not for digits, letters, left and right."""
    sided = re.compile(r"(?i)(?:.|\d+|.*(?<![a-z])(?:left|right|digits?|letters?|numbers?)(?![a-z]).*"
                       r"|zero|one|two|three|four|five|six|seven|eight|nine)")  # fmt: skip
    return not any(sided.fullmatch(c.strip()) for c in classes)


def content_hash(folder: Path, classes: Sequence[str], bounds: dict[str, list[int]]) -> str:
    """sha256 over class names, bounds, and the arrays of a data set's folder, each with its type and shape."""
    digest = hashlib.sha256()
    digest.update(json.dumps({"classes": list(classes), "bounds": bounds}, sort_keys=True).encode())
    for name in ("images", "labels", "groups", "sources"):
        path = folder / f"{name}.npy"
        if not path.is_file():
            continue
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            digest.update(f"/{name} {dtype.str} {shape}/".encode())
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


# -- plan --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    split: NDArray[np.int8]  # N: of every image
    order: NDArray[np.int64]  # row -> image: split after split
    size: int
    fit: Fit
    channels: int
    source_channels: int  # 0 unless the data are pairs
    sizes: dict[str, int]


def _plan(source: Source, size: int | None, fit: Fit, channels: str, seed: int, decoders: pool.Pool) -> _Plan:
    split = splits.assign(source.given, source.labels, source.groups, seed)
    sampled = _sample(source, source.index, decoders)
    inputs = None if source.partner is None else _sample(source, source.partner, decoders)
    return _Plan(
        split=split,
        order=np.argsort(split, kind="stable"),
        size=size or sampled.size,
        fit=fit,
        channels=sampled.channels if channels == "auto" else int(channels),
        source_channels=0 if inputs is None else inputs.channels if channels == "auto" else int(channels),
        sizes=sampled.sizes,
    )


@dataclass(frozen=True)
class _Sampled:
    size: int
    channels: int
    sizes: dict[str, int]  # "width x height" -> how many of the sample


def _sample(source: Source, index: NDArray[np.int64], decoders: pool.Pool) -> _Sampled:
    """Size and channels by a sample of the images spread over all."""
    if source.uniform is not None:
        height, width, deep = source.uniform
        size = min(max(height if height == width else DEFAULT_SIZE, 4), MAX_SIZE)
        sizes = {f"{width}x{height}": len(source)}
        if deep == 1:
            return _Sampled(size, 1, sizes)
        looked = _looked(source, index, decoders)
        return _Sampled(size, 1 if len(looked) and looked["grey"].all() else 3, sizes)
    looked = _looked(source, index, decoders)
    if not len(looked):
        return _Sampled(DEFAULT_SIZE, 3, {})
    counted = Counter(zip(looked["width"].tolist(), looked["height"].tolist(), strict=True))
    return _Sampled(
        own_size(counted),
        1 if looked["grey"].all() else 3,
        {f"{w}x{h}": n for (w, h), n in counted.most_common(20)},
    )


def _looked(source: Source, index: NDArray[np.int64], decoders: pool.Pool) -> NDArray[Any]:
    """LOOK records of those of a sample that can be used."""
    some = np.sort(index[np.unique(np.linspace(0, len(index) - 1, SAMPLE).astype(np.int64))])
    tasks = (task for _, task in source.files.tasks(some))
    records = [np.frombuffer(body, worker.LOOK) for _, body in decoders.run("look", tasks)]
    looked: NDArray[Any] = np.concatenate(records)
    return np.asarray(looked[looked["ok"]])


def _check_classes(source: Source) -> None:
    if source.unlabelled or source.paired:
        return
    if source.labels is None:
        raise DataError(f"Found no labels in {source.title}; expected them, or --unlabelled.")
    present = [c for c, n in zip(source.classes, source.counts(), strict=True) if n]
    if len(present) < 2:
        raise DataError(
            f"Found 1 class ({present[0]!r}) in {source.title}; expected at least 2, or pairs. Give each class its "
            f"folder or label, or pass --unlabelled to use the images without classes."
        )


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise StorageError(
            f"Found {free / 1e9:.1f} GB free for the packed images; expected up to {need / 1e9:.1f} GB. "
            f"Free some space, choose a smaller --size, or point KARTINA_HOME elsewhere."
        )


# -- pack --------------------------------------------------------------------------------------------------------------


class Counting:
    """Counts images that are done, and tells whoever wants to know."""

    def __init__(self, total: int, progress: Progress | None):
        self.done, self.total, self.progress = 0, total, progress

    def add(self, n: int) -> None:
        self.done += n
        if self.progress is not None:
            self.progress(self.done, self.total)


def _pack(
    source: Source, plan: _Plan, folder: Path, skip_bad: bool, decoders: pool.Pool, progress: Progress | None
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Write images.npy, and sources.npy for pairs. Returns (row -> image, image -> why it was skipped)."""
    _check_room(folder, room(source, plan.size))
    done = Counting(len(source) * (2 if source.paired else 1), progress)
    row = np.empty(len(plan.order), np.int64)
    row[plan.order] = np.arange(len(row))
    files = [(folder / "images.npy", source.index, plan.channels)]
    if source.partner is not None:
        files.append((folder / "sources.npy", source.partner, plan.source_channels))
    bad: dict[int, str] = {}
    for out, index, channels in files:
        bad |= _decode_to(out, source, index, row, channels, plan, decoders, done)
    if bad and (not skip_bad or len(bad) == len(source)):
        raise _bad_files(source, bad)
    if not bad:
        return plan.order, bad
    good = np.ones(len(row), bool)
    good[row[np.fromiter(bad, np.int64, len(bad))]] = False
    for out, _, _ in files:
        _rewrite(out, np.flatnonzero(good))
    return plan.order[good], bad


def _decode_to(
    out: Path,
    source: Source,
    index: NDArray[np.int64],
    row: NDArray[np.int64],
    channels: int,
    plan: _Plan,
    decoders: pool.Pool,
    done: Counting,
) -> dict[int, str]:
    """Decode the files at `index` into the rows of a new npy file. Returns image -> why it cannot be used."""
    skip = _new_npy(out, (len(index), channels, plan.size, plan.size))
    image_at = np.argsort(index, kind="stable")  # images in the order of their files
    chunks: deque[tuple[int, int]] = deque()  # sent and not yet answered: where in image_at, how many
    more = {"out": str(out), "skip": skip, "size": plan.size, "fit": plan.fit, "channels": channels}

    def tasks() -> Iterator[pool.Message]:
        at = 0
        for positions, (head, body) in source.files.tasks(index[image_at]):
            chunks.append((at, len(positions)))
            yield {**head, **more, "rows": row[image_at[at : at + len(positions)]].tolist()}, body
            at += len(positions)

    bad: dict[int, str] = {}
    for reply, _ in decoders.run("pack", tasks()):
        at, n = chunks.popleft()
        bad.update((int(image_at[at + i]), message) for i, message in reply["bad"])
        done.add(n)
    return bad


def _new_npy(path: Path, shape: tuple[int, ...]) -> int:
    """Make a uint8 npy file of zeros that takes no room yet; returns the bytes before its data."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        skip = file.tell()
        file.truncate(skip + int(np.prod(shape, dtype=np.int64)))
    return skip


def _rewrite(path: Path, rows: NDArray[np.int64]) -> None:
    """Rewrite an npy file with these of its rows, in this order, a block at a time."""
    old = np.load(path, mmap_mode="r", allow_pickle=False)
    kept = path.with_suffix(".kept")
    step = max(1, _BLOCK // max(1, old[0].nbytes))
    with kept.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *old.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(rows), step):
            file.write(old[rows[at : at + step]].tobytes())
    os.replace(kept, path)


def _part_equals(
    source: Source, plan: _Plan, folder: Path, order: NDArray[np.int64], seed: int
) -> tuple[_Plan, NDArray[np.int64]]:
    """See to it that images with equal pixels are in one split, as far as splits are made here: a copy of a training
    image in val would flatter whoever learns it by heart. Returns the plan and row -> image."""
    files = [path for name in ("images", "sources") if (path := folder / f"{name}.npy").is_file()]
    images = np.sort(order)
    row = np.empty(len(source), np.int64)
    row[order] = np.arange(len(order))
    equal = _digests(files)[row[images]]
    made = ~np.isin(plan.split, source.given)
    split = plan.split[images]
    _, which = np.unique(equal, return_inverse=True)
    first = np.full(int(which.max()) + 1, -1, np.int64)
    first[which[::-1]] = split[::-1]  # of each set of equals, the split of one
    torn = np.zeros(len(first), bool)
    torn[which[(split != first[which])]] = True
    if not (torn[which] & made[images]).any():
        return plan, order
    groups = splits.merged(which, None if source.groups is None else source.groups[images])
    labels = None if source.labels is None else source.labels[images]
    anew = plan.split.copy()
    anew[images] = splits.assign(source.given[images], labels, groups, seed)
    after = images[np.argsort(anew[images], kind="stable")]
    for path in files:
        _rewrite(path, row[after])
    return dataclasses.replace(plan, split=anew, order=np.argsort(anew, kind="stable")), after


def _digests(files: Sequence[Path]) -> NDArray[np.uint64]:
    """A number for each row of npy files of equal length, by its bytes in all of them."""
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
    rows = zip(*arrays, strict=True)
    found = (hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8).digest() for parts in rows)
    return np.frombuffer(b"".join(found), np.uint64)


def _bad_files(source: Source, bad: dict[int, str]) -> DataError:
    lines = [f"{source.name(i)}: {message}" for i, message in sorted(bad.items())]
    return DataError(
        f"Found {len(bad):,} of {len(source):,} images in {source.title} that cannot be used; expected whole JPEG, "
        f"PNG or WebP images. Mend or remove them, or pass --skip-bad to import the others.",
        details=lines,
    )


# -- seal --------------------------------------------------------------------------------------------------------------


def _seal(
    source: Source,
    plan: _Plan,
    folder: Path,
    name: str,
    order: NDArray[np.int64],
    bad: dict[int, str],
    flip_safe: bool,
    asked: dict[str, Any],
) -> None:
    """Write what stands beside the pixels, data.json last, and see all of it on the disk."""
    bounds = _bounds(plan.split[order])
    labels = None if source.labels is None else source.labels[order]
    groups = None if source.groups is None else source.groups[order]
    if labels is not None:
        np.save(folder / "labels.npy", labels, allow_pickle=False)
    if groups is not None:
        np.save(folder / "groups.npy", groups, allow_pickle=False)
    with (folder / "files.txt").open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(source.name(i).replace("\n", "\\n").replace("\r", "\\r") + "\n" for i in order.tolist())
    spec = ImageSpec(height=plan.size, width=plan.size, channels=plan.channels, classes=source.classes,
                     flip_safe=flip_safe, paired=source.paired)  # fmt: skip
    about = {
        "format": FORMAT,
        "name": name,
        "hash": content_hash(folder, spec.classes, bounds),
        "images": len(order),
        "spec": spec.model_dump(mode="json"),
        "bounds": bounds,
        "counts": _counts(labels, bounds, spec.classes),
        "made": {
            "from": source.kind,
            "file": source.title,
            **asked,
            "group_by": source.group_by,
            "groups": None if groups is None else len(np.unique(groups)),
            "splits": {
                s: "given" if (source.given == k).any() else "made" for k, s in enumerate(SPLITS) if s in bounds
            },
            "original_sizes": plan.sizes,
        },
        "skipped": [{"path": source.name(i), "message": m} for i, m in sorted(bad.items())],
        "ignored": source.ignored,
        "kartina": _version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        sync(path)


def _bounds(split: NDArray[np.int8]) -> dict[str, list[int]]:
    edges = np.searchsorted(split, np.arange(len(SPLITS) + 1))
    return {s: [int(edges[k]), int(edges[k + 1])] for k, s in enumerate(SPLITS) if edges[k + 1] > edges[k]}


def _counts(
    labels: NDArray[np.int64] | None, bounds: dict[str, list[int]], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Split -> class -> images; without classes split -> {"": images}."""
    if labels is None:
        return {s: {"": b - a} for s, (a, b) in bounds.items()}
    return {
        s: dict(zip(classes, np.bincount(labels[a:b], minlength=len(classes)).tolist(), strict=True))
        for s, (a, b) in bounds.items()
    }


def _version() -> str:
    try:
        return version("kartina")
    except PackageNotFoundError:
        return "0"


# -- the folder --------------------------------------------------------------------------------------------------------


@contextmanager
def _folder_for(name: str, replace: bool, owner: str) -> Iterator[Path]:
    """A hidden folder that becomes KARTINA_HOME/data/NAME when the block ends well, and is gone when it does not. Only
    a set of the same owner is replaced."""
    target = imageset.folder(name)
    with disk_errors(f"import {name!r}"):
        try:
            make_folder(target.parent)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(
                f"Found a file where the folder {target.parent} should be; expected a folder. Move it away, or point "
                f"KARTINA_HOME elsewhere."
            ) from None
        tidy(target.parent)
        folder = target.parent / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
    old = target.parent / f".{name}.old-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield folder
        with disk_errors(f"import {name!r}"):
            if replace and target.exists():
                if not owners.sees(target, owner):
                    raise ConflictError(f"Found a data set called {name!r} already; choose another name.")
                target.rename(old)
            try:
                folder.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                if target.exists():
                    raise ConflictError(f"Found that {name!r} was imported by another process meanwhile.") from None
                raise
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def tidy(root: Path) -> None:
    """Remove what killed imports left under `root`; a set that was moved aside and not replaced is put back."""
    for path in root.glob(".*"):
        match = re.fullmatch(r"\.(.+)\.(tmp|old)-(\d+)-[0-9a-f]{8}", path.name)
        if match is None or _alive(int(match[3])):
            continue
        if match[2] == "old" and not (root / match[1]).exists():
            path.rename(root / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
