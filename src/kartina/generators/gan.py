"""GAN (Goodfellow 2014) and Conditional GAN (Mirza & Osindero 2014): the same two perceptrons, without and with y.

Generator      z uniform on [0, 1]^100 and the one-hot label y each pass a hidden layer of their own (ReLU, 200 and 1000
               units), are joined in a hidden layer of 1200, and leave through a sigmoid, mapped to [-1, 1].
Discriminator  the image and y each pass a maxout layer of their own (240 and 50 units of 5 pieces), are joined in
               another (240 units of 4 pieces) and give one logit; dropout on the image and behind every maxout layer.

`gan` is the case without y: its branches are left out, and z's own layer takes their units (1200, as in 2014's
generator). The two families differ in the default of `conditional` alone. The value function is eq. 1 of 2014
(`loss=minimax`), or its form that does not saturate, which the paper recommends in practice (`loss=softplus`, the
default); `d_steps` is its k.

Departures. The papers train with momentum SGD for hundreds of epochs; within minutes only Adam gets there. Mirza &
Osindero also drop units of G; an image here is a function of its seed, so G has no dropout. The presets average the
weights (EMA), which takes the speckle out of a perceptron's images; the `-cpu` ones add a lazy R1 penalty (Mescheder
2018), without which classes lose their variety. `gamma=0` and `d_dropout=0.5 x_dropout=0.2` are the papers'.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import At
from kartina.registry import register

LARGEST = 2**16  # numbers in an image: a perceptron has `g_units` weights for each of them


class GANConfig(AdversarialConfig):
    conditional: bool = False
    g_z_units: int = Field(200, ge=1, le=16384)  # G: z's own hidden layer
    g_y_units: int = Field(1000, ge=1, le=16384)  # G: y's own hidden layer; z's too where there is no y
    g_units: int = Field(1200, ge=1, le=16384)  # G: every joined hidden layer
    g_layers: int = Field(1, ge=1, le=16)  # G: joined hidden layers
    d_x_units: int = Field(240, ge=1, le=16384)  # D: the image's own maxout layer
    d_y_units: int = Field(50, ge=1, le=16384)  # D: y's own maxout layer
    d_units: int = Field(240, ge=1, le=16384)  # D: the joined maxout layer
    pieces: int = Field(5, ge=1, le=64)  # D: linear pieces of a unit, in the own layers
    joined_pieces: int = Field(4, ge=1, le=64)  # D: the same in the joined layer
    x_dropout: float = Field(0.2, ge=0, lt=1)  # D: share of the image that is dropped
    d_dropout: float = Field(0.5, ge=0, lt=1)  # D: share of maxout units that are dropped


class CGANConfig(GANConfig):
    conditional: bool = True


class Generator(nn.Module):
    """z N,Z in [0, 1] and label weights N,K -> images N,C,H,W in [-1, 1]."""

    def __init__(self, config: GANConfig, shape: tuple[int, int, int], labels: int):
        super().__init__()
        c, self.shape = config, shape
        self.z = nn.Linear(c.z, c.g_z_units + (0 if labels else c.g_y_units))
        self.y = nn.Linear(labels, c.g_y_units) if labels else None
        widths = [c.g_z_units + c.g_y_units, *[c.g_units] * c.g_layers]
        self.joined = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(c.g_units, math.prod(shape))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.z(2 * z - 1)  # centred: a bias would learn the same, later
        if self.y is not None:
            h = torch.cat([h, self.y(y)], dim=1)
        h = F.relu(h)
        for layer in self.joined:
            h = F.relu(layer(h))
        image: Tensor = 2 * torch.sigmoid(self.out(h)) - 1
        return image.reshape(-1, *self.shape)


class Maxout(nn.Module):
    """Each unit is the largest of `pieces` linear functions (Goodfellow 2013): N,A -> N,units."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        """Unit u has the rows u*pieces, ..., u*pieces + pieces - 1 of the linear map."""
        h: Tensor = self.linear(x)
        return h.reshape(len(x), -1, self.pieces).amax(dim=2)


class Discriminator(nn.Module):
    """Images N,C,H,W in [-1, 1] and label weights N,K -> logits N."""

    def __init__(self, config: GANConfig, shape: tuple[int, int, int], labels: int):
        super().__init__()
        c = config
        self.x = Maxout(math.prod(shape), c.d_x_units, c.pieces)
        self.y = Maxout(labels, c.d_y_units, c.pieces) if labels else None
        self.joined = Maxout(c.d_x_units + (c.d_y_units if labels else 0), c.d_units, c.joined_pieces)
        self.out = nn.Linear(c.d_units, 1)
        self.drop_x, self.drop = nn.Dropout(c.x_dropout), nn.Dropout(c.d_dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.x(self.drop_x(x.flatten(1)))
        if self.y is not None:
            h = torch.cat([h, self.y(y)], dim=1)
        h = self.joined(self.drop(h))
        logit: Tensor = self.out(self.drop(h))
        return logit.float().squeeze(1)


# Minutes of CPU: fewer units and more updates than the papers'; D's layer for y is as wide as that for the image, so
# that D looks at the class from the first epoch on; and less dropout, because no image is seen often.
MINUTES: dict[str, Any] = dict(
    g_z_units=400, g_y_units=400, g_units=800, d_y_units=240, x_dropout=0.0, d_dropout=0.1, gamma=0.2
)
MINUTES_TRAIN: dict[str, Any] = dict(
    batch=32, lr=1e-3, ema=20_000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1
)
PAPER_TRAIN: dict[str, Any] = dict(batch=100, lr=2e-4, ema=50_000)  # Adam, where the papers have SGD with momentum


@register("gan")
class GAN(AdversarialFamily):
    Config: ClassVar[type[GANConfig]] = GANConfig
    config: GANConfig
    presets: ClassVar[dict[str, Preset]] = {
        "gan-32-cpu": Preset(32, "two perceptrons for minutes of CPU: no classes", MINUTES, MINUTES_TRAIN),
        "gan-32": Preset(32, "two perceptrons, as in 2014: no classes", {}, PAPER_TRAIN),
        "gan-64": Preset(64, "the same at 64 px", {}, PAPER_TRAIN),
        "gan-128": Preset(128, "the same at 128 px, where nearly all weights are in G's last layer", {}, PAPER_TRAIN),
    }

    def __init__(self, config: GANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        numbers = math.prod(spec.shape)
        if numbers > LARGEST:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}, {numbers:,} numbers each; a perceptron makes at most "
                f"{LARGEST:,}. Import the data at a smaller --size, or train a convolutional family."
            )
        labels = self.classes if config.conditional else 0
        self.generator = Generator(config, spec.shape, labels)
        self.discriminator = Discriminator(config, spec.shape, labels)

    def fake(self, y: Tensor, at: At) -> Tensor:
        images: Tensor = self.generator(at.rand(len(y), self.config.z), y)
        return images

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Sampling starts from normal z, as in every family; the normal CDF makes them the uniform that G knows."""
        return super().decode(torch.special.ndtr(z), y)


@register("cgan")
class CGAN(GAN):
    Config: ClassVar[type[GANConfig]] = CGANConfig
    presets: ClassVar[dict[str, Preset]] = {
        "cgan-32-cpu": Preset(32, "two perceptrons for minutes of CPU, given the class", MINUTES, MINUTES_TRAIN),
        "cgan-32": Preset(32, "two perceptrons, given the class, as in 2014", {}, PAPER_TRAIN),
        "cgan-64": Preset(64, "the same at 64 px", {}, PAPER_TRAIN),
        "cgan-128": Preset(128, "the same at 128 px, where nearly all weights are in G's last layer", {}, PAPER_TRAIN),
    }
