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
    """Greedy: each group in turn goes where it brings the counts per class nearest to what is wanted, else to train."""
    _, member = np.unique(groups, return_inverse=True)
    _, kind = np.unique(kinds, return_inverse=True)
    n, k = int(member.max()) + 1, int(kind.max()) + 1
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(n + 1))
    wanted = share * np.bincount(kind, minlength=k)
    have = {s: np.zeros(k) for s in missing}
    place = np.zeros(n, np.int8)
    for g in rng.permutation(n).tolist():  # by chance, not by size: large groups are often of one kind
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
    return np.asarray(place[member], np.int8)
