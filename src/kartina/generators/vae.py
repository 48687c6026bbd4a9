"""Conditional VAE (Kingma & Welling 2014; Sohn 2015): one encoder, one decoder, the label in both.

Loss: the negative ELBO, summed over pixels and latents, averaged over the batch,

    -ELBO = E_q[ -log p(x | z, y) ] + beta * KL( q(z | x, y) || p(z | y) ).

p(z | y) is a diagonal Gaussian learned for each class (Sohn 2015, eq. 4), or N(0, I) for all with `prior=standard`. The
learned one draws recognisable classes many times sooner: with a shared prior the latent first learns the class, and
takes long to unlearn it (docs/LOG.md).

p(x | z, y) is a Gaussian whose one standard deviation is learned (sigma-VAE, Rybkin 2021), so that reconstruction and
KL find their own balance; `beta` and `sigma_min` lean on it. Sampling decodes z ~ p(z | y) and shows the mean, which
is why images are soft: what the latent does not carry is averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import FamilyConfig, ImageSpec, Preset, TrainConfig
from kartina.errors import ConfigError
from kartina.generators.base import Adam, At, Batch, LatentFamily, Loss, Phase
from kartina.nets.layers import upsample2, zero
from kartina.nets.norm import group_norm
from kartina.registry import register

# Adam moves a parameter by about lr an update, whatever its scale. The noise level and the priors must travel whole
# units within some hundred updates, so they are stored divided by this (an equalised learning rate).
LEVER = 10.0


class VAEConfig(FamilyConfig):
    z: int = Field(64, ge=1, le=4096)  # latent dimensions
    width: int = Field(64, ge=8, le=1024)  # channels at the finest level; doubles as the map halves
    width_max: int = Field(256, ge=8, le=4096)
    levels: int = Field(3, ge=1, le=7)  # maps: 1/stem of the image, then halves
    stem: int = Field(2, ge=1, le=8)  # pixel-unshuffle factor
    blocks: int = Field(1, ge=1, le=8)  # residual blocks a level
    conditional: bool = True
    prior: Literal["learned", "standard"] = "learned"  # p(z | y): a Gaussian a class, or N(0, I)
    beta: float = Field(1.0, ge=0, le=1e6)  # weight of the KL term
    beta_warmup: float = Field(0.1, ge=0, le=1)  # share of the budget over which beta rises from 0
    sigma_min: float = Field(0.05, gt=0, le=10)  # the learned sigma stays above (images span 2)


class Block(nn.Module):
    """Residual pair of convolutions with an additive label: N,C,H,W and N,K -> N,C,H,W."""

    def __init__(self, channels: int, labels: int):
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.label = nn.Linear(labels, channels, bias=False)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.label(y)[:, :, None, None]
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class Encoder(nn.Module):
    """Images N,C,H,W and label weights N,K -> mean and log-variance of q(z | x, y), each N,Z."""

    def __init__(self, config: VAEConfig, spec: ImageSpec, labels: int, widths: Sequence[int]):
        super().__init__()
        self.stem = config.stem
        self.inp = nn.Conv2d(spec.channels * config.stem**2, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for i, w in enumerate(widths):
            if i:
                self.blocks.append(nn.Conv2d(widths[i - 1], w, 3, stride=2, padding=1))
            self.blocks.extend(Block(w, labels) for _ in range(config.blocks))
        self.out = nn.Linear(widths[-1] * _cells(config, spec), 2 * config.z)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inp(F.pixel_unshuffle(x, self.stem))
        for block in self.blocks:
            h = block(h, y) if isinstance(block, Block) else block(h)
        mean, logvar = self.out(F.silu(h).flatten(1)).float().chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)


class Decoder(nn.Module):
    """z N,Z and label weights N,K -> mean image N,C,H,W in [-1, 1]."""

    def __init__(self, config: VAEConfig, spec: ImageSpec, labels: int, widths: Sequence[int]):
        super().__init__()
        fold = config.stem * 2 ** (config.levels - 1)
        self.shape = (widths[-1], spec.height // fold, spec.width // fold)
        self.inp = nn.Linear(config.z + labels, math.prod(self.shape))
        self.blocks = nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            self.blocks.extend(Block(w, labels) for _ in range(config.blocks + 1))
            if i:
                self.blocks.append(nn.Conv2d(w, widths[i - 1], 3, padding=1))
        self.unfold = nn.Conv2d(widths[0], 16 * config.stem**2, 3, padding=1)
        self.stem = config.stem
        self.last = nn.Conv2d(16, spec.channels, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.inp(torch.cat([z, y], dim=1)).reshape(-1, *self.shape)
        for block in self.blocks:
            h = block(h, y) if isinstance(block, Block) else block(upsample2(h))
        h = F.pixel_shuffle(self.unfold(F.silu(h)), self.stem)
        mean: Tensor = self.last(F.silu(h)).float().tanh()
        return mean


class Prior(nn.Module):
    """Label weights N,K -> mean and log-variance of p(z | y), each N,Z; zeros (the standard normal) unless learned."""

    def __init__(self, labels: int, z: int, learned: bool):
        super().__init__()
        table = torch.zeros(labels, 2 * z)
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = (LEVER * (y @ self.table)).float().chunk(2, dim=1)
        return mean, logvar.clamp(-6, 6)


def _cells(config: VAEConfig, spec: ImageSpec) -> int:
    fold = config.stem * int(2 ** (config.levels - 1))
    return (spec.height // fold) * (spec.width // fold)


@register("vae")
class VAE(LatentFamily):
    Config = VAEConfig
    parts: ClassVar = ("encoder", "decoder", "prior")
    presets: ClassVar = {
        "vae-32-cpu": Preset(
            32,
            "conditional VAE for minutes of CPU: fast, varied, soft",
            dict(z=32, width=64, width_max=192, beta=3.0),
            dict(batch=32, lr=1e-3, warmup=500, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000),
        ),
        "vae-64-cpu": Preset(
            64,
            "conditional VAE at 64 px for minutes of CPU",
            dict(z=64, width=32, width_max=192, levels=4, beta=3.0),
            dict(batch=32, lr=1e-3, warmup=500, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000),
        ),
    }

    def __init__(self, config: VAEConfig, spec: ImageSpec):
        super().__init__(config, spec)
        fold = config.stem * 2 ** (config.levels - 1)
        if spec.height % fold or spec.width % fold:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; this VAE needs both sides to be multiples of {fold} "
                f"(stem {config.stem}, {config.levels} levels). Import the data at another --size, or set levels."
            )
        widths = [min(config.width_max, config.width * 2**i) for i in range(config.levels)]
        self.encoder = Encoder(config, spec, self.classes, widths)
        self.decoder = Decoder(config, spec, self.classes, widths)
        self.prior = Prior(self.classes, config.z, config.prior == "learned")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(0.25) / LEVER))

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return [Phase("elbo", list(self.parameters()))]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(betas=(0.9, 0.99))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        y = self.condition(self.one_hot(batch.labels))
        mean, logvar = self.encoder(batch.images, y)
        z = mean + (0.5 * logvar).exp() * at.randn(*mean.shape)
        recon = self.decoder(z, y)

        # -log N(x; recon, sigma^2), summed over pixels.
        sigma = self.config.sigma_min + (LEVER * self.log_sigma).exp()
        nll = 0.5 * ((batch.images - recon) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)
        nll = nll.sum(dim=[1, 2, 3]).mean()
        kl = kl_normal(mean, logvar, *self.prior(y)).sum(dim=1).mean()

        rise = 1.0 if not self.config.beta_warmup else min(1.0, at.fraction / self.config.beta_warmup)
        stats = {"elbo": -(nll + kl).detach(), "nll": nll.detach(), "kl": kl.detach(), "sigma": sigma.detach()}
        return Loss(nll + self.config.beta * rise * kl, stats)

    # -- sampling ------------------------------------------------------------------------------------------------

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        mean, logvar = self.prior(y)
        images: Tensor = self.decoder(mean + (0.5 * logvar).exp() * z, y)
        return images


def kl_normal(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL( N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar)) ), elementwise."""
    apart = (mean - prior_mean).square()
    return 0.5 * ((apart + logvar.exp()) / prior_logvar.exp() - 1 - logvar + prior_logvar)
