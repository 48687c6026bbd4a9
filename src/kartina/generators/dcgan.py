"""DCGAN (Radford 2015), unconditional and class-conditional, with a recipe that does not collapse.

The nets are the paper's: no pooling and no hidden fully connected layer; strided convolutions in D, fractionally
strided in G; BatchNorm and ReLU in G with tanh out, LeakyReLU 0.2 in D; weights from N(0, 0.02); beta1 0.5. The depth
follows from the image size: z becomes a 4x4 map and doubles until it is the image.

Condition: G's BatchNorm takes gain and bias from the label; D scores by projection, D(x, y) = w.h + <e_y, h> (Miyato
2018). `conditional=false` is the paper's unconditional model.

Recipe (`loss`, `gamma`, `minibatch_std`, `translate`, `norm`): the paper's loss and BatchNorm in D drop modes of a
class within minutes. Here each generated image is paired with a real one of its class (relativistic pairing,
Jolicoeur-Martineau 2019; Huang 2024), with zero-centred gradient penalties on both sides, done lazily, no BatchNorm in
D, a standard deviation over the minibatch, and shifts by a few pixels before D (DiffAugment). The presets also depart
from the paper's batch of 128 and learning rate of 2e-4: within minutes the count of updates is what is scarce
(docs/LOG.md tells what was seen). `loss=softplus norm=batch gamma=0 minibatch_std=false augment=none batch=128 lr=2e-4`
is the paper's.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.nets.layers import MinibatchStd
from kartina.nets.losses import AdversarialLoss
from kartina.nets.norm import ConditionalBatchNorm, standing_statistics
from kartina.registry import register


class DCGANConfig(AdversarialConfig):
    width: int = Field(64, ge=4, le=1024)  # channels at the full resolution's neighbour; doubles as the map halves
    width_max: int = Field(512, ge=4, le=4096)
    norm: Literal["none", "batch", "spectral"] = "none"  # in D
    minibatch_std: bool = True
    loss: AdversarialLoss = "relativistic"
    gamma: float = Field(1.0, ge=0, le=1e6)
    augment: Literal["none", "diffaugment", "ada"] = "diffaugment"
    translate: float = Field(0.09, ge=0, lt=1)
    cutout: float = Field(0.0, ge=0, lt=1)
    colour: float = Field(0.0, ge=0, le=1)


class Generator(nn.Module):
    """z N,Z and label weights N,K -> images N,C,H,W in [-1, 1]."""

    def __init__(self, config: DCGANConfig, size: int, channels: int, labels: int):
        super().__init__()
        depth = int(math.log2(size)) - 2
        widths = [min(config.width_max, config.width * 2**i) for i in reversed(range(depth))]
        self.project = nn.ConvTranspose2d(config.z, widths[0], 4, bias=False)
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

    def __init__(self, config: DCGANConfig, size: int, channels: int, labels: int):
        super().__init__()
        depth = int(math.log2(size)) - 2
        widths = [min(config.width_max, config.width * 2**i) for i in range(depth)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(w) if config.norm == "batch" and i else nn.Identity() for i, w in enumerate(widths)
        )
        self.std = MinibatchStd() if config.minibatch_std else nn.Identity()
        last = widths[-1]
        self.join = nn.Conv2d(last + config.minibatch_std, last, 3, padding=1)
        self.head = nn.Linear(last * 16, 1)
        self.label = nn.Linear(labels, last * 16, bias=False) if config.conditional else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        h = F.leaky_relu(self.join(self.std(x)), 0.2).flatten(1)
        logit: Tensor = self.head(h).float().squeeze(1)
        if self.label is not None:
            logit = logit + (self.label(y).float() * h.float()).sum(dim=1)
        return logit


@register("dcgan")
class DCGAN(AdversarialFamily):
    Config = DCGANConfig
    presets: ClassVar = {
        "dcgan-32-cpu": Preset(
            32,
            "conditional DCGAN for minutes of CPU: relativistic pairing, lazy penalties, shifts",
            dict(width=64, width_max=256),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
        "dcgan-64-cpu": Preset(
            64,
            "conditional DCGAN at 64 px for minutes of CPU",
            dict(width=48, width_max=256, gamma=2.0),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
    }

    def __init__(self, config: DCGANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        size = spec.height
        if spec.width != size or size & (size - 1) or not 8 <= size <= 256:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; DCGAN needs square images with a side of 8, 16, 32, 64, "
                f"128 or 256. Import the data at such a --size."
            )
        self.generator = Generator(config, size, spec.channels, self.classes)
        self.discriminator = Discriminator(config, size, spec.channels, self.classes)
        gains = _gains(self)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and m not in gains:
                nn.init.normal_(m.weight, std=0.02)
        if config.norm == "spectral":  # Miyato 2018
            for m in list(self.discriminator.modules()):
                if isinstance(m, nn.Conv2d | nn.Linear):
                    nn.utils.parametrizations.spectral_norm(m)

    def settle(self, data: Any, rng: torch.Generator) -> None:
        def forward() -> None:
            z = torch.randn(64, self.config.z, generator=rng).to(self.device)
            self.generator(z, self.labels_like(data, 64, rng))

        standing_statistics(self.generator, forward)


def _gains(net: nn.Module) -> set[nn.Module]:
    """The linear maps of conditional BatchNorm, which keep their own initialisation."""
    return {m for cbn in net.modules() if isinstance(cbn, ConditionalBatchNorm) for m in (cbn.gain, cbn.bias)}
