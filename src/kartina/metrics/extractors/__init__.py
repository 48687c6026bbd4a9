"""Extractors: uint8 images N,C,H,W in, float64 features N,d out. A distance is named after the space it is measured in.

    domain      the classifier trained on the real training split of the data itself: FD-domain, KD-domain; the default
    mobilenet   MobileNetV2 on ImageNet, from a local file: FD-MobileNetV2, KD-MobileNetV2
    inception   the Inception-v3 of 2015-12-05: FID, KID and IS, and nothing else is called so
    of_module   any torch module of yours, in Python

Each resizes in one way (`resizer`), in both sides' images alike; a mismatch of resizers would multiply a distance.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kartina.data.imageset import ImageSet
from kartina.errors import ConfigError, DataError, NotFoundError
from kartina.metrics import classifier, room
from kartina.metrics.classifier import Classifier
from kartina.metrics.extractors import download, inception, mobilenet

Array = NDArray[np.float64]
Images = NDArray[np.uint8]
Progress = Callable[[int, int], None]  # images done, images in all

NAMES = ("domain", "inception", "mobilenet")


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
        """uint8 N,C,H,W -> (features float64 N,d; logits float64 N,K, or None). DataError for other images."""
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise DataError(f"Found images of {images.dtype} {images.shape}; expected uint8 N,C,H,W, at least one.")
        features, logits = [], []
        for start in range(0, len(images), self.batch):
            found, said = self.see(np.asarray(images[start : start + self.batch]))
            features.append(found)
            logits += [] if said is None else [said]
            if progress is not None:
                progress(min(start + self.batch, len(images)), len(images))
        return np.concatenate(features), np.concatenate(logits) if logits else None


def domain(judge: Classifier) -> Extractor:
    """The domain classifier's features."""
    return Extractor(name="FD-domain", fd="FD-domain", kid="KD-domain", hash=judge.hash, see=judge)


def photographs(net: nn.Module) -> Callable[[Images], tuple[Array, Array]]:
    """How a network of colour photographs sees: uint8 n,C,H,W -> features and logits. Grey images count as colour."""

    @torch.inference_mode()
    def see(images: Images) -> tuple[Array, Array]:
        features, logits = net(torch.from_numpy(np.array(images)).float().expand(-1, 3, -1, -1))
        return features.double().numpy(), logits.double().numpy()

    return see


def of_inception(net: inception.Inception, digest: str) -> Extractor:
    """Inception-v3; `digest` is that of its file."""
    return Extractor(
        name="Inception-v3 2015-12-05", fd="FID", kid="KID", hash=digest, see=photographs(net),
        resizer="TF1 bilinear 299", batch=32, scores=True,
    )  # fmt: skip


def of_mobilenet(path: Path) -> Extractor:
    """MobileNetV2 from a file of 8-bit kernels."""
    net, content = mobilenet.load(path)
    return Extractor(
        name="MobileNetV2 1.0/224", fd="FD-MobileNetV2", kid="KD-MobileNetV2", hash=hashlib.sha256(content).hexdigest(),
        see=photographs(net), resizer="antialiased bicubic 224", batch=64,
    )  # fmt: skip


def of_module(net: nn.Module, name: str, resizer: str = "none", batch: int = 256) -> Extractor:
    """Any module: uint8 N,C,H,W in (it resizes and scales for itself, as `resizer` says), N,d numbers out.

    Its distances are called FD-`name` and KD-`name`. Statistics of real images are kept by its name, weights, code and
    plain attributes: what else it depends on belongs in the name.
    """
    if not name or name in ("FID", "KID"):
        raise ConfigError(f"Found the extractor name {name!r}; expected one of its own.")
    net = net.eval()
    digest = hashlib.sha256(f"{name} {net!r}".encode())
    for part in net.modules():  # of what is not torch's own, what it computes and by which settings
        if not type(part).__module__.startswith("torch."):
            with suppress(OSError, TypeError):  # typed into a session: no file has its source
                digest.update(inspect.getsource(type(part)).encode())
            plain = {k: v for k, v in vars(part).items() if isinstance(v, str | int | float | tuple | list)}
            digest.update(repr(sorted(plain.items())).encode())
    for key, tensor in sorted(net.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())

    @torch.inference_mode()
    def see(images: Images) -> tuple[Array, None]:
        found = net(torch.from_numpy(np.array(images)))
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(images):
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(f"Found {what} from the extractor {name!r} for {len(images)} images; expected N,d.")
        return found.double().cpu().numpy(), None

    return Extractor(f"module {name}", f"FD-{name}", f"KD-{name}", digest.hexdigest(), see, resizer, batch)


def find_extractor(
    name: str, weights: str | Path | None = None, progress: Callable[[float, str], None] | None = None
) -> Extractor | None:
    """The extractor called `name`; None for domain, which depends on the data.

    `weights` is a local file, or for inception also the address of a copy; inception downloads its file once where none
    is given. Raises NotFoundError for another name or a file that is not there, IntegrityError for a wrong file.
    """
    match name:
        case "domain":
            if weights is not None:
                raise ConfigError("Found --weights with the domain extractor, which is trained on the data; drop it.")
            return None
        case "mobilenet":
            if weights is None:
                raise ConfigError("Found no --weights; mobilenet needs them: mobilenet_v2_1.0_224_int8.npz, by path.")
            return of_mobilenet(Path(weights).expanduser())
        case "inception":
            path = _inception_file(None if weights is None else str(weights), progress)
            return of_inception(inception.load(path), _sha256(path))
    raise NotFoundError.named("extractor", name, NAMES)


def untrained(name: str, data: ImageSet) -> Extractor:
    """`domain` or `inception` as they are before they learn, for measuring what they cost: nothing is downloaded."""
    if name == "domain":
        return domain(classifier.untrained(data))
    return of_inception(inception.Inception().eval().requires_grad_(False), "")


def _inception_file(weights: str | None, progress: Callable[[float, str], None] | None) -> Path:
    """The checked file of Inception-v3: the given one, else the one that was downloaded, else downloaded now."""
    if weights is not None and not weights.startswith(("http://", "https://")):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise NotFoundError(f"Found no file {path}; expected {inception.FILE}.")
        return download.checked(path, inception.SHA256)

    def report(arrived: int, total: int) -> None:
        if progress is not None:
            progress(0.0, f"downloading {inception.FILE}: {arrived / 1e6:.0f} of {total / 1e6:.0f} MB")

    return download.fetch(
        weights or inception.URL, room.inception_file(), inception.SHA256, 2 * inception.BYTES, report
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
