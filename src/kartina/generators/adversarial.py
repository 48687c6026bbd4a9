"""What every GAN shares: the two players' updates, the lazy gradient penalty, augmentation, and fading labels.

A family brings `generator` and `discriminator` and their presets. It may replace any of

    fake(y, at)         images from fresh latents
    score(x, y, at)     D's logits of augmented images
    d_loss(real, fake)  what D minimises, from those logits
    loss_D, loss_G, loss_penalty        what the phase of that name minimises

Switches that work for each of them: `loss`, `gamma` and `penalty_every` (R1, and R2 under the relativistic loss),
`augment` (DiffAugment, or ADA with its controller), `g_lr`, `beta1` and `beta2` (the optimiser), `transition` (start
unconditional, fade the label in: Shahbazi 2022) and `freeze_d` (keep D's first layers as they were transferred:
FreezeD, Mo 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kartina.augment.ada import ADA, Policy, Transform
from kartina.augment.diffaugment import colour, cutout, translate
from kartina.config import FamilyConfig, ImageSpec, TrainConfig
from kartina.errors import ConfigError
from kartina.generators.base import Adam, At, Batch, LatentFamily, Loss, Phase
from kartina.nets.losses import AdversarialLoss, d_loss, g_loss, gradient_square
from kartina.nets.norm import standing_statistics

REHEARSED = 0.5  # ADA's p while a step is timed


class AdversarialConfig(FamilyConfig):
    """Settings that every GAN has; a family may change the defaults."""

    z: int = Field(100, ge=1, le=4096)  # latent dimensions
    conditional: bool = True
    loss: AdversarialLoss = "softplus"
    gamma: float = Field(0.0, ge=0, le=1e6)  # weight of the gradient penalty; 0 = none
    penalty_every: int = Field(8, ge=1, le=1000)  # steps between penalties (lazy regularisation)
    d_steps: int = Field(1, ge=1, le=16)  # D updates per G update, each on fresh images
    g_lr: float = Field(1.0, gt=0, le=100)  # G's learning rate over D's (Heusel 2017)
    beta1: float = Field(0.5, ge=0, lt=1)  # Adam's
    beta2: float = Field(0.99, ge=0, lt=1)
    augment: Literal["none", "diffaugment", "ada"] = "none"  # before D, real and generated alike
    translate: float = Field(0.125, ge=0, lt=1)  # DiffAugment: shifts, as a share of the side
    cutout: float = Field(0.5, ge=0, lt=1)  # DiffAugment: a grey square, as a share of the side
    colour: float = Field(1.0, ge=0, le=1)  # DiffAugment: brightness, saturation and contrast
    ada_target: float = Field(0.6, ge=-1, le=1)  # ADA: p rises while E sign D(real) is above this
    ada_images: int = Field(0, ge=0, le=10**12)  # ADA: images in which p may rise by 1; 0 = min(500k, budget / 10)
    ada_policy: Policy | Annotated[tuple[Transform, ...], Field(min_length=1)] = "bgc"  # ADA: which transforms
    transition: tuple[float, float] = (0.0, 0.0)  # shares of the budget between which the label fades in
    freeze_d: int = Field(0, ge=0, le=100)  # layers of D, from the image on, that are not trained


class AdversarialFamily(LatentFamily):
    """Base of GANs: a `generator` (z N,Z and label weights N,K -> images) and a `discriminator` (images, label weights
    -> logits N)."""

    config: AdversarialConfig
    generator: nn.Module
    discriminator: nn.Module
    rehearsing = False

    def __init__(self, config: AdversarialConfig, spec: ImageSpec):
        super().__init__(config, spec)
        start, stop = config.transition
        if not 0 <= start <= stop <= 1:
            raise ConfigError(
                f"Found transition={start},{stop}; expected two shares of the budget, the first not later."
            )
        if config.augment == "ada":
            self.ada = ADA(spec.channels, config.ada_policy)

    # -- updates ---------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        d, g = self.d_params(), list(self.generator.parameters())
        every = self.config.penalty_every
        lazy = [Phase("penalty", d, opt="D", every=every)] if self.config.gamma and every > 1 else []
        return [Phase("D", d, opt="D", repeat=self.config.d_steps), *lazy, Phase("G", g, opt="G")]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(lr=self.config.g_lr if opt == "G" else 1.0, betas=(self.config.beta1, self.config.beta2))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        found: Loss = getattr(self, f"loss_{phase}")(batch, self.label(batch, at), at)
        return found

    def loss_D(self, batch: Batch, y: Tensor, at: At) -> Loss:
        with torch.no_grad():
            fake = self.fake(y, at)
        real_logit, fake_logit = self.score(batch.images, y, at), self.score(fake, y, at)
        total = self.d_loss(real_logit, fake_logit)
        # Only the difference means something to the relativistic loss: its logits have no zero.
        margin = real_logit - fake_logit if self.config.loss == "relativistic" else real_logit
        stats = {"loss_D": total, "real": real_logit, "fake": fake_logit, "sign_real": margin.sign()}
        if self.config.augment == "ada":
            stats["ada_p"] = self.ada.p
        if self.config.gamma and self.config.penalty_every == 1:
            extra = self.loss_penalty(batch, y, at)
            total, stats = total + extra.total, {**stats, **extra.stats}
        return Loss(total, {k: v.detach().mean() for k, v in stats.items()})

    def loss_G(self, batch: Batch, y: Tensor, at: At) -> Loss:
        total = self.g_loss(self.fake(y, at), batch, y, at)
        return Loss(total, {"loss_G": total.detach()})

    def loss_penalty(self, batch: Batch, y: Tensor, at: At) -> Loss:
        """gamma/2 E|grad D|^2 on real images, and on generated ones under the relativistic loss (Huang 2024), x the
        updates of D between two, in fp32; the gradient is that with respect to the images before augmentation (Karras
        2020). `clip` bounds this update's gradient too: above it, more gamma is no longer more."""
        both = self.config.loss == "relativistic"
        with torch.autocast(batch.images.device.type, enabled=False):
            images = batch.images
            if both:
                with torch.no_grad():
                    images = torch.cat([images, self.fake(y, at).float()])
            images = images.detach().requires_grad_(True)
            # Real and generated go in separately: the minibatch statistic must not see both.
            logits = torch.cat([self.score(part, y, at) for part in torch.split(images, len(batch))])
            square = gradient_square(logits, images).mean() * (2 if both else 1)
        every = self.config.penalty_every
        updates = every * self.config.d_steps if every > 1 else 1
        weight = self.penalty_weight(len(batch)) / 2 * updates
        return Loss(weight * square, {"penalty": square.detach()})

    def penalty_weight(self, n: int) -> float:
        """gamma for a batch of n images: a family may set it from the batch where the config leaves it open."""
        return self.config.gamma

    def after(self, phase: str, stats: Mapping[str, Tensor], at: At) -> None:
        if phase == "D" and self.config.augment == "ada" and not self.rehearsing:
            self.adapt(stats, at)

    def adapt(self, stats: Mapping[str, Tensor], at: At) -> None:
        """Move ADA's p after an update of D."""
        images = self.config.ada_images or min(500_000, at.total / 10)
        self.ada.observe(stats["sign_real"], at.images, self.config.ada_target, images)

    def rehearse(self) -> None:
        """ADA transforms nothing at first, and takes a third of a step's time more as soon as it does."""
        self.rehearsing = True
        if self.config.augment == "ada":
            self.ada.p.fill_(REHEARSED)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def fake(self, y: Tensor, at: At) -> Tensor:
        """Images N,C,H,W for the label weights y N,K, from fresh latents."""
        images: Tensor = self.generator(at.randn(len(y), self.config.z), y)
        return images

    def score(self, images: Tensor, y: Tensor, at: At) -> Tensor:
        """D's logits of augmented images: float32 N."""
        logits: Tensor = self.discriminator(self.augmented(images, at), y)
        return logits

    def d_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What D minimises, from its logits N for real and generated images."""
        return d_loss(self.config.loss, real, fake)

    def g_loss(self, fake: Tensor, batch: Batch, y: Tensor, at: At) -> Tensor:
        """What G minimises to make D take its images for real ones."""
        fake_logit = self.score(fake, y, at)
        real_logit = self.score(batch.images, y, at) if self.config.loss == "relativistic" else None
        return g_loss(self.config.loss, fake_logit, real_logit)

    def augmented(self, images: Tensor, at: At) -> Tensor:
        """Images as D sees them: each with its own random, differentiable transform."""
        c = self.config
        if c.augment == "ada":
            seen: Tensor = self.ada(images, at.rng)
            return seen
        if c.augment == "diffaugment":
            images = colour(images, c.colour, at.rng) if c.colour else images
            images = cutout(translate(images, c.translate, at.rng), c.cutout, at.rng)
        return images

    def label(self, batch: Batch, at: At) -> Tensor:
        """Label weights N,K of the batch: all classes alike before `transition`, one-hot after it."""
        y = self.condition(self.one_hot(batch.labels))
        start, stop = self.config.transition
        if stop == 0:
            return y
        shown = min(1.0, max(0.0, (at.fraction - start) / max(stop - start, 1e-9)))
        return torch.lerp(torch.full_like(y, 1 / self.classes), y, shown)

    def d_layers(self) -> Sequence[nn.Module]:
        """D's layers from the image on, those without parameters left out: what `freeze_d` counts. A network whose
        parts stand in another order, or several of which are one layer, says so by `first_layers`."""
        say: Callable[[], list[nn.Module]] = getattr(self.discriminator, "first_layers", list)
        first = say()
        told = {id(m) for layer in first for m in layer.modules()}
        children = list(self.discriminator.children())
        rest = (m for child in children for m in (child if isinstance(child, nn.ModuleList) else [child]))
        layers = [*first, *(layer for layer in rest if id(layer) not in told)]
        return [layer for layer in layers if next(layer.parameters(), None) is not None]

    def d_params(self) -> list[nn.Parameter]:
        """What trains in D: all but the first `freeze_d` layers."""
        layers = self.d_layers()
        if self.config.freeze_d and self.config.freeze_d >= len(layers):
            raise ConfigError(
                f"Found freeze_d={self.config.freeze_d}; this discriminator has {len(layers)} layers, and one at least "
                f"has to learn."
            )
        frozen = {id(p) for layer in layers[: self.config.freeze_d] for p in layer.parameters()}
        return [p for p in self.discriminator.parameters() if id(p) not in frozen]

    # -- sampling --------------------------------------------------------------------------------------------------

    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        """Gather what G's BatchNorms, if it has any, will use: statistics of the averaged weights."""

        def forward() -> None:
            z = torch.randn(64, self.config.z, generator=rng).to(self.device)
            self.generator(z, self.labels_like(data, 64, rng, share))

        standing_statistics(self.generator, forward)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        images: Tensor = self.generator(z, y).float()
        return images

    def labels_like(self, data: Any, n: int, rng: torch.Generator, share: Tensor | None = None) -> Tensor:
        """Label weights N,K drawn as training drew them: for statistics gathered when a model settles."""
        if share is None:
            share = torch.from_numpy(data.counts()).float() if self.spec.classes else torch.ones(1)
        picked = torch.multinomial(share, n, replacement=True, generator=rng)
        return self.condition(self.one_hot(picked)).to(self.device)
