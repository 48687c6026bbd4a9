"""Use case: what a trained discriminator knows about classes, beside pixels and a small CNN, at few labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kartina import registry
from kartina.config import ImageSpec
from kartina.data.imageset import ImageSet, open_set
from kartina.data.subset import stratified
from kartina.errors import ConfigError, DataError
from kartina.generators.base import Family, build, from_uint8
from kartina.metrics.probe import Floats, Ints, cnn, pooled, svm
from kartina.training import checkpoint
from kartina.training.run import Run, fill

Progress = Callable[[float, str], None]  # share done, what is being done

LABELS = (25, 50, 100, 1000)  # and all
MOST = 5000  # labels: with more, an SVM on thousands of features takes many minutes
VAL = 2000  # images that C is chosen on, at most
FIXED = 3000  # labels whose work equals that which no number of labels changes: for progress
METHODS = ("features + SVM", "pixels + SVM", "small CNN")


@dataclass(frozen=True)
class Stack:
    """The convolutions of a discriminator as a feature extractor: float N,C,H,W in [-1, 1] -> float32 N,d."""

    family: Family
    discriminator: nn.Module
    layers: tuple[nn.Module, ...]  # their outputs, with LeakyReLU 0.2 as in DCGAN's D, are the features

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = []
        hooks = [m.register_forward_hook(lambda _, __, out: maps.append(F.leaky_relu(out, 0.2))) for m in self.layers]
        try:
            every = torch.full((len(images), self.family.classes), 1 / self.family.classes, device=self.family.device)
            self.discriminator(images.to(self.family.device), every)
        finally:
            for hook in hooks:
                hook.remove()
        return pooled(maps)

    def of(self, images: NDArray[np.uint8], batch: int = 250) -> Floats:
        """uint8 N,C,H,W -> float32 N,d."""
        parts = [
            self(from_uint8(torch.from_numpy(np.array(images[i : i + batch])))) for i in range(0, len(images), batch)
        ]
        return torch.cat(parts).cpu().numpy()


def stack(family: Family) -> Stack | None:
    """The convolutions of the family's discriminator, each after its normalisation; None where it has no such stack."""
    d = getattr(family, "discriminator", None)
    convs, norms = getattr(d, "convs", None), getattr(d, "norms", None)
    if (
        not isinstance(d, nn.Module)
        or not isinstance(convs, nn.ModuleList)
        or getattr(convs[0], "in_channels", 0) != family.spec.channels
    ):
        return None
    after = tuple(norms) if isinstance(norms, nn.ModuleList) and len(norms) == len(convs) else tuple(convs)
    return Stack(family, d, after)


def extractor(run: Run, device: str = "cpu") -> Stack:
    """The discriminator of a run's newest checkpoint. Raises ConfigError for a family whose D has no such stack."""
    family = build(registry.family(run.config.family), run.config.config, run.config.spec)
    found = stack(family)
    if found is None:
        known = ", ".join(name for name in registry.names() if _has_stack(name))
        raise ConfigError(
            f"Found a run of {run.config.family}, which has no discriminator made of convolutions from the image down; "
            f"features are taken from one of: {known}. Train one of those."
        )
    fill(family, checkpoint.read(run.checkpoint()).tensors["model"], run.id)
    family.to(device).eval()
    return found


def _has_stack(name: str) -> bool:
    spec = ImageSpec(height=32, width=32, channels=3, classes=("a", "b"))
    cls = registry.family(name)
    try:
        with torch.device("meta"):
            return stack(cls(cls.Config(), spec)) is not None
    except ConfigError:  # it makes other images
        return False


def curves(
    ref: str,
    data: str | None = None,
    labels: Sequence[int | Literal["all"]] | None = None,
    seeds: int = 3,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy on test of each of METHODS at each number of labels, over `seeds` stratified subsets of train.

    `labels` defaults to those of LABELS that the data have, and "all": every training image, or MOST of them where
    there are more. Returns {"run", "data", "labels_seen", "layers", "dimensions", "train", "test", "rows": [{"labels",
    method: {"accuracy", "spread", "each", "C"}}]}; `spread` is the standard deviation over the subsets, `labels_seen`
    tells that the discriminator itself was trained with labels. Raises NotFoundError for an unknown run or data set,
    ConfigError for a family without such a discriminator or labels that cannot be drawn, DataError for unlike images.
    """
    report = progress or (lambda share, what: None)
    run = Run.open(ref)
    found = open_set(data or run.config.data)
    _check(run, found)
    extract = extractor(run, device)
    train = found.part("train")
    subsets = _subsets(np.asarray(train.labels), labels, seeds)
    val, test = found.part("val"), found.part("test")
    assert train.labels is not None and val.labels is not None and test.labels is not None

    report(0.0, "features of val and test")
    chosen: Any = slice(None) if len(val) <= VAL else stratified(np.asarray(val.labels), VAL, 0)
    spaces: dict[str, Callable[[NDArray[np.uint8]], Floats]] = {METHODS[0]: extract.of, METHODS[1]: _pixels}
    held = {
        method: ((of(val.images[chosen]), np.asarray(val.labels)[chosen]), (of(test.images), np.asarray(test.labels)))
        for method, of in spaces.items()
    }
    rows: list[dict[str, Any]] = []
    work, done = sum(seeds * (FIXED + n) for n in subsets), 0
    for n, drawn in subsets.items():
        each: dict[str, list[float]] = {method: [] for method in METHODS}
        costs: dict[str, list[float]] = {method: [] for method in spaces}
        for seed, ids in enumerate(drawn):
            what = f"{n:,} labels, subset {seed + 1} of {seeds}"
            y: Ints = np.asarray(train.labels[ids])
            for method, of in spaces.items():
                report(0.05 + 0.95 * done / work, f"{what}: {method}")
                scored = svm((of(train.images[ids]), y), *held[method], seed)
                each[method].append(scored.accuracy)
                costs[method].append(scored.cost)
            report(0.05 + 0.95 * done / work, f"{what}: {METHODS[2]}")
            each[METHODS[2]].append(cnn(found, ids, seed))
            done += FIXED + n
        rows.append({"labels": n, **{method: _mean(each[method], costs.get(method)) for method in METHODS}})
    config = run.config.config
    return {
        "run": run.id,
        "data": found.name,
        "labels_seen": bool(run.config.spec.classes) and (config.get("conditional", True) or "labels_used" in config),
        "layers": len(extract.layers),
        "dimensions": int(held[METHODS[0]][0][0].shape[1]),
        "train": len(train),
        "test": len(test),
        "rows": rows,
    }


def _subsets(labels: Ints, asked: Sequence[int | Literal["all"]] | None, seeds: int) -> dict[int, list[Ints]]:
    """The labelled images of every row and seed; what cannot be drawn is refused before anything is computed."""
    most, classes = min(len(labels), MOST), len(np.unique(labels))
    wanted = [*(n for n in LABELS if classes <= n < most), most]
    if asked is not None:
        wanted = [most if n == "all" else n for n in asked]
    if max(wanted) > most:
        raise ConfigError(f"Found {max(wanted):,} labels asked for; expected at most {most:,}. Write all for as many.")
    counts = dict.fromkeys(wanted)
    return {n: [stratified(labels, n, seed) for seed in range(seeds)] for n in counts}


def _mean(each: list[float], costs: list[float] | None) -> dict[str, Any]:
    spread = float(np.std(each, ddof=1)) if len(each) > 1 else None
    return {"accuracy": float(np.mean(each)), "spread": spread, "each": each, "C": costs}


def _pixels(images: NDArray[np.uint8]) -> Floats:
    """uint8 N,C,H,W -> float32 N,d in [-1, 1]."""
    return from_uint8(torch.from_numpy(np.array(images))).flatten(1).numpy()


def _check(run: Run, data: ImageSet) -> None:
    """The data can be classified, and are the kind of image that the run saw."""
    if data.labels is None or len(data.spec.classes) < 2:
        raise DataError(f"Found no classes in {data.name!r}; expected at least 2 to classify. Import labelled images.")
    if data.spec.shape != run.config.spec.shape:
        (c, h, w), (c2, h2, w2) = data.spec.shape, run.config.spec.shape
        raise DataError(
            f"Found {data.name!r} of {w}x{h} pixels, {c} channels; run {run.id} saw {w2}x{h2} pixels, {c2} channels. "
            f"Import the data again with --size {h2}."
        )
