"""DCGAN's two networks (Radford 2015), class-conditional: what `dcgan` and `improved_gan` share.

No pooling and no hidden fully connected layer: strided convolutions in D, fractionally strided in G; normalisation and
ReLU in G with tanh out, LeakyReLU 0.2 in D; weights from N(0, 0.02) (`start`). The depth follows from the image size:
z becomes a 4x4 map and doubles until it is the image.

Condition: G's BatchNorm takes gain and bias from the label; D scores by projection, D(x, y) = w.h + <e_y, h> (Miyato
2018). With `labels=0` D has no label term.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec
from kartina.errors import ConfigError
from kartina.nets.layers import MinibatchStd
from kartina.nets.norm import ConditionalBatchNorm
from kartina.nets.spectral import spectral_norm

DNorm = Literal["none", "batch", "spectral"]


class Generator(nn.Module):
    """z N,Z and label weights N,K -> images N,C,H,W in [-1, 1]."""

    def __init__(self, z: int, width: int, width_max: int, size: int, channels: int, labels: int):
        super().__init__()
        widths = list(reversed(stages(width, width_max, size)))
        self.project = nn.ConvTranspose2d(z, widths[0], 4, bias=False)
        self.norms = nn.ModuleList(ConditionalBatchNorm(w, labels) for w in widths)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=b == channels)
            for a, b in zip(widths, [*widths[1:], channels], strict=True)
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        x = self.project(z[:, :, None, None])
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(F.relu(norm(x, y)))
        image: Tensor = x.tanh()
        return image


class Discriminator(nn.Module):
    """Images N,C,H,W in [-1, 1] and label weights N,K -> logits N."""

    def __init__(
        self,
        width: int,
        width_max: int,
        size: int,
        channels: int,
        labels: int,  # K; 0 = unconditional
        norm: DNorm = "none",
        minibatch_std: bool = False,
    ):
        super().__init__()
        widths = stages(width, width_max, size)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(w) if norm == "batch" and i else nn.Identity() for i, w in enumerate(widths)
        )
        self.std = MinibatchStd() if minibatch_std else nn.Identity()
        last = widths[-1]
        paper = norm == "batch" and not minibatch_std  # which has no more layers
        self.join = None if paper else nn.Conv2d(last + minibatch_std, last, 3, padding=1)
        self.head = nn.Linear(last * 16, 1)
        self.label = nn.Linear(labels, last * 16, bias=False) if labels else None

    def features(self, x: Tensor) -> Tensor:
        """f(x): the last hidden layer, flat. N,C,H,W -> N,A."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return (x if self.join is None else F.leaky_relu(self.join(self.std(x)), 0.2)).flatten(1)

    def first_layers(self) -> list[nn.Module]:
        """From the image on; a convolution and its normalisation are one."""
        return [nn.ModuleList(pair) for pair in zip(self.convs, self.norms, strict=True)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.features(x)
        return self.projected(self.head(h), h, y)

    def projected(self, logit: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """The logits N,1 plus the label term <e_y, h>, if there is one: float32 N."""
        logit = logit.float().squeeze(1)
        return logit if self.label is None else logit + (self.label(y).float() * h.float()).sum(dim=1)


def stages(width: int, width_max: int, size: int) -> list[int]:
    """Channels of every map between the image and 4x4, the largest map first: they double as the map halves."""
    return [min(width_max, width * 2**i) for i in range(int(math.log2(size)) - 2)]


def start(generator: Generator, discriminator: Discriminator, norm: DNorm) -> None:
    """Weights from N(0, 0.02), then D's spectral norm if asked for.

    The linear maps of conditional BatchNorm keep their own start (gain 1, bias 0).
    """
    layers = [*generator.modules(), *discriminator.modules()]
    own = {m for c in layers if isinstance(c, ConditionalBatchNorm) for m in (c.gain, c.bias)}
    for m in layers:
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and m not in own:
            nn.init.normal_(m.weight, std=0.02)
    if norm == "spectral":  # Miyato 2018
        for m in list(discriminator.modules()):
            if isinstance(m, nn.Conv2d | nn.Linear):
                spectral_norm(m)


def fitting(spec: ImageSpec, who: str) -> int:
    """The side of the images. Raises ConfigError where it is not one that these nets can make."""
    size = spec.height
    if spec.width != size or size & (size - 1) or not 8 <= size <= 256:
        raise ConfigError(
            f"Found images of {spec.height}x{spec.width}; {who} needs square images with a side of 8, 16, 32, 64, "
            f"128 or 256. Import the data at such a --size."
        )
    return size
