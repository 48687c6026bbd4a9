"""Numbers of a generator: how far its images are from real ones, how varied, how well they follow their class.

    m references are drawn once from the split (all of it when it is small), following its histogram of classes;
    each generation seed makes n = m images of the same labels; numbers are means over seeds with a t-interval;
    floors are what n real training images with the same labels score: nobody need be better than the data itself.

    class_agreement, diversity, cas    by a classifier trained on the data's own training split, whatever the extractor
    fd, fd_infinity, kid, is           distances and scores in the extractor's features
    precision, recall, density, coverage, memorisation     neighbours in the extractor's features (and pixels)

The control row "training copies" scores real training images as if they had been generated: agreement, coverage and FD
all admire a copier, so none of them says that a model makes something new. `memorisation` does; its floor is the share
that real held-out images get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet, Split
from kartina.errors import ConfigError, DataError
from kartina.metrics.agreement import agreement, agreement_per_class
from kartina.metrics.cas import EPOCHS, SEEDS, cas
from kartina.metrics.classifier import Classifier, Progress, domain_classifier, top
from kartina.metrics.distances import nearest
from kartina.metrics.diversity import diversity, spreads
from kartina.metrics.extractors import Extractor, domain
from kartina.metrics.fd import Moments, Reference, factor, fd, fd_infinity
from kartina.metrics.inception_score import SPLITS, inception_score
from kartina.metrics.interval import t_interval
from kartina.metrics.kept import Shelf
from kartina.metrics.kid import kid
from kartina.metrics.memorisation import Nearest, copied, flagged, nearest_pixels
from kartina.metrics.prdc import K_BALLS, K_MANIFOLD, TOO_FEW, covered, prdc, radii
from kartina.metrics.protocol import LARGEST, PROTOCOL, Identity, Value

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Images = NDArray[np.uint8]
Generate = Callable[[Labels, int], Images]  # labels N, generation seed -> uint8 N,C,H,W
Bits = Callable[[Images, Labels, int, int], Array]  # uint8 N,C,H,W, labels N, K, seed -> bits/dim N

DEFAULT = ("class_agreement", "coverage", "diversity", "fd")
PRDC_KEYS = ("precision", "recall", "density", "coverage")
NAMED = {"class_agreement": "class agreement", "coverage": f"coverage k={K_BALLS}", "diversity": "diversity",
         "precision": f"precision k={K_MANIFOLD}", "recall": f"recall k={K_MANIFOLD}",
         "density": f"density k={K_BALLS}", "memorisation": "memorisation, 1st percentile",
         "copies": "copies, half the 1st percentile",
         "is": f"IS, {SPLITS} splits", "cas": f"CAS, {EPOCHS} epochs"}  # fmt: skip
METRICS = ("class_agreement", "coverage", "diversity", "fd", "fd_infinity", "kid", "is", "precision", "recall",
           "density", "memorisation", "copies", "cas")  # fmt: skip
GROUPS = {"prdc": PRDC_KEYS, "memorisation": ("memorisation", "copies"), "all": METRICS}
BY_CLASSIFIER = ("class_agreement", "diversity")  # in the domain's features, whatever the extractor
BOUNDS = {"bits_per_dim": 1, "bits_per_dim_iw": 10}  # bits per dimension: draws K behind the bound; 1 is the ELBO
SCORED = 1000  # images behind bits per dimension, at most
TRAINING_SHARE = 0.4  # of the progress, when the classifier is not cached
FEW_FOR_KID = 10  # images of a class, of either side, below which it has no kernel distance


@dataclass(frozen=True)
class Seen:
    """What the networks see in N images."""

    images: Images
    features: Array  # N,d
    logits: Array | None  # N,K: the extractor's
    judged: Array | None  # N,128: in the domain's features
    predicted: Labels | None  # N: the domain classifier's answers


@dataclass(frozen=True)
class Eyes:
    """The extractor, and the domain classifier where a number needs one."""

    extractor: Extractor
    judge: Classifier | None

    @classmethod
    def domain(cls, judge: Classifier) -> Eyes:
        return cls(domain(judge), judge)

    def look(self, images: Images, progress: Callable[[int, int], None] | None = None) -> Seen:
        features, logits = self.extractor(images, progress)
        if self.judge is None:
            return Seen(images, features, logits, None, None)
        if self.extractor.hash == self.judge.hash:
            judged, said = features, logits
        else:
            judged, said = self.judge(images)
        assert said is not None
        return Seen(images, features, logits, judged, top(said))


@dataclass(frozen=True)
class Known:
    """The training images, for memorisation: their features, and how near real held-out images come to them."""

    images: Images
    features: Array
    held: Nearest

    def nearest(self, seen: Seen) -> Nearest:
        return nearest_both(seen.images, seen.features, self.images, self.features)


def nearest_both(images: Images, features: Array, training: Images, known: Array) -> Nearest:
    """The nearest training image of each, in features and in pixels."""
    feature_index, feature = nearest(features, known)
    pixel_index, pixel = nearest_pixels(images, training, feature_index)
    return Nearest(pixel_index, pixel, feature_index, feature)


@dataclass(frozen=True)
class Real:
    """The references: features and labels of m real images, and what is computed from them once, when asked."""

    features: Array  # m,d
    labels: Labels  # m
    classes: int
    judged: Array | None = None  # m,128; where there is a domain classifier
    shelf: Shelf | None = None  # where statistics are kept
    known: Known | None = None
    data: ImageSet | None = None  # whose images these are, and of which split
    split: Split = "val"

    def _kept(self, name: str, make: Callable[[], Array]) -> Array:
        return make() if self.shelf is None else self.shelf.array(name, make)

    @cached_property
    def fd(self) -> Reference:
        moments = Moments.of(self.features)
        return Reference(moments, self._kept("factor", lambda: factor(moments.covariance)))

    @cached_property
    def balls(self) -> Array:
        """m: distance to the k-th neighbour in the whole set."""
        return self._kept(f"radii-{K_BALLS}", lambda: radii(self.features, K_BALLS))

    @cached_property
    def wide(self) -> Array:
        return self._kept(f"radii-{K_MANIFOLD}", lambda: radii(self.features, K_MANIFOLD))

    @cached_property
    def balls_in_class(self) -> list[Array | None]:
        """The same within each class; None where it has under TOO_FEW references."""
        inside = [self.features[self.labels == c] for c in range(self.classes)]
        return [radii(x, K_BALLS) if len(x) >= TOO_FEW else None for x in inside]

    @cached_property
    def spreads(self) -> Array:
        assert self.judged is not None
        return spreads(self.judged, self.labels, self.classes)

    @property
    def counts(self) -> Labels:
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)


@dataclass(frozen=True)
class Scores:
    """What one set of n images scores against the references."""

    whole: dict[str, float]
    agreement: Array  # K; nan without a classifier
    coverage: Array  # K; nan where a class has too few references
    diversity: Array  # K; nan where there are no pairs
    kid: Array  # K; nan where it was not asked for, or a class has too few images
    cas: Array  # K; nan where it was not asked for


def score(
    seen: Seen,
    labels: Labels,
    real: Real,
    metrics: Sequence[str] = DEFAULT,
    absent: float | None = None,
    trainings: Sequence[int] = (),
) -> Scores:
    """Score what is seen of images that were asked to be `labels`.

    `absent` is the variety of a class with fewer than two images; None leaves such classes out. `trainings` are the
    seeds of the classifiers of CAS.
    """
    nothing = np.full(real.classes, np.nan)
    features, whole = seen.features, dict.fromkeys(metrics, float("nan"))
    agree = own = ratio = nothing
    if seen.predicted is not None and seen.judged is not None:
        agree = agreement_per_class(seen.predicted, labels, real.classes)
        own = spreads(seen.judged, labels, real.classes)
        if absent is not None:
            own = np.where(np.isfinite(own), own, absent)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(real.spreads > 0, own / real.spreads, np.nan)
        found = {"class_agreement": agreement(seen.predicted, labels),
                 "diversity": diversity(own, real.spreads, real.counts)}  # fmt: skip
        whole |= {key: value for key, value in found.items() if key in metrics}

    # Distances between the two sets, and what the extractor's classes say.
    if "fd" in metrics:
        whole["fd"] = fd(features, real.fd)
    if "fd_infinity" in metrics:
        whole["fd_infinity"] = fd_infinity(features, real.fd)
    if "is" in metrics and seen.logits is not None and seen.images.shape[1] == 3:
        whole["is"] = inception_score(seen.logits).mean
    if "kid" in metrics:
        whole["kid"] = kid(real.features, features)

    # Neighbours.
    if {"precision", "recall", "density"} & set(metrics):
        four = prdc(real.features, features, balls=real.balls, wide=real.wide)
        whole |= {key: getattr(four, key) for key in PRDC_KEYS if key in metrics}
    elif "coverage" in metrics:
        whole["coverage"] = float(covered(real.features, features, real.balls).mean())
    if {"memorisation", "copies"} & set(metrics):
        assert real.known is not None
        near, held = real.known.nearest(seen), real.known.held
        shares = {"memorisation": float(flagged(near, held).mean()), "copies": float(copied(near, held).mean())}
        whole |= {key: share for key, share in shares.items() if key in metrics}

    # Within classes.
    inside, kernel = nothing.copy(), nothing.copy()
    for c in range(real.classes):
        theirs, ours = real.features[real.labels == c], features[labels == c]
        balls = real.balls_in_class[c] if "coverage" in metrics else None
        if balls is not None:
            inside[c] = covered(theirs, ours, balls).mean() if len(ours) else 0.0
        if "kid" in metrics and min(len(ours), len(theirs)) >= FEW_FOR_KID:
            kernel[c] = kid(theirs, ours)
    taught = nothing
    if "cas" in metrics and trainings:
        assert real.data is not None
        found_cas = cas(seen.images, labels, real.data, real.split, tuple(trainings))
        whole["cas"], taught = found_cas.accuracy, found_cas.per_class
    return Scores(whole, agree, inside, ratio, kernel, taught)


def first_numbers(
    generate: Generate,
    data: ImageSet,
    seeds: Sequence[int] = (0, 1, 2),
    split: Split = "val",
    samples: int = 2000,
    progress: Progress | None = None,
    classifier: Classifier | None = None,
    labelled: bool = True,
    bits: Bits | None = None,
    metrics: Sequence[str] = DEFAULT,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    """Evaluate a generator on `data`.

    `generate` gets int64 labels and a generation seed and returns uint8 N,C,H,W. A generator that does not look at the
    labels (`labelled` false) has no class agreement; its images count for the class that the classifier sees in them,
    and a class that it never makes has no variety. `bits`, of a model that has a likelihood of levels, gets real images
    and their labels, K and a seed, and adds bits per dimension. `metrics` are of METRICS; `extractor` is the space of
    distances and neighbours: the domain classifier's where none is given. Returns JSON-ready
    {"metrics": {name: {value, interval, floor, identity}}, "per_class": [worst first], "control": {"training
    copies": {...}}}. Raises ConfigError for a metric that there is not, DataError for data with too few references, and
    for data without classes where there is no other extractor.
    """
    seeds, metrics = tuple(seeds), check_metrics(metrics)
    if not seeds or len(set(seeds)) != len(seeds) or samples < 1:
        raise ConfigError(f"Found seeds {list(seeds)} and samples {samples}; expected distinct seeds and samples > 0.")

    # The networks, and the references as they see them.
    report = steady(progress)
    judge = classifier
    if judge is None and judged(data, metrics, extractor is None):
        judge = domain_classifier(data, progress=lambda t, what: report(TRAINING_SHARE * t, what))
    eyes = Eyes.domain(judge) if extractor is None and judge is not None else Eyes(_given(extractor), judge)
    report(TRAINING_SHARE, "reading the references")
    real = references(data, split, samples, eyes, bool({"memorisation", "copies"} & set(metrics)), report)
    labels, m = real.labels, len(real.labels)

    # Floors, and the control: real training images with the same labels.
    copies = []
    each = -(-SEEDS // len(seeds)) if labelled and judge is not None else 0  # classifiers a generation seed, for CAS
    trainings = {seed: range(i * each, (i + 1) * each) for i, seed in enumerate(seeds)}
    for seed in seeds:
        report(TRAINING_SHARE, f"scoring training copies, seed {seed}")
        copies.append(score_copies(data, real, eyes, seed, metrics, trainings[seed]))
    floors = _means([s.whole for s in copies])
    if judge is not None and "class_agreement" in metrics:
        held = data.part(split)
        floors["class_agreement"] = agreement(judge.predict(held.images), np.asarray(held.labels))
    if real.known is not None:
        floors["memorisation"] = float(flagged(real.known.held, real.known.held).mean())
        floors["copies"] = float(copied(real.known.held, real.known.held).mean())

    # The model.
    scores = []
    for i, seed in enumerate(seeds):
        at, span = TRAINING_SHARE + (1 - TRAINING_SHARE) * i / len(seeds), (1 - TRAINING_SHARE) / len(seeds)
        report(at, f"generating {m} images, seed {i + 1} of {len(seeds)}")
        images = generate(labels, seed)
        if images.shape != (m, *data.spec.shape) or images.dtype != np.uint8:
            raise DataError(
                f"Found generated images of shape {images.shape} and type {images.dtype}; {data.name!r} has uint8 "
                f"{(m, *data.spec.shape)}. Evaluate a model on data of its own size."
            )
        report(at + 0.5 * span, f"scoring {m} images, seed {i + 1} of {len(seeds)}")
        seen = eyes.look(images)
        own = labels if labelled or seen.predicted is None else seen.predicted
        found = score(seen, own, real, metrics, None if labelled else 0, trainings[seed])
        if not labelled and seen.predicted is None:  # nobody says of which class an image is
            found = replace(found, coverage=np.full_like(found.coverage, np.nan), kid=np.full_like(found.kid, np.nan))
        scores.append(found)
    report(1.0, "done" if bits is None else "measuring bits per dimension")

    def value(key: str) -> dict[str, Any]:
        by = Eyes.domain(judge).extractor if key in BY_CLASSIFIER and judge is not None else eyes.extractor
        name, digest, resizer = (by.name, by.hash, by.resizer) if key != "cas" else ("none", "", "none")
        identity = Identity(
            metric=called(key, by), extractor=name, extractor_hash=digest, resizer=resizer, data=data.hash,
            split=split, n=m, m=m if key != "cas" else len(data.part(split)), seeds=seeds,
        )  # fmt: skip
        of_seeds = [s.whole[key] for s in scores]
        mean = float(np.mean(of_seeds))
        if key in (*BY_CLASSIFIER, "cas") and judge is None:
            return Value(value=None, identity=identity, reason="no classes").json_shape()
        if key == "is" and (not eyes.extractor.scores or data.spec.channels != 3):
            reason = "grey images" if data.spec.channels != 3 else "needs inception"
            return Value(value=None, identity=identity, reason=reason).json_shape()
        if key in ("class_agreement", "cas") and not labelled:
            return Value(value=None, identity=identity, reason="unconditional").json_shape()
        if key in ("memorisation", "copies") and split == "train":
            return Value(value=None, identity=identity, reason="needs held-out images").json_shape()
        if not np.isfinite(mean) or (key in PRDC_KEYS and m < TOO_FEW):
            return Value(value=None, identity=identity, reason="too few").json_shape()
        # Against training images the floor would be training images against themselves.
        floor = None if split == "train" and key != "class_agreement" else _number(floors[key])
        return Value(value=mean, interval=t_interval(of_seeds), floor=floor, identity=identity).json_shape()

    numbers = {key: value(key) for key in metrics}
    control = {key: _number(found) for key, found in _means([s.whole for s in copies]).items()}
    for key, one in numbers.items():
        if one["value"] is None and one["reason"] != "unconditional":  # no number of these images, nor of copies
            control[key] = None
    if bits is not None:
        numbers |= {key: bits_per_dim(bits, data, split, min(samples, SCORED), seeds, k) for key, k in BOUNDS.items()}
    known = labelled or judge is not None
    return {
        "metrics": numbers,
        "per_class": _per_class(data, scores, labelled, known, [key for key in ("kid", "cas") if key in metrics]),
        "control": {"training copies": control},
    }


def judged(data: ImageSet, metrics: Sequence[str], by_domain: bool) -> bool:
    """Whether a number needs the data set's own classifier: all in its features do, and those by its answers."""
    return by_domain or (len(data.spec.classes) > 1 and bool({*BY_CLASSIFIER, "cas"} & set(metrics)))


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Metrics by their keys, or by the names of GROUPS: prdc, memorisation, all."""
    return tuple(key for name in names for key in GROUPS.get(name, (name,)))


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Each metric once, in the order asked for. Raises ConfigError for one that there is not."""
    unknown = [key for key in metrics if key not in METRICS]
    if unknown or not metrics:
        found = ", ".join(unknown) or "none"
        raise ConfigError(f"Found metrics that there are not ({found}); expected some of {', '.join(METRICS)}.")
    return tuple(dict.fromkeys(metrics))


def called(key: str, extractor: Extractor) -> str:
    """A metric's name in identities: distances are named after their space."""
    by_space = {"fd": extractor.fd, "fd_infinity": f"{extractor.fd} at infinite n", "kid": extractor.kid}
    return by_space.get(key) or NAMED[key]


def steady(progress: Progress | None) -> Progress:
    """A progress that never goes back, and ends at 1."""
    last = 0.0

    def report(share: float, what: str) -> None:
        nonlocal last
        last = max(last, min(share, 1.0))
        if progress is not None:
            progress(last, what)

    return report


def _given(extractor: Extractor | None) -> Extractor:
    assert extractor is not None
    return extractor


def bits_per_dim(
    bits: Bits, data: ImageSet, split: Split, samples: int, seeds: Sequence[int], k: int
) -> dict[str, Any]:
    """Mean bits per dimension of images of `split`, picked as references are; an upper bound by k draws of each seed.

    The interval is that of the draws: the images are the same. There is no floor: real images have no such number.
    """
    held = data.part(split)
    classes = labels_of(held)
    picked = stratified(classes, samples)
    images, labels = np.asarray(held.images[picked]), np.ascontiguousarray(classes[picked])
    of_seeds = [float(bits(images, labels, k, seed).mean()) for seed in seeds]
    identity = Identity(
        metric=f"bits/dim K={k}", extractor="none", extractor_hash="", data=data.hash, split=split,
        n=len(picked), m=len(picked), seeds=tuple(seeds),
    )  # fmt: skip
    return Value(value=float(np.mean(of_seeds)), interval=t_interval(of_seeds), identity=identity).json_shape()


def references(
    data: ImageSet, split: Split, samples: int, eyes: Eyes, memorisation: bool = False, progress: Progress | None = None
) -> Real:
    """m references of `split`, m = min(samples, its size), following its histogram of classes, as `eyes` see them.

    With `memorisation` also the training images. Raises DataError where there are too few.
    """
    report = steady(progress)
    held, m = data.part(split), how_many(data, split, samples)
    picked = stratified(labels_of(held), m)
    labels = np.ascontiguousarray(labels_of(held)[picked])
    shelf = shelf_of(data, eyes.extractor, split=split, m=m)

    def see(images: Images, what: str) -> Array:
        say = lambda done, of: report(0.0, f"{what}: {done:,} of {of:,} images seen")  # noqa: E731
        return eyes.extractor(images, say)[0]

    features = shelf.array("features", lambda: see(held.images[picked], "references"))
    judged = None
    if eyes.judge is not None:
        same = eyes.extractor.hash == eyes.judge.hash
        judged = features if same else eyes.judge(held.images[picked])[0]
    known = None
    if memorisation:
        train = data.part("train")
        theirs = shelf_of(data, eyes.extractor, split="train", m=len(train))
        training = theirs.array("features", lambda: see(train.images, "training images"))
        report(0.0, "looking for the training images nearest to real ones")
        kept = shelf.array("nearest", lambda: _columns(
            nearest_both(np.asarray(held.images[picked]), features, train.images, training)))  # fmt: skip
        near = Nearest(kept[0].astype(np.int64), kept[1], kept[2].astype(np.int64), kept[3])
        known = Known(train.images, training, near)
    return Real(features, labels, max(1, len(data.spec.classes)), judged, shelf, known, data, split)


def how_many(data: ImageSet, split: Split, samples: int) -> int:
    """m: references, and images of each generation seed. Raises DataError for too few."""
    m = min(samples, LARGEST, len(data.part(split)))
    if m <= K_BALLS:
        raise DataError(f"Found {m} reference images in {split!r} of {data.name!r}; expected at least {K_BALLS + 1}.")
    return m


def _columns(found: Nearest) -> Array:
    return np.stack([found.pixel_index, found.pixel, found.feature_index, found.feature]).astype(np.float64)


def shelf_of(data: ImageSet, extractor: Extractor, **which: Any) -> Shelf:
    """Where statistics of some of a data set's images in an extractor's features are kept."""
    return Shelf(data=data.hash, extractor=extractor.hash, resizer=extractor.resizer, protocol=PROTOCOL, **which)


def labels_of(part: ImageSet) -> Labels:
    """The labels, N; all 0 where there are no classes."""
    return np.zeros(len(part), np.int64) if part.labels is None else part.labels


def score_copies(
    data: ImageSet,
    real: Real,
    eyes: Eyes,
    seed: int,
    metrics: Sequence[str] = DEFAULT,
    trainings: Sequence[int] = (),
) -> Scores:
    """What real training images with the references' labels score, drawn by `seed`: the floor."""
    train = data.part("train")
    seen = eyes.look(train.images[like(labels_of(train), real.labels, seed)])
    return score(seen, real.labels, real, metrics, trainings=trainings)


def stratified(labels: Labels, m: int, seed: int = 0) -> NDArray[np.int64]:
    """Sorted positions of m of the labels, following their histogram by largest remainders; all when m = N."""
    if m >= len(labels):
        return np.arange(len(labels))
    counts = np.bincount(labels)
    exact = counts * (m / len(labels))
    take = np.floor(exact).astype(np.int64)
    for c in np.argsort(take - exact, kind="stable")[: m - take.sum()]:
        take[c] += 1
    rng = np.random.default_rng(seed)
    found = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(take)]
    return np.sort(np.concatenate(found)).astype(np.int64)


def like(pool: Labels, wanted: Labels, seed: int) -> NDArray[np.int64]:
    """A position in `pool` with each of the labels `wanted`, drawn without replacement while a class lasts.

    Raises DataError for a label that the pool has not.
    """
    rng = np.random.default_rng(seed)
    out = np.empty(len(wanted), np.int64)
    for c in np.unique(wanted):
        where, have = np.flatnonzero(wanted == c), np.flatnonzero(pool == c)
        if len(have) == 0:
            raise DataError(f"Found no training image of class {c}; expected every class in every split.")
        rounds = -(-len(where) // len(have))
        out[where] = np.concatenate([rng.permutation(have) for _ in range(rounds)])[: len(where)]
    return out


def _per_class(
    data: ImageSet, scores: Sequence[Scores], labelled: bool, known: bool, further: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per class, the worst first: by the lowest of its agreement, coverage and diversity."""
    rows, train = [], data.part("train").counts()
    for c, name in enumerate(data.spec.classes):
        row: dict[str, Any] = {"class": name}
        for key in ("agreement", "coverage", "diversity", *further):
            row[key] = _number(float(np.mean([getattr(s, key)[c] for s in scores])))
        row["agreement"] = row["agreement"] if labelled else None
        row["train"] = int(train[c])
        if row["coverage"] is None:
            row["reason"] = "too few" if known else "unconditional"  # references of this class; or nobody knows it
        rows.append(row)
    return sorted(
        rows, key=lambda r: min([r[k] for k in ("agreement", "coverage", "diversity") if r[k] is not None] or [0.0])
    )


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def _number(x: float) -> float | None:
    """JSON has no nan."""
    return x if np.isfinite(x) else None
