"""Room on the disk for an evaluation: what it keeps for the next one, counted without a network. Torch-free.

Kept are features of real images and what is computed from them, the data set's classifier, and a downloaded network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kartina.config import home
from kartina.metrics.protocol import LARGEST, PROTOCOL

NUMBER = 8  # bytes
FEATURES = {"domain": 128, "inception": 2048}  # numbers that an extractor makes of an image
CLASSIFIER = 2_300_000  # bytes of a data set's classifier, at most, but for its last layer
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_BYTES = 95_628_359


def kept(about: Mapping[str, Any], split: str, samples: int, metrics: Sequence[str], extractor: str) -> int:
    """Bytes that an evaluation on a data set, whose record `about` is, keeps and downloads at most."""
    train, held = (int(stop) - int(start) for start, stop in (about["bounds"].get(s, (0, 0)) for s in ("train", split)))
    m, wide = min(samples, LARGEST, held), FEATURES["domain" if extractor == "domain" else "inception"]
    numbers = m * wide + wide**2 + 2 * m  # features, a factor of their covariance, radii
    if {"memorisation", "copies"} & set(metrics):
        numbers += train * wide + 4 * m  # of the training images; the nearest of each reference
    files, classes = 0, len(about["spec"]["classes"])
    if classes > 1 and not classifier_folder(about["hash"], bool(about["spec"]["flip_safe"])).is_dir():
        files += CLASSIFIER + 4 * classes * FEATURES["domain"]
    if extractor == "inception" and not inception_file().is_file():
        files += INCEPTION_BYTES
    return NUMBER * numbers + files


def classifier_folder(data_hash: str, flips: bool, seed: int = 0) -> Path:
    """The folder of a data set's classifier, which learns from mirrored images too where its `flips`."""
    name = f"{data_hash}-{PROTOCOL}" + ("" if flips else "-unflipped") + (f"-seed{seed}" if seed else "")
    return home() / "cache" / "classifiers" / name


def inception_file() -> Path:
    """Where Inception-v3 is kept once it was downloaded."""
    return home() / "cache" / "weights" / INCEPTION_FILE
