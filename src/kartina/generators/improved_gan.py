"""Improved GAN (Salimans 2016): five techniques, each a switch of its own, on DCGAN's nets.

    feature_matching           G minimises |E f(x) - E f(G(z))|^2, f being D's last hidden layer (section 3.1)
    minibatch_discrimination   D sees, beside f(x), how close x is to the others of its batch (section 3.2)
    historical_averaging       both players pay for leaving the mean of their past parameters (section 3.3)
    label_smoothing            D's target for real images is alpha = 0.9; for generated ones it stays 0 (section 3.4)
    virtual_batch_norm         G normalises each image by a fixed reference batch and the image itself (section 3.5)

All are on by default, alone and together in any combination; with all off this is DCGAN trained with the same recipe
(lazy R1, shifts, Adam), which is what benchmarks/ablation.py compares. MinibatchStd, which does what minibatch
discrimination does, is not there.

Departures. o(x) is divided by the number of other images, so that its weight does not depend on the batch size.
Historical averaging has a weight, because the paper's sum grows with the number of parameters. Feature matching says
nothing about classes, so the conditional form matches within each class (nets/losses.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import At, Batch, Loss
from kartina.nets.dcgan import Discriminator, DNorm, Generator, fitting, start
from kartina.nets.layers import MinibatchDiscrimination
from kartina.nets.losses import feature_matching
from kartina.nets.norm import ConditionalBatchNorm
from kartina.registry import register


class ImprovedGANConfig(AdversarialConfig):
    width: int = Field(64, ge=4, le=1024)  # channels at the full resolution's neighbour; doubles as the map halves
    width_max: int = Field(512, ge=4, le=4096)
    norm: DNorm = "none"  # in D
    feature_matching: bool = True
    minibatch_discrimination: bool = True
    kernels: int = Field(100, ge=1, le=1024)  # B, of minibatch discrimination
    kernel_dims: int = Field(5, ge=1, le=64)  # C
    historical_averaging: bool = True
    history_weight: float = Field(1e-3, gt=0, le=1e3)  # of |theta - mean|^2
    label_smoothing: bool = True
    alpha: float = Field(0.9, gt=0.5, le=1)  # D's target for real images
    virtual_batch_norm: bool = True
    reference: int = Field(64, ge=2, le=4096)  # images in the reference batch
    loss: Literal["minimax", "softplus"] = "softplus"  # the others have no target to smooth
    gamma: float = Field(0.3, ge=0, le=1e6)
    augment: Literal["none", "diffaugment", "ada"] = "diffaugment"
    translate: float = Field(0.06, ge=0, lt=1)
    cutout: float = Field(0.0, ge=0, lt=1)
    colour: float = Field(0.0, ge=0, le=1)


def smoothed_d_loss(real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """Cross-entropy of the logits N with target alpha for real images and 0 for generated ones (section 3.4).

    Smoothing the generated side too would leave, where only G puts images, an optimal D that rewards staying there.
    """
    return (alpha * F.softplus(-real) + (1 - alpha) * F.softplus(real)).mean() + F.softplus(fake).mean()


class MinibatchDiscriminator(Discriminator):
    """DCGAN's D with o(x) / (N - 1) concatenated to f(x): images N,C,H,W and label weights N,K -> logits N."""

    def __init__(self, config: ImprovedGANConfig, size: int, channels: int, labels: int):
        super().__init__(config.width, config.width_max, size, channels, labels, config.norm)
        features = self.head.in_features
        self.minibatch = MinibatchDiscrimination(features, config.kernels, config.kernel_dims)
        self.head = nn.Linear(features + config.kernels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        f = self.features(x)
        o = self.minibatch(f) / max(1, len(x) - 1)
        return self.projected(self.head(torch.cat([f, o.to(f.dtype)], dim=1)), f, y)


class VirtualBatchNorm(nn.Module):
    """Normalise each row by a reference batch and by the row itself (section 3.5): N,C,H,W -> N,C,H,W.

    In training the first n rows are the reference batch: it is normalised by its own mean and mean square, which are
    kept; every other row by a blend of those with its own, which weigh 1/(n+1). In evaluation all rows are other rows,
    and the kept statistics stand for the reference batch. No row depends on its neighbours.
    """

    mean: Tensor
    square: Tensor

    def __init__(self, channels: int, reference: int):
        super().__init__()
        self.n, self.eps = reference, 1e-5
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("square", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        mean, square = exact.mean(dim=[2, 3]), exact.square().mean(dim=[2, 3])  # N,C
        own = x.new_full((len(x), 1), 1 / (self.n + 1), dtype=torch.float32)
        reference = self.mean, self.square
        if self.training:
            own[: self.n] = 0
            reference = mean[: self.n].mean(dim=0), square[: self.n].mean(dim=0)
            self.mean.copy_(reference[0].detach())
            self.square.copy_(reference[1].detach())
        mean = torch.lerp(reference[0].expand_as(mean), mean, own)
        square = torch.lerp(reference[1].expand_as(square), square, own)
        scale = ((square - mean.square()).clamp(min=0) + self.eps).rsqrt()
        return torch.addcmul((-mean * scale)[:, :, None, None], exact, scale[:, :, None, None]).to(x.dtype)


class ReferenceGenerator(Generator):
    """DCGAN's G with virtual batch normalisation: z N,Z and label weights N,K -> images N,C,H,W in [-1, 1].

    The reference batch is n latents and their labels, fixed before training. While training it goes through the net
    with every batch (so its statistics are those of the current weights, and gradients flow through them); afterwards
    `settle` has kept the statistics, and sampling costs what it costs without.
    """

    reference_z: Tensor
    reference_y: Tensor

    def __init__(self, config: ImprovedGANConfig, size: int, channels: int, labels: Tensor):
        """`labels` n,K: label weights of the reference batch."""
        super().__init__(config.z, config.width, config.width_max, size, channels, labels.shape[1])
        for norm in self.norms:
            assert isinstance(norm, ConditionalBatchNorm)
            norm.register_module("bn", VirtualBatchNorm(norm.bn.num_features, len(labels)))
        self.register_buffer("reference_z", torch.randn(len(labels), config.z))
        self.register_buffer("reference_y", labels)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return super().forward(z, y)
        z, y = torch.cat([self.reference_z, z]), torch.cat([self.reference_y, y])
        return super().forward(z, y)[len(self.reference_z) :]

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the statistics of the reference batch under the present weights; leaves eval mode."""
        self.train()
        super().forward(self.reference_z, self.reference_y)
        self.eval()


# What presets for hours of a GPU share; D has BatchNorm as DCGAN's has, and nothing that the paper does not have.
HOURS: dict[str, Any] = dict(width_max=1024, norm="batch", gamma=0.0, augment="none")
HOURS_TRAIN: dict[str, Any] = dict(batch=64, lr=2e-4, ema=50_000)


@register("improved_gan")
class ImprovedGAN(AdversarialFamily):
    Config = ImprovedGANConfig
    config: ImprovedGANConfig
    presets: ClassVar[dict[str, Preset]] = {
        "improved-gan-32-cpu": Preset(
            32,
            "four of the five techniques on DCGAN's nets for minutes of CPU (feature matching is for features)",
            dict(width=64, width_max=256, feature_matching=False, reference=32),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
        "improved-gan-64-cpu": Preset(
            64,
            "the same at 64 px",
            dict(width=48, width_max=256, gamma=1.0, translate=0.125, feature_matching=False, reference=32),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
        "improved-gan-32": Preset(32, "all five techniques", dict(width=128, **HOURS), HOURS_TRAIN),
        "improved-gan-64": Preset(64, "all five techniques at 64 px", dict(width=128, **HOURS), HOURS_TRAIN),
        "improved-gan-128": Preset(128, "all five techniques at 128 px", dict(width=64, **HOURS), HOURS_TRAIN),
    }

    def __init__(self, config: ImprovedGANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        c, size, channels = config, fitting(spec, "Improved GAN"), spec.channels
        labels = self.classes if c.conditional else 0
        if c.virtual_batch_norm:
            each = self.condition(torch.eye(self.classes)[torch.arange(c.reference) % self.classes])
            self.generator: Generator = ReferenceGenerator(c, size, channels, each)
        else:
            self.generator = Generator(c.z, c.width, c.width_max, size, channels, self.classes)
        if c.minibatch_discrimination:
            self.discriminator: Discriminator = MinibatchDiscriminator(c, size, channels, labels)
        else:
            self.discriminator = Discriminator(c.width, c.width_max, size, channels, labels, c.norm)
        start(self.generator, self.discriminator, c.norm)
        if c.historical_averaging:  # per player: the mean of its past parameters, and of how many updates
            for player in ("D", "G"):
                self.register_buffer(f"history_{player}", torch.zeros_like(self.theta(player)))
                self.register_buffer(f"history_updates_{player}", torch.zeros(()))

    # -- training --------------------------------------------------------------------------------------------------

    def setup(self, data: Any, rng: torch.Generator) -> None:
        """Give the reference batch the labels of the data, by their frequency."""
        if isinstance(self.generator, ReferenceGenerator):
            reference = self.generator.reference_y
            reference.copy_(self.labels_like(data, len(reference), rng))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        found = super().loss(phase, batch, at)
        if not self.config.historical_averaging or phase == "penalty":
            return found
        away = self.history_square(phase)
        return Loss(found.total + self.config.history_weight * away, {**found.stats, f"away_{phase}": away.detach()})

    def d_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if not self.config.label_smoothing:
            return super().d_loss(real, fake)
        return smoothed_d_loss(real, fake, self.config.alpha)

    def g_loss(self, fake: Tensor, batch: Batch, y: Tensor, at: At) -> Tensor:
        if not self.config.feature_matching:
            return super().g_loss(fake, batch, y, at)
        with torch.no_grad():
            real = self.discriminator.features(self.augmented(batch.images, at))
        made = self.discriminator.features(self.augmented(fake, at))
        return feature_matching(real, made, y if self.config.conditional else None)

    def after(self, phase: str, stats: Mapping[str, Tensor], at: At) -> None:
        super().after(phase, stats, at)
        if self.config.historical_averaging and phase != "penalty":
            updates = self.get_buffer(f"history_updates_{phase}").add_(1)
            self.get_buffer(f"history_{phase}").lerp_(self.theta(phase).detach(), 1 / updates)

    def history_square(self, player: str) -> Tensor:
        """|theta - mean of past theta|^2 of a player, D or G; 0 before its first update (section 3.3)."""
        away = self.theta(player) - self.get_buffer(f"history_{player}")
        return away.square().sum() * (self.get_buffer(f"history_updates_{player}") > 0)

    def theta(self, player: str) -> Tensor:
        """A player's parameters in one vector."""
        params = self.d_params() if player == "D" else self.generator.parameters()
        return torch.cat([p.flatten() for p in params])

    # -- sampling --------------------------------------------------------------------------------------------------

    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        if isinstance(self.generator, ReferenceGenerator):
            self.generator.settle()
        else:
            super().settle(data, rng, share)
