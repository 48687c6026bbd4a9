"""Sources: what can be imported, and how its images, labels and splits are found.

    folder      CLASS/images, or SPLIT/CLASS/images          (split: train, val or validation, test)
    zip         the same inside, or idx files; one folder around it all is looked through
    pairs       SPLIT/A and SPLIT/B with equal file names, in a folder or a zip: A is what B is to be made from
    idx         MNIST's files, plain or gzipped: a folder of them, or one of a pair
    npz         images + labels, or x_train, y_train, x_test, y_test
    manifest    CSV or JSONL: path, label, and if wanted split and group; paths inside the manifest's folder. A folder
                or zip that has a manifest.csv or manifest.jsonl is read by it

`open_source` reads names and headers only. A Source hands its images out as tasks for `worker`, a chunk at a time.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from array import array as Column  # of numbers
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
import re2
from numpy.typing import NDArray

from kartina.data.archive import MAX_ENTRIES, Archive, Entry, read_entry
from kartina.data.arrays import ArrayFile, is_idx, read_idx, read_npz
from kartina.data.paths import FOREIGN, IMAGES, SPLITS, PathList, Split, is_junk, natural, split_of, suffix
from kartina.data.pool import Message
from kartina.data.splits import NONE
from kartina.errors import DataError

KINDS = "a folder or zip of class folders, an idx folder, an npz, or a CSV or JSONL manifest"
MANIFESTS = ("manifest.csv", "manifest.jsonl")  # that a folder or zip is read by
CHUNK = 256  # files in a task
CHUNK_BYTES = 4 << 20  # of an array in a task


class Files(Protocol):
    """Where images are: their names, and tasks for the workers that read them."""

    @property
    def names(self) -> Sequence[str] | PathList: ...

    def tasks(self, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Message]]:
        """For ascending `positions` in `names`: (positions of a chunk, in the task's order; the task that reads it)."""
        ...


@dataclass(frozen=True)
class Source:
    """What was found: N images by their place in `files`, and all that is known about them."""

    kind: str  # folder, zip, idx, npz, manifest
    title: str  # file or folder name, without its path
    files: Files
    index: NDArray[np.int64]  # N: where image i is in `files`
    labels: NDArray[np.int64] | None  # N
    given: NDArray[np.int8]  # N: 0 train, 1 val, 2 test, -1 not said
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = None  # N
    partner: NDArray[np.int64] | None = None  # N: where image i's source is in `files`, for pairs
    uniform: tuple[int, int, int] | None = None  # height, width, channels, where every image is known to have them
    unlabelled: bool = False  # asked for
    ignored: dict[str, int] = field(default_factory=dict)  # files that are no images, by suffix
    foreign: tuple[str, ...] = ()  # image files of formats that are not read
    empty: tuple[str, ...] = ()  # class folders without images
    group_by: str | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def paired(self) -> bool:
        return self.partner is not None

    def name(self, i: int) -> str:
        """Where image i came from, relative to what is imported."""
        return self.files.names[int(self.index[i])]

    def splits(self) -> dict[str, int]:
        """Images of each split that was given; those without one count as train."""
        return {s: int(n) for k, s in enumerate(SPLITS) if (n := (np.maximum(self.given, 0) == k).sum())}

    def counts(self) -> NDArray[np.int64]:
        """Images per class, in label order (shape K)."""
        if self.labels is None:
            return np.zeros(0, np.int64)
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)


def open_source(
    path: Path | str,
    *,
    class_names: Sequence[str] = (),
    group_by: str | None = None,
    unlabelled: bool = False,
    max_entries: int = MAX_ENTRIES,
) -> Source:
    """Find out what `path` is and what it holds. Raises DataError: nothing there, nothing usable, or unsafe."""
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"Found nothing at {path}; expected {KINDS}. Check the spelling.")
    try:
        found = _open(path, tuple(class_names), unlabelled, max_entries)
    except PermissionError as error:
        raise DataError(
            f"Found {error.filename or path}, which may not be read (permission denied); expected readable files. "
            f"Change its permissions (chmod u+r)."
        ) from None
    if len(found) == 0:
        other = f" but {len(found.foreign)} of other formats, such as {found.foreign[0]}" if found.foreign else ""
        raise DataError(f"Found no JPEG, PNG or WebP images in {path}{other}; expected {KINDS}. Put images there.")
    if group_by is not None:
        found = _grouped(found, group_by)
    return found


def _open(path: Path, class_names: tuple[str, ...], unlabelled: bool, max_entries: int) -> Source:
    if path.is_dir():
        for name in MANIFESTS:
            if (path / name).is_file():
                return _manifest(path / name, class_names, unlabelled)
        names = sorted(p for p in path.iterdir() if "ubyte" in p.name.casefold() and not is_junk(p.name))
        if idx := [p for p in names if p.is_file()]:
            return _idx(path.name, [(p, None) for p in idx], class_names, unlabelled)
        listing = _walk(Path(os.path.abspath(path)))
        lists = sorted({".csv", ".jsonl", ".npz", ".zip"} & listing.ignored.keys())
        if lists and not len(listing.keep) and not listing.foreign:
            raise DataError(f"Found no images in {path} but {lists[0]} files; pass such a file instead of its folder.")
        return _arrange(listing, class_names, unlabelled)
    kind = suffix(path.name)
    if kind == ".npz":
        return _npz(path, class_names, unlabelled, max_entries)
    if kind in (".csv", ".jsonl", ".ndjson"):
        return _manifest(path, class_names, unlabelled)
    if is_idx(path):
        return _idx(path.name, [(p, None) for p in _idx_pair(path)], class_names, unlabelled)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"PK" or kind == ".zip":
        return _zip(Archive(path, max_entries), class_names, unlabelled)
    raise DataError(f"Found the file {path.name}, which is none of what can be imported; expected {KINDS}.")


# -- folders and zips --------------------------------------------------------------------------------------------------


class FolderFiles:
    """Image files under one folder."""

    def __init__(self, root: Path, names: PathList):
        self.root = root
        self.names = names

    def tasks(self, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Message]]:
        for start in range(0, len(positions), CHUNK):
            part = positions[start : start + CHUNK]
            yield part, ({"files": str(self.root), "names": [self.names[i] for i in part.tolist()]}, b"")


class ZipFiles:
    """Image files in a ZIP."""

    def __init__(self, archive: Archive):
        self.archive = archive
        self.names = archive.names

    def tasks(self, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Message]]:
        path = os.path.abspath(self.archive.path)
        for start in range(0, len(positions), CHUNK):
            part = positions[start : start + CHUNK]
            found = (self.archive[i] for i in part.tolist())
            entries = [[e.name, e.offset, e.packed, e.size, e.method, e.crc] for e in found]
            yield part, ({"zip": path, "entries": entries}, b"")


@dataclass(frozen=True)
class _Listing:
    """The names in a folder or zip, junk left out."""

    kind: str
    title: str
    files: FolderFiles | ZipFiles
    keep: NDArray[np.int64]  # the images, by their place in `files.names`, sorted by name
    folders: set[str]
    ignored: dict[str, int]  # files that are no images, by suffix
    foreign: tuple[str, ...]  # images of other formats


def _walk(root: Path) -> _Listing:
    """Everything under a folder, links followed."""
    names, seen = PathList(), set()
    folders: set[str] = set()
    for where, inner, files in os.walk(root, followlinks=True, onerror=_raise):
        stat = os.stat(where)
        if (stat.st_dev, stat.st_ino) in seen:  # a link back up
            inner.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        inner[:] = sorted(d for d in inner if not is_junk(d))
        base = os.path.relpath(where, root).replace(os.sep, "/")
        prefix = "" if base == "." else base + "/"
        folders.update(prefix + d for d in inner)
        for file in files:
            if not is_junk(file):
                names.append(prefix + file)
    return _Listing("folder", root.name, FolderFiles(root, names), *_sift(names, folders))


def _zip(archive: Archive, class_names: tuple[str, ...], unlabelled: bool) -> Source:
    """The images that a manifest in the ZIP lists, else idx files where there are no images, else folders."""
    for i in range(len(archive)):
        if PurePosixPath(name := archive.names[i]).name in MANIFESTS and name.count("/") <= 1:
            return _zip_manifest(archive, archive[i], class_names, unlabelled)
    listing = _list_zip(archive)
    if not len(listing.keep) and len(archive) <= 64:
        idx = [name for name in archive.names if "ubyte" in PurePosixPath(name).name.casefold()]
        if idx:
            return _idx(archive.path.name, [(archive.path, name) for name in sorted(idx)], class_names, unlabelled)
    return _arrange(listing, class_names, unlabelled)


def _list_zip(archive: Archive) -> _Listing:
    return _Listing("zip", archive.path.name, ZipFiles(archive), *_sift(archive.names, archive.folders))


def _raise(error: OSError) -> None:
    raise error


def _sift(names: PathList, folders: set[str]) -> tuple[NDArray[np.int64], set[str], dict[str, int], tuple[str, ...]]:
    """(positions of images in sorted order, folders, other files by suffix, images of other formats)."""
    order = names.order()
    keep = np.zeros(len(order), bool)
    ignored: Counter[str] = Counter()
    foreign: list[str] = []
    for at, i in enumerate(order):
        name = names[i]
        kind = suffix(name)
        if kind in IMAGES:
            keep[at] = True
        elif kind in FOREIGN:
            foreign.append(name)
        else:
            ignored[kind] += 1
    return order[keep], folders, dict(ignored), tuple(foreign)


def _arrange(listing: _Listing, class_names: tuple[str, ...], unlabelled: bool) -> Source:
    """Read splits and classes, or pairs, off the names."""
    names, order, title = listing.files.names, listing.keep, listing.title
    for a, b in pairwise(order):
        if names[a] == names[b]:
            raise DataError(f"Found two files called {names[a]!r} in {title}; expected each name once. Pack it again.")
    prefix = _wrapping(names, order)
    wrap = len(prefix)
    tops = sorted({names[i][wrap:].split("/", 1)[0] for i in order})
    as_splits = [t for t in tops if split_of(t) is not None]
    split_layout = 0 < len(as_splits) == len(tops)
    if len(as_splits) > 1 and not split_layout:
        other = next(t for t in tops if t not in as_splits)
        raise DataError(
            f"Found {', '.join(as_splits)} beside {other!r} in {title}; expected either splits (train, val, test) that "
            f"hold class folders, or class folders alone. Move {other!r} into a split or away."
        )

    # Split and class of every image: positions in `order`.
    given = np.full(len(order), NONE, np.int8)
    codes = np.full(len(order), -1, np.int64)
    seen: dict[str, int] = {}
    loose: list[str] = []
    for at, i in enumerate(order):
        parts = names[i][wrap:].split("/")
        if split_layout:
            given[at] = SPLITS.index(split_of(parts.pop(0)) or "train")
        if len(parts) > 1:
            codes[at] = seen.setdefault(parts[0], len(seen))
        elif len(loose) < 3:
            loose.append(names[i])
    index = order
    found = Source(listing.kind, title, listing.files, index, None, given, (), unlabelled=unlabelled,
                   ignored=listing.ignored, foreign=listing.foreign)  # fmt: skip
    if split_layout and set(seen) == {"A", "B"} and not loose:
        pairs = _pairs(names, index, codes == seen["A"], given, wrap, title)
        if pairs is not None:
            targets, partner = pairs
            return replace(found, index=index[targets], given=given[targets], partner=partner)
    if unlabelled:
        return found
    if loose:
        raise DataError(
            f"Found images outside of class folders in {title}, such as {loose[0]}; expected CLASS/image or "
            f"SPLIT/CLASS/image. Put them into class folders, or pass --unlabelled to use images without classes."
        )
    classes = tuple(sorted(seen, key=natural))
    if class_names:
        if sorted(class_names) != sorted(classes):
            raise DataError(
                f"Found the class names {', '.join(class_names)} but the folders {', '.join(classes)}; "
                f"--class-names names the classes of idx and npz, and for folders it can only set their order."
            )
        classes = class_names
    rank = np.zeros(max(1, len(seen)), np.int64)
    for label, name in enumerate(classes):
        rank[seen[name]] = label
    depth = 2 if split_layout else 1
    within = {f[wrap:] for f in listing.folders if f.startswith(prefix)}
    empty = sorted({f.split("/")[-1] for f in within if f.count("/") == depth - 1} - set(classes))
    return replace(found, labels=rank[codes], classes=classes, empty=tuple(empty))


def _wrapping(names: PathList, order: NDArray[np.int64]) -> str:
    """The folder around everything ("name/"), "" where there is none or where it holds images itself."""
    if not len(order):
        return ""
    first, prefix = names[order[0]].split("/"), ""
    while len(first) > 2 and split_of(first[0]) is None:
        wrap = prefix + first[0] + "/"
        if not names[order[-1]].startswith(wrap):  # sorted: what the first and the last share, all share
            break
        if any(names[i].count("/") == wrap.count("/") for i in order):  # images lie right in it: it is a class
            break
        prefix, first = wrap, first[1:]
    return prefix


def _pairs(
    names: PathList, index: NDArray[np.int64], is_a: NDArray[np.bool_], given: NDArray[np.int8], wrap: int, title: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(positions of the B images in `index`, where each one's A is in the files).

    None where the names say that A and B are classes. Raises DataError where some but not all have a partner, or two.
    """

    def key(at: int) -> tuple[int, str]:
        return int(given[at]), str(PurePosixPath(names[int(index[at])][wrap:].split("/", 2)[2]).with_suffix(""))

    sources, twice = dict[tuple[int, str], int](), list[int]()
    for at in np.flatnonzero(is_a).tolist():
        if sources.setdefault(key(at), at) != at:
            twice.append(at)
    targets = np.flatnonzero(~is_a)
    found = [sources.pop(key(at), -1) for at in targets.tolist()]
    alone = [names[int(index[t])] for t, f in zip(targets.tolist(), found, strict=True) if f < 0]
    if len(alone) > len(targets) / 2:
        return None
    if twice:
        raise DataError(
            f"Found {len(twice)} images in A of {title} that differ from another one there in their suffix alone; "
            f"expected one for each image in B. Rename these or remove them.",
            details=[names[int(index[at])] for at in twice[:100]],
        )
    alone += [names[int(index[at])] for at in sources.values()]
    if alone:
        raise DataError(
            f"Found {len(alone)} images in {title} without a partner; expected equal file names in A and B of each "
            f"split. Add the missing ones or remove these.",
            details=alone[:100],
        )
    return targets, index[np.array(found, np.int64)]


# -- arrays ------------------------------------------------------------------------------------------------------------


class ArrayFiles:
    """Images in arrays, one array after the other; names are ARRAY[row]."""

    def __init__(self, arrays: Sequence[ArrayFile | Rows]):
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *(len(a) for a in self.arrays)])
        self.names = _RowNames(self)

    def tasks(self, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Message]]:
        for array, start in zip(self.arrays, self.starts.tolist(), strict=False):
            wanted = positions[(positions >= start) & (positions < start + len(array))] - start
            if not len(wanted):
                continue
            shape = _hwc(array.shape)
            at_once = max(1, min(1024, CHUNK_BYTES // max(1, int(np.prod(shape)))))
            at = 0
            for rows in array.rows(at_once):
                here = wanted[slice(*np.searchsorted(wanted, (at, at + len(rows))))]
                if len(here):
                    block = np.ascontiguousarray(_channels_last(rows[here - at], array.shape))
                    yield here + start, ({"array": list(block.shape)}, block.tobytes())
                at += len(rows)
                if at > wanted[-1]:
                    break


class Rows:
    """An array in memory, read like an ArrayFile."""

    def __init__(self, title: str, values: NDArray[np.uint8]):
        self.title = title
        self.values = values
        self.shape = values.shape

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, at_once: int) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(self), at_once):
            yield self.values[start : start + at_once]


class _RowNames(Sequence[str]):
    def __init__(self, files: ArrayFiles):
        self._files = files

    def __len__(self) -> int:
        return int(self._files.starts[-1])

    def __getitem__(self, i: Any) -> Any:
        k = int(np.searchsorted(self._files.starts, i, side="right")) - 1
        return f"{self._files.arrays[k].title}[{i - int(self._files.starts[k])}]"


def from_arrays(
    kind: str,
    title: str,
    parts: Sequence[tuple[Split | None, ArrayFile | Rows, NDArray[np.int64] | None]],
    class_names: Sequence[str] = (),
    unlabelled: bool = False,
) -> Source:
    """A Source of image arrays (uint8 N,H,W | N,H,W,C | N,C,H,W) with labels, by split.

    Classes are called 0 .. K-1 unless named. Raises DataError for other types or shapes, unequal lengths, labels out of
    range.
    """
    shapes = set()
    for _, images, labels in parts:
        _check_images(images)
        shapes.add(_hwc(images.shape))
        if labels is not None and len(labels) != len(images):
            raise DataError(
                f"Found {len(images):,} images in {images.title} but {len(labels):,} labels; expected as many "
                f"labels as images. Check that both come from the same download."
            )
    if len(shapes) > 1:
        raise DataError(
            f"Found images of different shapes in {title}: {', '.join(map(str, sorted(shapes)))}; expected one shape."
        )
    given = np.concatenate([np.full(len(i), NONE if s is None else SPLITS.index(s), np.int8) for s, i, _ in parts])
    found = [labels for _, _, labels in parts if labels is not None]
    labels = None if unlabelled or not found else np.concatenate(found)
    classes: tuple[str, ...] = ()
    if labels is not None:
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= (len(class_names) or 65536):
            have = f"{len(class_names)} class names" if class_names else "at most 65,536 classes"
            raise DataError(
                f"Found labels from {low} to {high} in {title} and {have}; expected labels 0 .. K-1 for K classes. "
                f"Give one name for each class with --class-names."
            )
        classes = tuple(class_names) or tuple(str(k) for k in range(high + 1))
        if len(set(classes)) != len(classes):
            raise DataError(f"Found a class name twice in {', '.join(classes)}; expected each name once.")
    files = ArrayFiles([images for _, images, _ in parts])
    index = np.arange(len(given), dtype=np.int64)
    return Source(kind, title, files, index, labels, given, classes, uniform=shapes.pop(), unlabelled=unlabelled)


def _check_images(images: ArrayFile | Rows) -> None:
    dtype = images.dtype if isinstance(images, ArrayFile) else images.values.dtype
    shape = "x".join(map(str, images.shape))
    if dtype != np.uint8:
        how = "Save (images * 255).round().astype('uint8')." if dtype.kind == "f" else "Save them as uint8."
        raise DataError(f"Found {dtype.name} images in {images.title}; expected uint8 from 0 to 255. {how}")
    good = len(images.shape) == 3 or (len(images.shape) == 4 and ({images.shape[1], images.shape[3]} & {1, 3, 4}))
    if not good or 0 in images.shape[1:] or max(images.shape[1:]) > 16384:
        raise DataError(
            f"Found an array of shape {shape} in {images.title}; expected images N,H,W or N,H,W,C or N,C,H,W with "
            f"C of 1, 3 or 4."
        )


def _hwc(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[1], shape[2], 1
    if shape[3] in (1, 3, 4):
        return shape[1], shape[2], shape[3]
    return shape[2], shape[3], shape[1]


def _channels_last(rows: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if len(shape) == 3:
        return rows[..., None]
    return rows if shape[3] in (1, 3, 4) else rows.transpose(0, 2, 3, 1)


def _labels(array: ArrayFile) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise DataError(f"Found {array.dtype.name} labels in {array.title}; expected whole numbers from 0.")
    shape = array.shape if len(array.shape) == 1 else array.shape[:1] if array.shape[1:] == (1,) else None
    if shape is None:
        how = "Save labels.argmax(1) instead of one-hot rows." if len(array.shape) == 2 else ""
        raise DataError(
            f"Found labels of shape {'x'.join(map(str, array.shape))} in {array.title}; expected one number "
            f"an image. {how}"
        )
    return array.whole().reshape(-1).astype(np.int64)


def _idx(
    title: str, paths: Sequence[tuple[Path, str | None]], class_names: tuple[str, ...], unlabelled: bool
) -> Source:
    """idx files (or members of ZIPs): those of three or four dimensions are images, those of one are labels; names
    begin with the split."""
    found = [read_idx(p, member) for p, member in paths if is_idx(p, member)]
    wrong = [member or p.name for p, member in paths if not is_idx(p, member)]
    if wrong:
        raise DataError(f"Found {wrong[0]}, which does not start like an idx file or is damaged; download it again.")
    images = {_stem(a): a for a in found if len(a.shape) >= 3}
    labels = {_stem(a): a for a in found if len(a.shape) == 1}
    if not images:
        raise DataError(f"Found no idx file of images in {title}; expected one such as train-images-idx3-ubyte.gz.")
    lonely = sorted(images.keys() - labels.keys())
    if lonely and not unlabelled:
        raise DataError(
            f"Found {images[lonely[0]].file_name} without its labels; expected {lonely[0]}-labels-idx1-ubyte "
            f"beside it, or pass --unlabelled."
        )
    parts = []
    for stem in sorted(images, key=lambda s: list(SPLITS).index(_idx_split(s) or "train")):
        split = _idx_split(stem) if len(images) > 1 else None
        parts.append((split, images[stem], None if unlabelled else _labels(labels[stem])))
    return from_arrays("idx", title, parts, class_names, unlabelled)


def _stem(array: ArrayFile) -> str:
    """train-images-idx3-ubyte.gz -> train."""
    return re.split(r"[-_.](?:images|labels)", array.file_name.casefold())[0]


def _idx_split(stem: str) -> Split | None:
    return "test" if stem == "t10k" else split_of(stem)


def _idx_pair(path: Path) -> list[Path]:
    """An idx file and its partner: images <-> labels."""
    swaps = (("images", "labels"), ("idx3", "idx1")), (("labels", "images"), ("idx1", "idx3"))
    for swap in swaps:
        other = path.name
        for a, b in swap:
            other = other.replace(a, b)
        names = (other, other + ".gz", other.removesuffix(".gz"))
        partner = next((path.with_name(n) for n in names if n != path.name and path.with_name(n).is_file()), None)
        if partner is not None:
            return [path, partner]
    return [path]


_NPZ = (("images", "labels"), ("x", "y"), ("data", "labels"), ("arr_0", "arr_1"))


def _npz(path: Path, class_names: tuple[str, ...], unlabelled: bool, max_entries: int) -> Source:
    arrays = {k.casefold(): v for k, v in read_npz(path).items()}
    Archive(path, max_entries, max_entry=1 << 40)  # no bomb, no links
    pairs: list[tuple[Split | None, str, str]] = [(None, x, y) for x, y in _NPZ]
    pairs += [(split_of(s), x.format(s), y.format(s))
              for s in ("train", "training", "val", "valid", "validation", "test", "testing")
              for x, y in (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"))]  # fmt: skip
    found = [(s, x, y) for s, x, y in pairs if x in arrays]
    if any(s for s, _, _ in found):
        found = [f for f in found if f[0]]
    else:
        found = found[:1]
    have = ", ".join(sorted(arrays)) or "none"
    if not found:
        raise DataError(
            f"Found the arrays {have} in {path.name}; expected images and labels, or x_train, y_train, x_test, y_test."
        )
    missing = [y for _, _, y in found if y not in arrays]
    if missing and not unlabelled:
        raise DataError(f"Found no {missing[0]} in {path.name} (it has {have}); expected labels, or pass --unlabelled.")
    found.sort(key=lambda f: SPLITS.index(f[0] or "train"))
    parts = [(s, arrays[x], None if unlabelled else _labels(arrays[y])) for s, x, y in found]
    return from_arrays("npz", path.name, parts, class_names, unlabelled)


# -- manifests ---------------------------------------------------------------------------------------------------------


def _manifest(path: Path, class_names: tuple[str, ...], unlabelled: bool) -> Source:
    """CSV with a header, or JSON lines: path, label, and if wanted split and group."""
    root = Path(os.path.abspath(path)).parent
    inside: dict[str, bool] = {}  # folder -> whether it is within the manifest's, links followed
    real = os.path.realpath(root)

    def check(name: str, line: int) -> None:
        where = os.path.dirname(name)
        if where not in inside:
            inside[where] = os.path.commonpath([real, os.path.realpath(root / where)]) == real
        if not inside[where] or (root / name).is_symlink():
            raise DataError(
                f"Found {name!r} in line {line} of {path.name}, a link that may leave the folder; "
                f"expected a file in it."
            )

    with path.open("rb") as file:
        rows = _rows(file, path.name, unlabelled, check)
    order = rows.order()
    return _by_manifest(rows, FolderFiles(root, rows.names), order, order, class_names, unlabelled)


def _zip_manifest(archive: Archive, entry: Entry, class_names: tuple[str, ...], unlabelled: bool) -> Source:
    """A manifest in a ZIP: its paths are beside it there."""
    title = PurePosixPath(entry.name).name
    with archive.path.open("rb") as file:
        content = read_entry(file, entry)
    rows = _rows(io.BytesIO(content), title, unlabelled, lambda name, line: None)
    wrap = entry.name.removesuffix(title)
    order, there = rows.order(), archive.names.order()
    place = np.empty(len(order), np.int64)
    at = 0
    for k, i in enumerate(order):  # both are sorted
        name = (wrap + rows.names[i]).encode("utf-8", "surrogateescape")
        while at < len(there) and archive.names.raw(there[at]) < name:
            at += 1
        if at == len(there) or archive.names.raw(there[at]) != name:
            raise DataError(
                f"Found {rows.names[i]!r} in {title}, which is not in {archive.path.name}; expected every file that it "
                f"lists. Pack it again."
            )
        place[k] = there[at]
    return _by_manifest(rows, ZipFiles(archive), order, place, class_names, unlabelled)


@dataclass(frozen=True)
class _Rows:
    """What a manifest says, line by line."""

    title: str
    names: PathList = field(default_factory=PathList)
    given: Column[int] = field(default_factory=lambda: Column("b"))  # splits
    labels: Column[int] = field(default_factory=lambda: Column("q"))
    groups: Column[int] = field(default_factory=lambda: Column("q"))
    label_of: dict[str, int] = field(default_factory=dict)
    group_of: dict[str, int] = field(default_factory=dict)

    def order(self) -> NDArray[np.int64]:
        """Sorted by path, as folders are. Raises DataError where one is there twice."""
        order = self.names.order()
        for a, b in pairwise(order):
            if self.names[a] == self.names[b]:
                raise DataError(f"Found {self.names[a]!r} twice in {self.title}; expected each path once.")
        return order


def _rows(file: IO[bytes], title: str, unlabelled: bool, check: Callable[[str, int], None]) -> _Rows:
    """Read a manifest; `check` is shown each path, with its line."""
    rows = _Rows(title)
    for line, row in _records(file, title):
        name = row.get("path", "").strip().replace("\\", "/").removeprefix("./")
        if not name or name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
            raise DataError(
                f"Found the path {row.get('path', '')!r} in line {line} of {title}; expected one inside the "
                f"folder of the manifest, relative to it."
            )
        check(name, line)
        label = row.get("label", "").strip()
        if not label and not unlabelled:
            raise DataError(f"Found no label in line {line} of {title}; expected one, or pass --unlabelled.")
        text = row.get("split", "").strip()
        split = split_of(text)
        if text and split is None:
            raise DataError(f"Found the split {text!r} in line {line} of {title}; expected train, val or test.")
        rows.names.append(name)
        rows.given.append(NONE if split is None else SPLITS.index(split))
        rows.labels.append(rows.label_of.setdefault(label, len(rows.label_of)))
        rows.groups.append(rows.group_of.setdefault(row.get("group", "").strip(), len(rows.group_of)))
    if not len(rows.names):
        raise DataError(f"Found no rows in {title}; expected one for each image: path,label.")
    return rows


def _by_manifest(
    rows: _Rows,
    files: FolderFiles | ZipFiles,
    order: NDArray[np.int64],
    place: NDArray[np.int64],
    class_names: tuple[str, ...],
    unlabelled: bool,
) -> Source:
    """The rows at `order`, whose files are at `place` in `files`; classes by name."""
    classes = () if unlabelled else tuple(sorted(rows.label_of, key=natural))
    if class_names and not unlabelled:
        if sorted(class_names) != sorted(classes):
            raise DataError(
                f"Found the class names {', '.join(class_names)} but the labels {', '.join(classes)} in {rows.title}; "
                f"--class-names can only set their order here."
            )
        classes = class_names
    rank = np.zeros(len(rows.label_of), np.int64)
    for label_index, name in enumerate(classes):
        rank[rows.label_of[name]] = label_index
    labels, groups = (np.array(column, np.int64)[order] for column in (rows.labels, rows.groups))
    alone = groups == rows.group_of.get("", NONE)  # a row without a group is with no other
    groups[alone] = len(rows.group_of) + np.arange(alone.sum())
    return Source("manifest", rows.title, files, place, None if unlabelled else rank[labels],
                  np.array(rows.given, np.int8)[order], classes, unlabelled=unlabelled,
                  groups=_renumber(groups) if set(rows.group_of) != {""} else None)  # fmt: skip


def _records(raw: IO[bytes], title: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, record) of a CSV or JSONL manifest."""
    try:
        with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            if suffix(title) == ".csv":
                reader = csv.DictReader(file, strict=True)
                columns = [c.strip().casefold() for c in reader.fieldnames or ()]
                if "path" not in columns:
                    raise DataError(
                        f"Found the columns {', '.join(columns) or 'none'} in {title}; expected a first line "
                        f"path,label (and if wanted split, group)."
                    )
                reader.fieldnames = columns
                for row in reader:
                    if None in row or None in row.values():
                        raise DataError(
                            f"Found line {reader.line_num} of {title} with more or fewer values than columns."
                        )
                    yield reader.line_num, row
                return
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise DataError(
                        f'Found no object in line {line} of {title}; expected {{"path": ..., "label": ...}}.'
                    )
                found = {k.casefold(): "" if v is None else str(v) for k, v in record.items()}
                "".join(found.values()).encode()  # JSON can name half a character, which no text has
                yield line, found
    except (csv.Error, ValueError, RecursionError) as error:  # ValueError: of JSON, its numbers, UTF-8
        raise DataError(f"Found {title}, which cannot be read ({error}); expected UTF-8 CSV or JSON lines.") from None


# -- groups ------------------------------------------------------------------------------------------------------------


def _grouped(source: Source, pattern: str) -> Source:
    """Group images by the first capture group of `pattern` in their relative path.

    The expression may be a stranger's: RE2's automata take a time linear in the names, and bounded memory.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode(errors="replace")
        raise DataError(
            f"Found --group-by {pattern!r}; expected a regular expression of RE2's syntax, which has no look-around "
            f"({why})."
        ) from None
    if compiled.groups < 1:
        raise DataError(f"Found --group-by {pattern!r} without a capture group; expected one.")
    ids: dict[str, int] = {}
    groups = np.zeros(len(source), np.int64)
    missed = []
    for i in range(len(source)):
        match = compiled.search(source.name(i).encode(errors="replace").decode())  # a file's name may be no text
        if match is None or match.group(1) is None:
            missed.append(source.name(i))
            continue
        groups[i] = ids.setdefault(match.group(1), len(ids))
    if missed:
        raise DataError(
            f"Found {len(missed):,} of {len(source):,} paths that --group-by {pattern!r} does not match; expected "
            f"all to.",
            details=missed[:100],
        )
    return replace(source, groups=groups, group_by=pattern)


def _renumber(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids by first appearance, so that they do not depend on the order of a manifest's lines."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)
