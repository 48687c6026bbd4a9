"""Classification accuracy score (Ravuri & Vinyals 2019): train on generated images only, test on real ones.

A generator that has lost a kind of image, or draws a class wrongly, teaches a classifier nothing about it, and the
accuracy of that class falls. The classifier is the domain classifier's net with its training, for a fixed number of
epochs, started anew for every seed; its floor is the same training on as many real images with the same labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet, Split
from kartina.errors import DataError
from kartina.metrics.agreement import agreement, agreement_per_class
from kartina.metrics.classifier import Classifier, train

Labels = NDArray[np.int64]

EPOCHS = 20
SEEDS = 3  # classifiers at least


@dataclass(frozen=True)
class CAS:
    accuracy: float  # top-1 on the real split, mean over classifiers
    per_class: NDArray[np.float64]  # K; nan where the split has no image of a class


def cas(
    images: NDArray[np.uint8],
    labels: Labels,
    data: ImageSet,
    split: Split,
    seeds: tuple[int, ...] = tuple(range(SEEDS)),
    epochs: int = EPOCHS,
    progress: Callable[[float, str], None] | None = None,
) -> CAS:
    """Train a classifier per seed on uint8 N,C,H,W and their labels; accuracy on the real `split` of `data`."""
    real = data.part(split)
    if real.labels is None or images.shape[1:] != data.spec.shape or len(images) != len(labels) or not seeds:
        raise DataError(f"Found {len(labels)} labels for images {images.shape}; expected N, and N,*{data.spec.shape}.")
    made = replace(data, images=images, labels=labels, groups=None, sources=None, bounds={"train": (0, len(images))})
    held, asked = real.images, np.asarray(real.labels)
    accuracies, per_class = [], []
    for i, seed in enumerate(seeds):

        def report(share: float, what: str, i: int = i) -> None:
            if progress is not None:
                progress((i + share) / len(seeds), f"CAS: {what}")

        net = train(made, seed, report, epochs)
        predicted = Classifier(net, "", data.spec.classes, 0.0).predict(held)
        accuracies.append(agreement(predicted, asked))
        per_class.append(agreement_per_class(predicted, asked, len(data.spec.classes)))
    return CAS(float(np.mean(accuracies)), np.mean(per_class, axis=0))
