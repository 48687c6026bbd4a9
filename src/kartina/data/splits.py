"""Splits: a missing val is 10% of train, a missing test another 10%; what was given is never touched.

Seeded, stratified by class, and where there are groups (photographs of one patient, crops of one picture) a group
never stands in two of the splits made here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kartina.data.paths import SPLITS
from kartina.errors import DataError

SHARE = 0.1
TRAIN, VAL, TEST = range(3)
NONE = -1  # no split was given


def assign(
    given: NDArray[np.int8],
    labels: NDArray[np.int64] | None,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
    share: float = SHARE,
) -> NDArray[np.int8]:
    """The split of every image: int8 N of 0 train, 1 val, 2 test.

    `given` is the same with -1 where nothing was said, which counts as train. Raises DataError without train images.
    """
    split = np.where(given == NONE, TRAIN, given).astype(np.int8)
    train = np.flatnonzero(split == TRAIN)
    if len(train) == 0:
        have = ", ".join(SPLITS[s] for s in np.unique(split))
        raise DataError(f"Found {f'only {have}' if have else 'no'} images; expected a train split or none at all.")
    missing = [s for s in (VAL, TEST) if not (split == s).any()]
    if not missing:
        return split
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    kinds = np.zeros(len(train), np.int64) if labels is None else labels[train]
    if groups is None:
        for kind in np.unique(kinds):
            members = rng.permutation(train[kinds == kind])
            n = round(share * len(members)) if len(members) > 10 else int(len(members) > len(missing))
            for i, s in enumerate(missing):
                split[members[i * n : (i + 1) * n]] = s
    else:
        split[train] = _by_group(kinds, groups[train], missing, rng, share)
    return split


def merged(a: NDArray[np.int64], b: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Groups N such that what is together in `a` or in `b`, or by a chain of both, is together."""
    if b is None:
        return a
    found = a.copy()
    while True:  # the least id of a group goes to its neighbours until nothing changes
        before = found
        for given in (b, a):
            _, member = np.unique(given, return_inverse=True)
            least = np.full(int(member.max()) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, member, found)
            found = least[member]
        if (found == before).all():
            return found


def _by_group(
    kinds: NDArray[np.int64],
    groups: NDArray[np.int64],
    missing: list[int],
    rng: np.random.Generator,
    share: float,
) -> NDArray[np.int8]:
    """Greedy: each group in turn goes where it brings the counts per class nearest to what is wanted, else to train.
    Then each split gets a group of each class that it has nothing of, as far as train can spare one."""
    _, member = np.unique(groups, return_inverse=True)
    _, kind = np.unique(kinds, return_inverse=True)
    n, k = int(member.max()) + 1, int(kind.max()) + 1
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(n + 1))
    wanted = share * np.bincount(kind, minlength=k)
    have = {s: np.zeros(k) for s in missing}
    place = np.zeros(n, np.int8)
    turns = rng.permutation(n)
    for g in turns.tolist():  # by chance, not by size: large groups are often of one kind
        counts = np.bincount(kind[order[starts[g] : starts[g + 1]]], minlength=k)
        best, gain = TRAIN, 0.0
        for s in missing:
            before, after = (wanted - have[s]) / wanted, (wanted - have[s] - counts) / wanted
            better = float((before**2 - after**2).sum())
            if better > gain:
                best, gain = s, better
        if best != TRAIN:
            have[best] += counts
            place[g] = best
    if not all((have[s] > 0).all() for s in missing):
        _one_of_each(place, have, member, kind, turns)
    return np.asarray(place[member], np.int8)


def _one_of_each(
    place: NDArray[np.int8],
    have: dict[int, NDArray[np.float64]],
    member: NDArray[np.int64],
    kind: NDArray[np.int64],
    turns: NDArray[np.int64],
) -> None:
    """Where a split has nothing of a class, move the smallest group there that holds some: of classes that stand in
    more groups of train than there are splits without them, as in `assign`; none loses its last group."""
    size, turn = np.bincount(member), np.argsort(turns)
    of_group: dict[int, list[int]] = {}
    spare: dict[int, set[int]] = {k: set() for k in range(int(kind.max()) + 1)}  # class -> its groups in train
    for g, k in np.unique(np.stack([member, kind]), axis=1).T.tolist():
        of_group.setdefault(g, []).append(k)
        if place[g] == TRAIN:
            spare[k].add(g)
    for s, counts in have.items():
        for k in spare:
            lacking = sum(not other[k] for other in have.values())
            if counts[k] or len(spare[k]) <= lacking:
                continue
            able = [g for g in spare[k] if all(len(spare[other]) > 1 for other in of_group[g])]
            if able:
                g = min(able, key=lambda g: (size[g], turn[g]))
                place[g] = s
                for other in of_group[g]:
                    spare[other].discard(g)
                    counts[other] += 1
