"""The domain classifier: a small residual CNN trained on the real training split of the data itself.

It shares nothing with any generator, so its answer to "what class is this image?" is an independent one (class
agreement), and its penultimate layer is a feature space for data that ImageNet knows nothing of: grey, medical, any
size from 8 to 128 pixels, 1 to 4 channels. Distances in it are reported as FD-domain, never as FID.

The net is a pre-activation-free ResNet (He 2015) on a 16x16 or smaller grid; larger images come down by strided
convolutions first. Training is AdamW with one cycle (Smith 2018), light augmentation, and logit adjustment (Menon
2021) where classes are imbalanced. Trained once per data set, it is kept in KARTINA_HOME/cache/classifiers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.data.imageset import ImageSet
from kartina.errors import DataError, disk_errors
from kartina.metrics import room
from kartina.metrics.protocol import PROTOCOL
from kartina.nets.precision import has_bf16

Progress = Callable[[float, str], None]  # share done (0..1), what is being done

FEATURES = room.FEATURES["domain"]  # d
PASSES = 270_000  # image passes a training takes, within the epochs below
EPOCHS = (4, 30)
BATCH = 128
LR = 4e-3
WEIGHT_DECAY = 0.05
SHIFT = 1 / 16  # of the side: the largest shift in augmentation
SHIFT_FROM = 8  # epochs: images seen less often are not shifted (at 4 epochs of Fashion-MNIST it cost over a point)
IMBALANCED = 3.0  # largest / smallest class above which logits are adjusted


class Residual(nn.Module):
    """x + f(x), f = conv-BN-ReLU-conv-BN; the second BN's gain starts at 0, so that a block starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


def _conv(wide: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide, out, kernel, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )  # fmt: skip


class Net(nn.Module):
    """float N,C,H,W in [-1, 1] -> features N,128 -> logits N,K."""

    def __init__(self, channels: int, side: int, classes: int):
        super().__init__()
        down = max(0, math.ceil(math.log2(max(side, 1) / 16)))  # halvings before the 16x16 grid
        stem = [_conv(channels, 32, 3, 1)] if down == 0 else [_conv(channels, 32, 4, 2)]
        stem += [_conv(32, 32, 4, 2) for _ in range(down - 1)]
        self.trunk = nn.Sequential(
            *stem, Residual(32),
            _conv(32, 64, 3, 2), Residual(64),
            _conv(64, FEATURES, 3, 2), Residual(FEATURES),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.trunk(x).mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


@dataclass(frozen=True)
class Classifier:
    """A trained domain classifier and the hash of its weights."""

    net: Net
    hash: str  # sha256 of the safetensors bytes
    classes: tuple[str, ...]
    val_accuracy: float  # top-1 on the real val split: the floor of class agreement

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], batch: int = 256) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """uint8 N,C,H,W -> (features float64 N,128; logits float64 N,K). Raises DataError for another shape."""
        first = next(self.net.parameters())
        channels = int(first.shape[1])
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != channels:
            raise DataError(
                f"Found images of shape {images.shape} and type {images.dtype}; the classifier was trained on uint8 "
                f"N,{channels},H,W. Evaluate on the data set that the model was trained on."
            )
        features, logits = [], []
        for i in range(0, len(images), batch):
            x = _float(torch.from_numpy(np.array(images[i : i + batch])))
            h = self.net.features(x)
            features.append(h.double().numpy())
            logits.append(self.net.head(h).double().numpy())
        return np.concatenate(features), np.concatenate(logits)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """uint8 N,C,H,W -> the most likely class of each, int64 N."""
        return top(self(images)[1])


def top(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most likely class of each row of logits N,K: int64 N."""
    return np.asarray(logits.argmax(1), np.int64)


def domain_classifier(data: ImageSet, seed: int = 0, progress: Progress | None = None) -> Classifier:
    """The classifier of `data`: from the cache, else trained now (minutes) and cached.

    Raises DataError where the data have fewer than two classes, StorageError on a full disk.
    """
    where = _place(data, seed)
    found = _read(where, data)
    if found is not None:
        return found
    with disk_errors("train and keep the classifier"):
        where.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        net = train(data, seed, progress)
        val = data.part("val")
        assert val.labels is not None
        accuracy = float((Classifier(net, "", (), 0.0).predict(val.images) == val.labels).mean())
        _write(where, net, {"data": data.name, "data_hash": data.hash, "protocol": PROTOCOL, "seed": seed,
                            "classes": list(data.spec.classes), "val_accuracy": accuracy,
                            "seconds": round(time.perf_counter() - started, 1)})  # fmt: skip
    again = _read(where, data)
    assert again is not None
    return again


def is_kept(data: ImageSet) -> bool:
    """Whether `domain_classifier` need not train it. Raises DataError where the data have fewer than two classes."""
    return _read_about(_place(data)) is not None


def _place(data: ImageSet, seed: int = 0) -> Path:
    if data.labels is None or len(data.spec.classes) < 2:
        raise DataError(
            f"Found {len(data.spec.classes)} classes in {data.name!r}; a classifier needs at least 2. Numbers per "
            "class cannot be made for data without classes."
        )
    return room.classifier_folder(data.hash, data.spec.flip_safe, seed)


def untrained(data: ImageSet) -> Classifier:
    """One that has learnt nothing, for measuring what it costs."""
    net = Net(data.spec.channels, max(data.spec.height, data.spec.width), len(data.spec.classes))
    return Classifier(net.eval().requires_grad_(False), "", data.spec.classes, 0.0)


def schedule(n: int, epochs: int | None = None) -> tuple[int, int, int]:
    """(epochs, batch, steps) of a training on n images."""
    epochs = epochs or min(max(round(PASSES / n), EPOCHS[0]), EPOCHS[1])
    batch = min(BATCH, max(16, n // 16), n)
    return epochs, batch, epochs * max(1, n // batch)


def train(
    data: ImageSet,
    seed: int = 0,
    progress: Progress | None = None,
    epochs: int | None = None,
    most: int | None = None,
) -> Net:
    """Train a Net on the train split; a function of (data, seed, epochs) on one machine and thread count. `most`:
    steps after which to leave off, for timing."""
    real = data.part("train")
    assert real.labels is not None
    n, side = len(real), max(real.spec.height, real.spec.width)
    epochs, batch, steps = schedule(n, epochs)
    labels = torch.from_numpy(np.array(real.labels))  # copied: a memory-mapped array is not writable

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(real.spec.channels, side, len(real.spec.classes))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=LR, fused=True)

    # Imbalanced: train on logits + log prior, so that the bare logits answer for balanced classes (Menon 2021, eq. 10).
    counts = torch.from_numpy(real.counts()).double()
    imbalanced = bool(counts.max() > IMBALANCED * counts.clamp(min=1).min())
    shift = (counts.clamp(min=1) / counts.sum()).log().float() if imbalanced else torch.zeros(len(counts))

    low = has_bf16("cpu")
    rng = np.random.default_rng(seed)
    net.train()
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n - batch + 1, batch):
            ids = np.sort(order[start : start + batch])  # sorted: a memory-mapped read goes forward
            x = _augment(real.images[ids], rng, SHIFT if epochs >= SHIFT_FROM else 0.0, real.spec.flip_safe)
            for group in optimiser.param_groups:
                group["lr"] = LR * _one_cycle(step / steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                logits = net(_float(x).to(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float() + shift, labels[ids])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            if step == most:
                return net
            if progress is not None and step % 20 == 0:
                progress(step / steps, f"training the classifier, epoch {epoch + 1} of {epochs}")
    net.eval().requires_grad_(False)
    return net


def _one_cycle(t: float, rise: float = 0.25) -> float:
    """Share of the peak rate at t in [0, 1]: linear up, cosine down."""
    return max(t / rise, 0.02) if t < rise else 0.5 * (1 + math.cos(math.pi * (t - rise) / (1 - rise))) + 1e-3


def _float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def _augment(images: NDArray[np.uint8], rng: np.random.Generator, shift: float, flip: bool) -> Tensor:
    """Shift by up to `shift` of the side (edges repeated) and, with `flip`, mirror half of the images."""
    n, _, height, width = images.shape
    dy, dx = (rng.integers(-round(side * shift), round(side * shift) + 1, (n, 1)) for side in (height, width))
    ys = np.clip(np.arange(height) + dy, 0, height - 1)
    xs = np.clip(np.arange(width) + dx, 0, width - 1)
    if flip:
        xs = np.where(rng.random((n, 1)) < 0.5, xs[:, ::-1], xs)
    rows = np.take_along_axis(images, ys[:, None, :, None], axis=2)
    return torch.from_numpy(np.take_along_axis(rows, xs[:, None, None, :], axis=3))


def _write(where: Path, net: Net, about: dict[str, Any]) -> None:
    """Both files in one atomic rename; when another process was first, its classifier stays."""
    weights = save_tensors({k: v.contiguous() for k, v in net.state_dict().items()})
    about = {**about, "sha256": hashlib.sha256(weights).hexdigest()}
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=where.parent))
    try:
        for file, content in (("classifier.safetensors", weights), ("classifier.json", json.dumps(about).encode())):
            with open(folder / file, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
        if where.exists() and _read_about(where) is None:
            shutil.rmtree(where)  # a broken cache entry
        try:
            folder.rename(where)
        except OSError:
            if not where.exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_about(where: Path) -> tuple[dict[str, Any], bytes] | None:
    """The record and the weights' bytes; None where either is missing or does not fit the other."""
    try:
        about = json.loads((where / "classifier.json").read_text())
        weights = (where / "classifier.safetensors").read_bytes()
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return (about, weights) if about["sha256"] == hashlib.sha256(weights).hexdigest() else None


def _read(where: Path, data: ImageSet) -> Classifier | None:
    kept = _read_about(where)
    if kept is None:
        return None
    about, weights = kept
    net = Net(data.spec.channels, max(data.spec.height, data.spec.width), len(data.spec.classes))
    net.load_state_dict(load_tensors(weights))
    return Classifier(net.eval().requires_grad_(False), about["sha256"], tuple(about["classes"]), about["val_accuracy"])
