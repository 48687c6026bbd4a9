"""How much do features know? A linear classifier on them, from few labels (Radford 2015, section 5.1).

An L2-regularised linear SVM with the squared hinge loss, one against the rest (scikit-learn's LinearSVC), is fitted to
the features of some labelled images; C is chosen on val, and the accuracy is that on test. Beside it stand the same SVM
on raw pixels and the domain classifier's net, trained on the same labelled images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kartina.data.imageset import ImageSet
from kartina.metrics import classifier

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

COSTS = (0.1, 1.0, 10.0, 100.0)  # C, for features of unit mean square
TOLERANCE = 1e-2  # 1e-3 takes longer and predicts the same
ROUNDS = 2000  # an SVM that has not converged by then is used as it is
CNN_EPOCHS = (8, 250)
CNN_PASSES = 10_000  # image passes of the small CNN, within those epochs
CHUNK = 2000  # images that are scored at a time
GRID = 4  # cells on a side that a map is pooled to


def pooled(maps: Sequence[Tensor], grid: int = GRID) -> Tensor:
    """Max-pool every map N,C,H,W to grid x grid (a smaller one stays as it is), flatten, concatenate: float32 N,d."""
    cells = [F.adaptive_max_pool2d(m.float(), (min(grid, m.shape[2]), min(grid, m.shape[3]))) for m in maps]
    return torch.cat([c.flatten(1) for c in cells], dim=1)


@dataclass(frozen=True)
class Scored:
    accuracy: float  # on test
    cost: float  # the C that was best on val


Labelled = tuple[Floats, Ints]  # features n,d and labels n


def svm(train: Labelled, val: Labelled, test: Labelled, seed: int = 0) -> Scored:
    """Fit on train, choose C on val (the smallest of equals), score on test.

    Features are centred on those of train and divided by one number, their root mean square norm, so that C means the
    same for any features. With fewer images than dimensions the SVM is solved in the span of the images, where its
    weights lie anyway: the same answer from n instead of d coordinates.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    x = train[0].astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    scale = float(np.sqrt((x**2).sum(axis=1).mean())) or 1.0
    basis = np.linalg.qr(x.T)[0] / scale if len(x) < x.shape[1] else np.eye(x.shape[1]) / scale

    def right(model: Any, on: Labelled) -> float:
        found = [model.predict((on[0][i : i + CHUNK] - mean) @ basis) for i in range(0, len(on[0]), CHUNK)]
        return float((np.concatenate(found) == on[1]).mean())

    x = x @ basis
    best, score = None, -1.0
    for cost in COSTS:
        model = LinearSVC(C=cost, tol=TOLERANCE, max_iter=ROUNDS, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, train[1])
        on_val = right(model, val)
        if on_val > score:
            best, score = model, on_val
    assert best is not None
    return Scored(right(best, test), best.C)


def cnn(data: ImageSet, ids: Ints, seed: int = 0) -> float:
    """Accuracy on test of the domain classifier's net trained on the train images `ids` alone."""
    real, test = data.part("train"), data.part("test")
    assert real.labels is not None and test.labels is not None
    few = replace(real, images=real.images[ids], labels=real.labels[ids], groups=None, sources=None, split="all",
                  bounds={"train": (0, len(ids))})  # fmt: skip
    epochs = int(np.clip(CNN_PASSES // len(ids), *CNN_EPOCHS))
    net = classifier.train(few, seed, epochs=epochs)
    predicted = classifier.Classifier(net, "", data.spec.classes, 0.0).predict(test.images)
    return float((predicted == test.labels).mean())
