"""Extractors: uint8 images N,C,H,W in, float64 features N,d out. A distance is named after the space it is measured in.

domain      the classifier trained on the real training split of the data itself: FD-domain, KD-domain; the default
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kartina.errors import NotFoundError
from kartina.metrics.classifier import Classifier

Array = NDArray[np.float64]
Images = NDArray[np.uint8]
Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Extractor:
    """A network as metrics see it, and the names that may be given to distances in its features."""

    name: str  # in a number's identity
    fd: str  # what a Frechet distance in these features is called
    kid: str  # what a kernel distance is called
    hash: str  # sha256 of the weights
    see: Callable[[Images], tuple[Array, Array | None]]  # uint8 n,C,H,W -> features n,d and logits n,K where it has any
    resizer: str = "none"  # how images come to its size
    batch: int = 256
    scores: bool = False  # its logits may be called an Inception Score

    def __call__(self, images: Images, progress: Progress | None = None) -> tuple[Array, Array | None]:
        """uint8 N,C,H,W -> (features float64 N,d; logits float64 N,K, or None)."""
        features, logits = [], []
        for start in range(0, len(images), self.batch):
            found, said = self.see(np.asarray(images[start : start + self.batch]))
            features.append(found)
            logits += [] if said is None else [said]
            if progress is not None:
                progress(min(start + self.batch, len(images)), len(images))
        return np.concatenate(features), np.concatenate(logits) if logits else None


def domain(classifier: Classifier) -> Extractor:
    """The domain classifier's features."""
    return Extractor(name="FD-domain", fd="FD-domain", kid="KD-domain", hash=classifier.hash, see=classifier)


def find_extractor(
    name: str, weights: str | Path | None = None, progress: Callable[[float, str], None] | None = None
) -> Extractor | None:
    """The extractor called `name`; None for domain, which depends on the data. NotFoundError lists those there are."""
    if name == "domain":
        return None
    raise NotFoundError.named("extractor", name, ["domain"])
