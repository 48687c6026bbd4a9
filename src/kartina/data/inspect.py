"""inspect: look at every image of a source before importing it, and say what was found. Nothing is written.

The report counts images by class and split, sizes and modes; lists problems (files that cannot be used, duplicates
within and across splits and classes, classes too small to learn); and gives advice in sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.data import duplicates, pool, prepare, worker
from kartina.data.archive import MAX_ENTRIES
from kartina.data.paths import SPLITS, suffix
from kartina.data.sources import Source, open_source

TINY = 50  # training images below which a class is learnt by heart rather than learnt
IMBALANCE = 3.0  # largest to smallest class, from where on it is worth advice
LISTED = 200  # problems of one kind that are listed; all are counted
PATHS = 10  # paths listed for one problem
SIZES = 100  # sizes listed, the most common first


@dataclass(frozen=True)
class Problem:
    """Something that should be looked at. `count` images are concerned; `paths` are the first of them."""

    kind: str
    paths: tuple[str, ...]
    message: str
    count: int = 1


@dataclass(frozen=True)
class Report:
    """What a source holds. Counts are of images that can be used (pairs count once)."""

    source: str
    kind: str
    images: int
    paired: bool
    classes: dict[str, int]
    splits: dict[str, int]  # without a split in the source, all are train
    classes_by_split: dict[str, dict[str, int]]
    imbalance: float | None  # largest to smallest class
    sizes: dict[str, int]  # "width x height", the most common first
    size: int  # pixels a side that an import makes them, unless it is told another
    modes: dict[str, int]  # Pillow's names of the files' pixel formats
    grey: int  # images without colour, whatever their mode
    ignored: dict[str, int]  # other files, by suffix
    problems: list[Problem] = field(default_factory=list)
    problem_counts: dict[str, int] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in self.__dict__.items() if k != "problems"},
            "problems": [{"kind": p.kind, "paths": list(p.paths), "message": p.message, "count": p.count}
                         for p in self.problems],
        }  # fmt: skip


def inspect_path(
    path: Path | str,
    *,
    class_names: Sequence[str] = (),
    group_by: str | None = None,
    unlabelled: bool = False,
    workers: int | None = None,
    max_entries: int = MAX_ENTRIES,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at all images at `path` (see `sources`). Raises DataError where nothing there can be read as images."""
    source = open_source(
        path, class_names=class_names, group_by=group_by, unlabelled=unlabelled, max_entries=max_entries
    )
    return inspect_source(source, workers=workers, progress=progress)


def inspect_source(
    source: Source, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """`inspect_path` for a source that is open already."""
    done = prepare.Counting(len(source) * (2 if source.paired else 1), progress)
    with pool.Pool(prepare.workers_for(source, workers)) as decoders:
        looked, bad = _look(source, source.index, decoders, done)
        if source.partner is not None:
            inputs, more = _look(source, source.partner, decoders, done)
    if source.partner is not None:
        bad |= {i: f"its source in A: {message}" for i, message in more.items() if i not in bad}
        looked["ok"] &= inputs["ok"]
    ok = looked["ok"]
    split = np.maximum(source.given, 0)
    by_split = _by_split(source, split, ok)
    classes = {} if source.labels is None else dict(
        zip(source.classes, np.bincount(source.labels[ok], minlength=len(source.classes)).tolist(), strict=True)
    )  # fmt: skip
    shapes = Counter((w, h) for w, h in looked[["width", "height"]][ok].tolist())
    sizes = Counter({f"{w}x{h}": n for (w, h), n in shapes.items()})
    modes = Counter(worker.MODES[m] for m in looked["mode"][ok].tolist())
    sizes_listed = dict(sizes.most_common(SIZES))
    if len(sizes) > SIZES:
        sizes_listed["other"] = sizes.total() - sum(sizes_listed.values())
    some = [n for n in classes.values() if n]
    found = _problems(source, looked, bad, split, classes, by_split)
    report = Report(
        source=source.title,
        kind=source.kind,
        images=int(ok.sum()),
        paired=source.paired,
        classes=classes,
        splits={s: n for k, s in enumerate(SPLITS) if (n := int((split[ok] == k).sum()))},
        classes_by_split=by_split,
        imbalance=round(max(some) / min(some), 2) if some else None,
        sizes=sizes_listed,
        size=prepare.own_size(shapes),
        modes=dict(modes.most_common()),
        grey=int(looked["grey"][ok].sum()),
        ignored=source.ignored,
        problems=_listed(found),
        problem_counts=dict(Counter(p.kind for p in found)),
    )
    report.advice.extend(_advice(source, report))
    return report


def _look(
    source: Source, index: NDArray[np.int64], decoders: pool.Pool, done: prepare.Counting
) -> tuple[NDArray[Any], dict[int, str]]:
    """(LOOK records N, image -> why it cannot be used) of the files at `index`."""
    looked = np.zeros(len(index), worker.LOOK)
    bad: dict[int, str] = {}
    image_at = np.argsort(index, kind="stable")
    at = 0
    for reply, body in decoders.run("look", (task for _, task in source.files.tasks(index[image_at]))):
        records = np.frombuffer(body, worker.LOOK)
        looked[image_at[at : at + len(records)]] = records
        bad.update((int(image_at[at + i]), message) for i, message in reply["bad"])
        at += len(records)
        done.add(len(records))
    return looked, bad


def _by_split(source: Source, split: NDArray[np.int8], ok: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    if source.labels is None:
        return {}
    out: dict[str, dict[str, int]] = {}
    for k, s in enumerate(SPLITS):
        here = source.labels[ok & (split == k)]
        if len(here):
            out[s] = dict(zip(source.classes, np.bincount(here, minlength=len(source.classes)).tolist(), strict=True))
    return out


# -- problems ----------------------------------------------------------------------------------------------------------


def _problems(
    source: Source,
    looked: NDArray[Any],
    bad: dict[int, str],
    split: NDArray[np.int8],
    classes: dict[str, int],
    by_split: dict[str, dict[str, int]],
) -> list[Problem]:
    out = [Problem("corrupt", (source.name(i),), message) for i, message in sorted(bad.items())]
    for name in source.foreign:
        kind = suffix(name)[1:].upper()
        out.append(Problem("unsupported", (name,), f"found a {kind} file, expected JPEG, PNG or WebP: it is left out"))

    # Duplicates: one of each exact group goes on to the search for near ones.
    same = duplicates.exact(looked)
    copies = np.concatenate([np.empty(0, np.int64), *(g[1:] for g in same)])
    out += [_repeat("exact_duplicate", "with the same pixels", source, g, split) for g in same]
    out += [_repeat("near_duplicate", "that look alike", source, g, split) for g in duplicates.near(looked, copies)]

    # Classes and splits.
    if source.labels is not None:
        present = [c for c, n in classes.items() if n]
        if len(present) < 2:
            out.append(Problem("one_class", (), f"found {len(present)} class, expected at least 2", 0))
        names = (*source.empty, *(c for c, n in classes.items() if not n))
        out += [Problem("empty_class", (), f"class {c!r} has no usable images", 0) for c in names]
        train = by_split.get("train", {})
        for c in present:
            if (n := train.get(c, 0)) < TINY:
                message = f"class {c!r} has {n} training images; below {TINY} a model learns them by heart"
                out.append(Problem("tiny_class", (), message, n))
        for s, counts in by_split.items():
            gone = [c for c in present if not counts[c] and s != "train"]
            out += [Problem("missing_in_split", (), f"class {c!r} has no images in {s}", 0) for c in gone]
    if source.groups is not None:
        out += _straddling(source, split)
    return out


def _repeat(kind: str, how: str, source: Source, group: NDArray[np.int64], split: NDArray[np.int8]) -> Problem:
    splits = [SPLITS[k] for k in sorted(set(split[group].tolist()))]
    labels = [] if source.labels is None else sorted({source.classes[k] for k in source.labels[group].tolist()})
    across = [name for name, some in (("splits", splits), ("classes", labels)) if len(some) > 1]
    where = f"in {' and '.join(splits)}" + (f", class {' and '.join(labels[:5])}" if labels else "")
    return Problem(
        kind + (f"_across_{'_and_'.join(across)}" if across else ""),
        tuple(source.name(i) for i in group[:PATHS].tolist()),
        f"{len(group)} images {how}, {where}",
        len(group),
    )


def _straddling(source: Source, split: NDArray[np.int8]) -> list[Problem]:
    """Groups whose images were given to more than one split."""
    assert source.groups is not None
    order = np.argsort(source.groups, kind="stable")
    cuts = np.flatnonzero(np.diff(source.groups[order])) + 1
    out = []
    for group in np.split(order, cuts):
        parts = set(split[group].tolist())
        if len(parts) > 1:
            names = " and ".join(SPLITS[k] for k in sorted(parts))
            first = [group[split[group] == k][0] for k in sorted(parts)]
            out.append(Problem("group_across_splits", tuple(source.name(int(i)) for i in first),
                               f"a group of {len(group)} images stands in {names}", len(group)))  # fmt: skip
    return out


def _listed(problems: Iterable[Problem]) -> list[Problem]:
    """The first LISTED of each kind."""
    seen: Counter[str] = Counter()
    out = []
    for problem in problems:
        seen[problem.kind] += 1
        if seen[problem.kind] <= LISTED:
            out.append(problem)
    return out


# -- advice ------------------------------------------------------------------------------------------------------------


def _advice(source: Source, report: Report) -> list[str]:
    """What to do about it, in sentences."""
    out = []
    counts = report.problem_counts
    if counts.get("corrupt"):
        out.append(
            f"Some files cannot be used ({counts['corrupt']:,}): mend or remove them, or import with --skip-bad."
        )
    if counts.get("unsupported"):
        out.append(
            f"Files of other formats are left out ({counts['unsupported']:,}): convert them to PNG, JPEG or WebP."
        )
    if counts.get("one_class"):
        out.append("There is one class only: add others, or import with --unlabelled.")
    if report.imbalance is not None and report.imbalance >= IMBALANCE:
        some = {c: n for c, n in report.classes.items() if n}
        small, large = min(some, key=some.__getitem__), max(some, key=some.__getitem__)
        out.append(f"{large} has {some[large]:,} images, {report.imbalance:g} times as many as {small}: train with "
                   f"--set labels=tempered or --set labels=balanced so that rare classes are learnt.")  # fmt: skip
    if counts.get("tiny_class"):
        out.append(f"Some classes have fewer than {TINY} training images ({counts['tiny_class']}): add images, "
                   f"or merge or leave out these classes.")  # fmt: skip
    leaks = sum(n for kind, n in counts.items() if "duplicate_across_splits" in kind)
    if leaks:
        out.append(f"Duplicates reach across splits ({leaks} times): numbers measured on val or test would flatter "
                   f"the model. Remove the copies from one side.")  # fmt: skip
    torn = sum(n for kind, n in counts.items() if "classes" in kind and "duplicate" in kind)
    if torn:
        out.append(f"Duplicates carry different labels ({torn} times): keep the right one of each.")
    missing = [s for s in ("val", "test") if s not in report.splits]
    if counts.get("exact_duplicate"):
        together = " Import keeps them in one split." if missing else ""
        out.append(
            f"Exact copies weigh double in training ({counts['exact_duplicate']} times): keep one of each.{together}"
        )
    if counts.get("near_duplicate") and missing:
        out.append(f"Images that look alike ({counts['near_duplicate']} times) may come to stand in train and in a "
                   f"split that import makes: keep one of each, or keep them together with --group-by.")  # fmt: skip
    if counts.get("group_across_splits"):
        out.append(f"Groups stand in several of the given splits ({counts['group_across_splits']} times), which import "
                   f"leaves as they are: move each group to one split.")  # fmt: skip
    if missing:
        how = ", by class" if report.classes else ""
        how += ", by group" if source.groups is not None else ""
        out.append(f"There is no {' and no '.join(missing)} split: import takes 10% of train for each{how}.")
    out += _advice_on_size(report)
    if report.images and report.grey == report.images:
        out.append("All images are grey: they are packed with 1 channel.")
    if report.classes and source.kind in ("idx", "npz") and all(c.isdecimal() for c in report.classes):
        out.append("The classes have no names: pass --class-names to call them by more than their numbers.")
    if report.classes and not prepare.flips(source.classes):
        out.append("The class names look like digits, letters or sides, so images are not mirrored in training; "
                   "import with --flip on if a mirrored image keeps its class.")  # fmt: skip
    return out


def _advice_on_size(report: Report) -> list[str]:
    if not report.images:
        return []
    known = [tuple(map(int, s.split("x"))) for s in report.sizes if s != "other"]
    short = min(min(s) for s in known)
    if len(report.sizes) == 1 and known[0][0] == known[0][1]:
        if short in (32, 64, 128, 256):
            return []
        if short < 32:
            return [f"Images are {short} x {short}: import with --size 32 --fit pad to keep their pixels as they are "
                    f"and use the presets for 32 pixels."]  # fmt: skip
        near = max(s for s in (32, 64, 128, 256) if s <= short)
        return [f"Images are {short} x {short}: import with --size {near} to use the presets for {near} pixels."]
    long = max(max(w, h) / min(w, h) for w, h in known)
    size = prepare.DEFAULT_SIZE
    out = [f"Images differ in size or are not square: import makes them {size} x {size} unless told "
           f"otherwise with --size 32, 64, 128 or 256."]  # fmt: skip
    if long > 1.5:
        out.append(f"Some are {long:.1f} times as long as wide: --fit crop (the default) cuts their ends off, --fit "
                   f"pad keeps all of them.")  # fmt: skip
    if short < 32:
        out.append(f"The smallest side is {short} pixels: such images are enlarged and look soft.")
    return out
