"""R3GAN (Huang 2024, arXiv 2501.05441): a well-behaved loss, and plain modern residual nets instead of tricks.

Loss. Each generated image is compared with a real one of its class, softplus(D(G) - D(x)) (relativistic pairing), with
zero-centred gradient penalties on both sides, gamma/2 (E|grad D(x)|^2 + E|grad D(G)|^2) (R1 and R2), in every D step:
with both it converges locally (section 2) and needs neither minibatch statistics nor style mixing nor a mapping net.

Nets. G starts from a learned 4x4 basis, each channel scaled by a linear map of (z, embedded label); then stages of
residual blocks, each stage at twice the size. D is the mirror: its last map is read by a 4x4 filter a channel, then
linearly; the label enters by projection on its own embedding. A block is 1x1 (to `expansion` times the channels) -
grouped 3x3 - 1x1 with leaky ReLU 0.2 and without normalisation. Between stages [1, 2, 1] resampling, and a 1x1 where
the channels change, on the smaller map. No tanh.

Initialisation, in place of normalisation (Fixup, Zhang 2019): a net of L blocks with m = 3 layers each, whose branches
all learn at the output's rate, changes its output by O(lr) an update, whatever L, if the layers inside the branches
start L^(-1/(2m-2)) = L^(-1/4) times smaller than He's, and the last layer of each at 0.

Schedules: gamma falls and ADA's p rises by a cosine over the first `ramp` of the run; p is not adapted. Published, over
the first 20M of 250M images: lr 2e-4 to 5e-5, beta2 0.9 to 0.99, gamma 0.05 to 0.005, p 0 to 0.55, EMA 0 to 5M images.
Departures: beta2 stays at its last value; lr falls, and the EMA's half-life rises, over the whole run, as TrainConfig
says. D's label embeddings start around a common one: what all classes share is then learned once, and D leaves its
first plateau sooner. The *-cpu presets penalise lazily, every few steps (Karras 2020): in float32 and twice
differentiated, penalties cost several times the rest of a D step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import At, Batch, Loss
from kartina.nets.layers import zero
from kartina.nets.losses import AdversarialLoss
from kartina.nets.resample import downsample, upsample
from kartina.registry import register

TAPS = (1.0, 2.0, 1.0)
SLOPE = 0.2  # of leaky ReLU

# What *-cpu presets share: shifts by a few pixels alone; a rate that falls in the second half. Their label embedding
# has a quarter of z's dimensions: where both are as long, G looks at the label first, and a class comes out all alike.
SMALL: dict[str, Any] = {
    "width_max": 256, "embed": 16, "blocks": 1, "penalty_every": 8, "g_lr": 0.5,
    "augment": "diffaugment", "translate": 0.09, "cutout": 0.0, "colour": 0.0,
}  # fmt: skip
MINUTES: dict[str, Any] = {
    "batch": 16,
    "lr": 3e-3,
    "warmup": 1500,
    "clip": 1.0,
    "decay": "linear",
    "decay_from": 0.5,
    "decay_to": 0.1,
    "ema": 5000,
}
HOURS = {"decay": "cosine", "decay_to": 0.25, "ema": 500_000}


class R3GANConfig(AdversarialConfig):
    z: int = Field(64, ge=1, le=4096)  # latent dimensions
    embed: int = Field(64, ge=1, le=4096)  # dimensions of the label's embedding, in G and in D
    width: int = Field(96, ge=8, le=4096)  # channels at the full resolution; doubles as the map halves
    width_max: int = Field(768, ge=8, le=4096)
    blocks: int = Field(2, ge=1, le=16)  # residual blocks a stage
    expansion: int = Field(2, ge=1, le=8)  # of the channels inside a block
    group: int = Field(16, ge=1, le=4096)  # channels a group of the 3x3 convolutions
    loss: AdversarialLoss = "relativistic"
    gamma: float = Field(0.05, ge=0, le=1e6)  # at the start
    gamma_to: float = Field(0.005, ge=0, le=1e6)  # after `ramp`
    penalty_every: int = Field(1, ge=1, le=1000)
    augment: Literal["none", "diffaugment", "ada"] = "none"
    ada_p: float = Field(0.55, ge=0, le=1)  # p of ADA after `ramp`; 0 before the run
    ramp: float = Field(1.0, gt=0, le=1)  # share of the run over which gamma and p move
    beta1: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _scheduled(self) -> R3GANConfig:
        fields = type(self).model_fields
        set = {name for name in ("ada_target", "ada_images", "gamma_to") if getattr(self, name) != fields[name].default}
        if set - {"gamma_to"}:
            raise ValueError(f"found {' and '.join(sorted(set - {'gamma_to'}))}; p follows a schedule: ada_p and ramp")
        if self.gamma == 0 < self.gamma_to and "gamma_to" in set:
            raise ValueError(
                f"found gamma_to={self.gamma_to:g} and gamma=0, which is no penalty; set both to 0, or neither"
            )
        return self


class Block(nn.Module):
    """Residual block: N,C,H,W -> the same. `scale` is L^(-1/4)."""

    def __init__(self, channels: int, expansion: int, group: int, scale: float):
        super().__init__()
        inner = channels * expansion
        self.conv1 = he(nn.Conv2d(channels, inner, 1), scale)
        self.conv2 = he(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // math.gcd(inner, group)), scale)
        self.conv3 = zero(nn.Conv2d(inner, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(x), SLOPE)
        h = F.leaky_relu(self.conv2(h), SLOPE)
        out: Tensor = x + self.conv3(h)
        return out


def he(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Module:
    """He's initialisation for a layer that leaky ReLU follows, times `scale`; the bias at 0."""
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    layer.weight.data.mul_(scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def linear(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Initialise a layer that keeps the variance, as nothing nonlinear follows."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer


def residual(channels: int, config: R3GANConfig, stages: int) -> list[nn.Module]:
    """The blocks of one stage in a net that has `stages` of them."""
    scale = (config.blocks * stages) ** -0.25
    return [Block(channels, config.expansion, config.group, scale) for _ in range(config.blocks)]


def match(cin: int, cout: int) -> list[nn.Module]:
    """A 1x1 convolution where the channels change."""
    return [linear(nn.Conv2d(cin, cout, 1, bias=False))] if cin != cout else []


class Generator(nn.Module):
    """z N,Z and label weights N,K -> images N,C,H,W, [-1, 1] where they are as they should be."""

    def __init__(self, config: R3GANConfig, widths: Sequence[int], channels: int, labels: int):
        super().__init__()
        widths = list(reversed(widths))  # 4x4 first
        self.label = nn.Linear(labels, config.embed, bias=False)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.modulate = linear(nn.Linear(config.z + config.embed, widths[0], bias=False))
        stages = [residual(w, config, len(widths)) for w in widths]
        for narrowed, (a, b) in zip(stages, pairwise(widths), strict=False):
            narrowed.extend(match(a, b))
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        self.last = linear(nn.Conv2d(widths[-1], channels, 1, bias=False))
        nn.init.normal_(self.label.weight)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        label = self.label(y)
        scale = self.modulate(torch.cat([z.to(label.dtype), label], dim=1))
        x = self.stages[0](self.basis.to(scale.dtype) * scale[:, :, None, None])
        for stage in list(self.stages)[1:]:
            x = stage(upsample(x, TAPS))
        image: Tensor = self.last(x)
        return image


class Discriminator(nn.Module):
    """Images N,C,H,W in [-1, 1] and label weights N,K -> logits N."""

    def __init__(self, config: R3GANConfig, widths: Sequence[int], channels: int, labels: int):
        super().__init__()
        embed = config.embed if config.conditional else 1
        self.first = linear(nn.Conv2d(channels, widths[0], 1, bias=False))
        stages = [residual(w, config, len(widths)) for w in widths]
        for widened, (a, b) in zip(stages[1:], pairwise(widths), strict=True):
            widened[:0] = match(a, b)
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        self.basis = nn.Parameter(torch.randn(widths[-1], 4, 4) / 4)  # a sum over 16 keeps its variance
        self.head = linear(nn.Linear(widths[-1], embed, bias=False))
        self.label = nn.Linear(labels, embed, bias=False) if config.conditional else None
        if self.label is not None:
            std = (2 * embed) ** -0.5  # half of each embedding's variance is common to all
            nn.init.normal_(self.label.weight, std=std)
            self.label.weight.data += torch.randn(embed, 1) * std

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.stages[0](self.first(x))
        for stage in list(self.stages)[1:]:
            x = stage(downsample(x, TAPS))
        h: Tensor = self.head((x * self.basis.to(x.dtype)).sum(dim=(2, 3))).float()
        return h.squeeze(1) if self.label is None else (h * self.label(y).float()).sum(dim=1)


@register("r3gan")
class R3GAN(AdversarialFamily):
    Config = R3GANConfig
    config: R3GANConfig
    presets: ClassVar = {
        "r3gan-32-cpu": Preset(
            32,
            "R3GAN for minutes of CPU: lazy penalties, shifts",
            dict(width=32, gamma=1.0, gamma_to=0.5, **SMALL),
            MINUTES,
        ),
        "r3gan-64-cpu": Preset(
            64,
            "R3GAN at 64 px for minutes of CPU",
            dict(width=16, gamma=4.0, gamma_to=2.0, **SMALL),
            MINUTES,
        ),
        "r3gan-32": Preset(
            32,
            "R3GAN as for CIFAR-10, at half the paper's width of 768 and half its batch of 512",
            dict(width=384, width_max=384, augment="ada"),
            dict(batch=256, lr=2e-4, **HOURS),
        ),
        "r3gan-64": Preset(
            64,
            "R3GAN at 64 px",
            dict(width=192, gamma=1.0, gamma_to=0.1, augment="ada"),
            dict(batch=256, lr=2e-4, **HOURS),
        ),
        "r3gan-128": Preset(
            128,
            "R3GAN at 128 px",
            dict(gamma=10.0, gamma_to=1.0, augment="ada"),
            dict(batch=128, lr=2e-4, **HOURS),
        ),
    }

    def __init__(self, config: R3GANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        size = spec.height
        if spec.width != size or size & (size - 1) or not 8 <= size <= 256:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; R3GAN needs square images with a side that is a power of "
                f"two from 8 to 256. Import the data at such a --size."
            )
        widths = [min(config.width_max, config.width * 2**i) for i in range(int(math.log2(size)) - 1)]
        self.generator = Generator(config, widths, spec.channels, self.classes)
        self.discriminator = Discriminator(config, widths, spec.channels, self.classes)

    def loss_penalty(self, batch: Batch, y: Tensor, at: At) -> Loss:
        """The base's, whose weight is the first gamma, at the present gamma."""
        loss = super().loss_penalty(batch, y, at)
        gamma = self.scheduled(self.config.gamma, self.config.gamma_to, at)
        return Loss(loss.total * (gamma / self.config.gamma), {**loss.stats, "gamma": torch.tensor(gamma)})

    def adapt(self, stats: Mapping[str, Tensor], at: At) -> None:
        self.ada.p.fill_(self.scheduled(0.0, self.config.ada_p, at))

    def scheduled(self, first: float, last: float, at: At) -> float:
        """From `first` to `last` by half a cosine, over the first `ramp` of the run."""
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, at.fraction / self.config.ramp)))
