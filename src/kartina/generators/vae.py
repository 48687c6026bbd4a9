"""Conditional VAE (Kingma & Welling 2014; Sohn 2015): one encoder, one decoder, the label in both.

Loss: the negative ELBO, summed over pixels and latents, averaged over the batch,

    -ELBO = E_q[ -log p(x | z, y) ] + beta * KL( q(z | x, y) || p(z | y) ).

p(z | y) is a diagonal Gaussian learned for each class (Sohn 2015, eq. 4), or N(0, I) for all with `prior=standard`. The
learned one draws recognisable classes many times sooner: with a shared prior the latent first learns the class, and
takes long to unlearn it (docs/LOG.md). The original without classes is `conditional=false prior=standard`.

p(x | z, y) is one of three likelihoods:

- gaussian, whose one standard deviation is learned (sigma-VAE, Rybkin 2021), so that reconstruction and KL find their
  own balance; `beta` and `sigma_min` lean on it;
- bernoulli on pixels in [0, 1] (Kingma & Welling 2014, appendix C.1): the cross-entropy, a likelihood only of pixels
  that are 0 or 1;
- logistic, discretised over the 256 levels, the bins at both ends open (Kingma 2016; Salimans 2017, eq. 2), its mean
  and scale decoded for each pixel. It is the only one that gives a level a probability, so only it has bits per
  dimension.

Against a latent that carries nothing: `beta` rises from 0, once or in cycles (Fu 2019), and each latent's KL is charged
with at least `free_bits`, so that it gains nothing by carrying less (Kingma 2016).

Sampling decodes z and shows the mean: images are soft, because what the latent does not carry is averaged away. z comes
from one of

- prior: p(z | y), which has mass where no training image of the class lies;
- fitted: a few Gaussians of full covariance, fitted after training to latents of training images of the class (Ghosh
  2020, section 4: "ex-post density estimation"). The default where the model has them: sandals and boots that the prior
  draws as blobs are right (docs/LOG.md);
- posterior: the mixture of the posteriors q(z | x, y) of some training images of the class. It lies where the decoder
  learned to decode, and many of its images are near copies of training images.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, create_model
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import FamilyConfig, ImageSpec, Preset, TrainConfig
from kartina.errors import ConfigError
from kartina.generators.base import (
    Adam,
    At,
    Batch,
    Capability,
    Controls,
    Family,
    LatentControls,
    LatentFamily,
    Loss,
    Output,
    Phase,
    Row,
    State,
    from_uint8,
    going,
    noise,
)
from kartina.nets.layers import upsample2, zero
from kartina.nets.norm import group_norm
from kartina.registry import register

# Adam moves a parameter by about lr an update, whatever its scale. The noise level and the priors must travel whole
# units within some hundred updates, so they are stored divided by this (an equalised learning rate).
LEVER = 10.0

MIXTURE = 4096  # components of all posterior mixtures together, at most
FITTED = 2**20  # entries of all fitted covariances together, at most
IMAGES = 512  # of a class, that its Gaussians are fitted to
DRAWS = 2048  # latents of these images, at least
ENCODED = 256  # images that `settle` encodes at once
HALF_BIN = 1 / 255  # half the distance of two of the 256 levels in [-1, 1]


class VAEConfig(FamilyConfig):
    z: int = Field(64, ge=1, le=4096)  # latent dimensions
    width: int = Field(64, ge=8, le=1024)  # channels at the finest level; doubles as the map halves
    width_max: int = Field(256, ge=8, le=4096)
    levels: int = Field(3, ge=1, le=7)  # maps: 1/stem of the image, then halves
    stem: int = Field(2, ge=1, le=8)  # pixel-unshuffle factor
    blocks: int = Field(1, ge=1, le=8)  # residual blocks a level
    conditional: bool = True
    prior: Literal["learned", "standard"] = "learned"  # p(z | y): a Gaussian a class, or N(0, I)
    likelihood: Literal["gaussian", "bernoulli", "logistic"] = "gaussian"  # p(x | z, y)
    beta: float = Field(1.0, ge=0, le=1e6)  # weight of the KL term
    beta_warmup: float = Field(0.1, ge=0, le=1)  # share of a cycle over which beta rises from 0
    beta_cycles: int = Field(
        1, ge=1, le=1000
    )  # cycles in the budget: 1 is the linear warm-up (Fu 2019: 4, half rising)
    free_bits: float = Field(
        0.0, ge=0, le=100
    )  # nats that each latent's KL, a mean over the batch, is charged with at least
    sigma_min: float = Field(0.05, gt=0, le=10)  # gaussian: the learned sigma stays above (images span 2)
    components: int = Field(0, ge=0, le=MIXTURE)  # of a class's posterior mixture, kept for sampling; 0 = none
    gaussians: int = Field(0, ge=0, le=64)  # of a class, fitted to its latents; at most one for 4 z of IMAGES; 0 = none


Source = Literal["prior", "fitted", "posterior"]
SOURCES: dict[Source, str] = {
    "prior": "the prior of the class",
    "fitted": "Gaussians fitted to latents of the class",
    "posterior": "posteriors of training images, whose near copies it makes",
}


@cache
def sourced(sources: tuple[Source, ...]) -> type[LatentControls]:
    """The controls of `generate`, for a model that has these sources of latents; the first one is the default."""
    if len(sources) == 1:
        return LatentControls
    about = "Where latents come from: " + "; ".join(f"{name}: {SOURCES[name]}" for name in sources)
    field: Any = (Literal[sources], Field(sources[0], description=about))
    return create_model("SourceControls", __base__=LatentControls, source=field)


class InvertControls(Controls):
    spread: float = Field(0.0, ge=0, le=2, description="Scale of the posterior's noise: 0 is its mean, for every seed")


@cache
def morphing(classes: tuple[str, ...]) -> type[InvertControls]:
    """The controls of `morph`, for a model of these classes."""
    return create_model("MorphControls", __base__=InvertControls, **going(classes))


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
        groups = labels if config.conditional else 1
        room = min(config.components, max(1, MIXTURE // groups))
        self.mixture = Mixture(groups, room, config.z) if room else None
        room = min(config.gaussians, FITTED // (groups * config.z**2))
        self.fitted = Fitted(groups, room, config.z) if room else None

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inp(F.pixel_unshuffle(x, self.stem))
        for block in self.blocks:
            h = block(h, y) if isinstance(block, Block) else block(h)
        mean, logvar = self.out(F.silu(h).flatten(1)).float().chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)


class Decoder(nn.Module):
    """z N,Z and label weights N,K -> what the likelihood takes, float32 N,C,H,W; of the logistic, N,2C,H,W."""

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
        self.last = nn.Conv2d(16, spec.channels * (2 if config.likelihood == "logistic" else 1), 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.inp(torch.cat([z, y], dim=1)).reshape(-1, *self.shape)
        for block in self.blocks:
            h = block(h, y) if isinstance(block, Block) else block(upsample2(h))
        h = F.pixel_shuffle(self.unfold(F.silu(h)), self.stem)
        out: Tensor = self.last(F.silu(h)).float()
        return out


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


class Mixture(nn.Module):
    """The aggregate posterior of each class: a mixture, in equal shares, of q(z | x, y) of some of its images.

    Until `keep` was called for a class, it has N(0, I) as its one component.
    """

    mean: Tensor
    logvar: Tensor
    count: Tensor

    def __init__(self, classes: int, components: int, z: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes, components, z))
        self.register_buffer("logvar", torch.zeros(classes, components, z))
        self.register_buffer("count", torch.ones(classes, dtype=torch.int64))  # components in use

    def keep(self, label: int, mean: Tensor, logvar: Tensor) -> None:
        """Components of a class, each n,Z; n at most what there is room for."""
        self.mean[label, : len(mean)], self.logvar[label, : len(mean)] = mean, logvar
        self.count[label] = len(mean)

    def forward(self, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Label weights N,K and u N in [0, 1] -> mean and log-variance, each N,Z, of the component of each class that
        u points at, averaged by the weights."""
        index = (u[:, None] * self.count).long().clamp(max=self.count - 1)
        label = torch.arange(len(self.count), device=u.device)
        mean, logvar = (torch.einsum("nk,nkz->nz", y, t[label, index]) for t in (self.mean, self.logvar))
        return mean, logvar


class Fitted(nn.Module):
    """A density of each class's latents: a few Gaussians of full covariance.

    Until `keep` was called for a class, it has N(0, I) alone.
    """

    mean: Tensor
    scale: Tensor
    below: Tensor

    def __init__(self, classes: int, gaussians: int, z: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes, gaussians, z))
        self.register_buffer("scale", torch.eye(z).repeat(classes, gaussians, 1, 1))  # Cholesky factors
        self.register_buffer("below", torch.ones(classes, gaussians))  # the share of a Gaussian and those before it

    def keep(self, label: int, share: Tensor, mean: Tensor, scale: Tensor) -> None:
        """Gaussians of a class: their shares n, means n,Z and Cholesky factors n,Z,Z; n at most what there is room
        for."""
        n = len(mean)
        self.mean[label, :n], self.scale[label, :n] = mean, scale
        self.below[label] = 1.0
        self.below[label, : n - 1] = share.cumsum(0)[: n - 1]

    def fit(self, label: int, mean: Tensor, logvar: Tensor, rng: torch.Generator) -> None:
        """Fit a class's Gaussians to draws of `rng` from posteriors of its images, n,Z each, by expectation
        maximisation; one Gaussian for every 4 Z images, for it has Z (Z + 3) / 2 numbers to find."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        draws = mean.repeat(-(-DRAWS // len(mean)), 1)
        e = torch.randn(draws.shape, generator=rng).to(draws)
        draws = draws + (0.5 * logvar).exp().repeat(len(draws) // len(mean), 1) * e
        n = min(self.mean.shape[1], max(1, len(mean) // (4 * mean.shape[1])))
        seed = int(torch.randint(2**31, (), generator=rng))
        with warnings.catch_warnings(), threadpool_limits(1):  # ten times as fast: the matrices are small
            warnings.simplefilter("ignore", ConvergenceWarning)  # the best so far is good enough
            found = GaussianMixture(
                n, reg_covar=1e-3, tol=1e-2, max_iter=30, init_params="k-means++", random_state=seed
            ).fit(draws.cpu().double().numpy())
        scale = np.linalg.cholesky(found.covariances_)
        self.keep(label, *(torch.tensor(part).to(self.mean) for part in (found.weights_, found.means_, scale)))

    def forward(self, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Label weights N,K and u N in [0, 1] -> mean N,Z and Cholesky factor N,Z,Z, of the Gaussian of each class that
        u points at, averaged by the weights."""
        index = (u[:, None, None] > self.below[:, :-1]).sum(dim=2)
        label = torch.arange(len(self.below), device=u.device)
        mean = torch.einsum("nk,nkz->nz", y, self.mean[label, index])
        scale = torch.zeros(len(y), *self.scale.shape[2:], device=y.device)
        for k in (y != 0).any(dim=0).nonzero()[:, 0].tolist():  # all at once they are K times as many numbers
            scale += y[:, k, None, None] * self.scale[k, index[:, k]]
        return mean, scale


def _cells(config: VAEConfig, spec: ImageSpec) -> int:
    fold = config.stem * int(2 ** (config.levels - 1))
    return (spec.height // fold) * (spec.width // fold)


MINUTES_TRAIN: dict[str, Any] = dict(  # of *-cpu presets
    optimizer="muon", batch=32, lr=1e-3, warmup=500, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000
)


@register("vae")
class VAE(LatentFamily):
    Config = VAEConfig
    config: VAEConfig
    parts: ClassVar = ("encoder", "decoder", "prior")
    presets: ClassVar = {
        "vae-32-cpu": Preset(
            32,
            "conditional VAE for minutes of CPU: fast, varied, soft",
            dict(z=32, width=64, width_max=192, beta=3.0, components=64, gaussians=4),
            MINUTES_TRAIN,
        ),
        "vae-32-bits-cpu": Preset(
            32,
            "conditional VAE for bits per dimension, in minutes of CPU: discretised logistic, beta 1",
            dict(z=32, width=64, width_max=192, likelihood="logistic", components=64, gaussians=4),
            MINUTES_TRAIN,
        ),
        "vae-32": Preset(
            32,
            "conditional VAE for a GPU",
            dict(z=128, width=128, width_max=512, blocks=2, beta=3.0, components=64, gaussians=1),
            dict(batch=128, lr=5e-4, warmup=20_000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=100_000),
        ),
        "vae-64-cpu": Preset(
            64,
            "conditional VAE at 64 px for minutes of CPU",
            dict(z=64, width=32, width_max=192, levels=4, beta=3.0, components=64, gaussians=2),
            MINUTES_TRAIN,
        ),
        "vae-64": Preset(
            64,
            "conditional VAE at 64 px, for a GPU",
            dict(z=256, width=128, width_max=512, levels=4, blocks=2, beta=3.0, components=64, gaussians=1),
            dict(batch=128, lr=5e-4, warmup=20_000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=100_000),
        ),
        "vae-128": Preset(
            128,
            "conditional VAE at 128 px, for a GPU",
            dict(z=256, width=64, width_max=512, levels=5, blocks=2, beta=3.0, components=64, gaussians=1),
            dict(batch=64, lr=5e-4, warmup=20_000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=100_000),
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
        if config.likelihood == "gaussian":
            self.log_sigma = nn.Parameter(torch.tensor(math.log(0.25) / LEVER))

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return [Phase("elbo", list(self.parameters()))]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(betas=(0.9, 0.99))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        y = self.condition(self.one_hot(batch.labels))
        fit, kl = self.terms(batch.images, y, at.randn(len(batch), self.config.z))
        nll, kl = -fit.mean(), kl.mean(dim=0)

        # Below its free bits a latent's KL is a constant: it costs, but does not pull.
        charged = kl.clamp(min=self.config.free_bits) if self.config.free_bits else kl
        rise = warmup(at.fraction, self.config.beta_warmup, self.config.beta_cycles)
        stats = self.bound(nll.detach(), kl.detach().sum())
        if self.config.likelihood == "gaussian":
            stats["sigma"] = self.sigma.detach()
        return Loss(nll + self.config.beta * rise * charged.sum(), stats)

    def bound(self, nll: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """What is told of the ELBO's two parts, means over images in nats."""
        found = {"elbo": -(nll + kl), "nll": nll, "kl": kl}
        return {**found, "bits_per_dim": self.bits_per_dim(found["elbo"])} if self.measures_bits else found

    def validate(self, batch: Batch, at: At, trained: Family) -> Mapping[str, Tensor]:
        """The ELBO's two parts; of the learned Gaussian, whose noise level the averaged weights do not have, the mean
        square in its place."""
        x, y = batch.images, self.condition(self.one_hot(batch.labels))
        mean, logvar = self.encoder(x, y)
        out = self.decoder(mean + (0.5 * logvar).exp() * at.randn(*mean.shape), y)
        kl = kl_normal(mean, logvar, *self.prior(y)).sum(dim=1).mean()
        if self.config.likelihood == "gaussian":
            return {"mse": (self.mean(out) - x).square().mean(), "kl": kl}
        return self.bound(-self.log_likelihood(x, out).mean(), kl)

    def terms(self, x: Tensor, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | z, y) N at z = mean + std * e, and each latent's KL N,Z; label weights as the nets take them."""
        mean, logvar = self.encoder(x, y)
        fit = self.log_likelihood(x, self.decoder(mean + (0.5 * logvar).exp() * e, y))
        return fit, kl_normal(mean, logvar, *self.prior(y))

    # -- likelihood ----------------------------------------------------------------------------------------------

    def log_likelihood(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x | z, y) in nats, N, summed over pixels, of images N,C,H,W where the decoder gave `out`."""
        match self.config.likelihood:
            case "gaussian":
                log_p = log_normal(x, self.mean(out), self.sigma)
            case "bernoulli":
                log_p = log_bernoulli(x, out)
            case "logistic":
                mean, s = out.chunk(2, dim=1)
                log_p = log_logistic(x, mean, (s - 2).clamp(-7, 7))  # the scale starts about exp(-2)
        return log_p.sum(dim=[1, 2, 3])

    def mean(self, out: Tensor) -> Tensor:
        """The mean image N,C,H,W in [-1, 1] (the logistic's may lie beyond) of what the decoder gave."""
        match self.config.likelihood:
            case "gaussian":
                return out.tanh()
            case "bernoulli":
                return (out / 2).tanh()  # 2 sigmoid(out) - 1
            case "logistic":
                return out.chunk(2, dim=1)[0]

    @property
    def sigma(self) -> Tensor:
        """The Gaussian's standard deviation. Raises ConfigError for a model that came without it."""
        if "log_sigma" not in self._parameters:
            raise ConfigError(
                "Found a VAE without its noise level, which only trains: its ELBO cannot be had. Take the run's own "
                "stats, or train with --set likelihood=logistic for a likelihood that stays with the model."
            )
        return self.config.sigma_min + (LEVER * self.log_sigma).exp()

    def elbo(self, images: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The ELBO in nats N (beta 1), by one draw of z, of images N,C,H,W in [-1, 1] with label weights N,K."""
        e = torch.randn(len(images), self.config.z, generator=rng, device=rng.device).to(images.device)
        fit, kl = self.terms(images, self.condition(y), e)
        return fit - kl.sum(dim=1)

    def iwae(self, images: Tensor, y: Tensor, k: int, rng: torch.Generator) -> Tensor:
        """The importance-weighted bound log 1/k sum p(x, z | y) / q(z | x, y) of k draws (Burda 2016, eq. 8), nats N.

        Its mean rises with k, from the ELBO towards log p(x | y).
        """
        if k < 1:
            raise ConfigError(f"Found k={k} importance samples; expected at least 1.")
        y = self.condition(y)
        mean, logvar = self.encoder(images, y)
        std = (0.5 * logvar).exp()
        prior_mean, prior_logvar = self.prior(y)
        weights = []
        for _ in range(k):
            e = torch.randn(mean.shape, generator=rng, device=rng.device).to(mean.device)
            z = mean + std * e
            ratio = log_normal(z, prior_mean, (0.5 * prior_logvar).exp()) - log_normal(z, mean, std)
            weights.append(self.log_likelihood(images, self.decoder(z, y)) + ratio.sum(dim=1))
        return torch.stack(weights).logsumexp(dim=0) - math.log(k)

    def bits_per_dim(self, nats: Tensor) -> Tensor:
        """A bound on the log-likelihood in nats -> bits per dimension (pixel and channel). ConfigError for a likelihood
        that is a density, or of two levels: its number would compare with nothing."""
        if not self.measures_bits:
            raise ConfigError(
                f"Found likelihood={self.config.likelihood}; bits per dimension are only those of the discretised "
                "logistic. Train with --set likelihood=logistic."
            )
        return -nats / (math.prod(self.spec.shape) * math.log(2))

    @property
    def measures_bits(self) -> bool:
        return self.config.likelihood == "logistic"

    def bits(self, images: Tensor, y: Tensor, k: int, rng: torch.Generator) -> Tensor:
        return self.bits_per_dim(self.elbo(images, y, rng) if k == 1 else self.iwae(images, y, k, rng))

    # -- sampling ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        """Keep posteriors of images of each class, drawn by `rng`, and fit Gaussians to them; a class without images
        keeps its prior."""
        mixture, fitted = self.encoder.mixture, self.encoder.fitted
        if mixture is None and fitted is None:
            return
        groups = self.classes if self.config.conditional else 1
        room = mixture.mean.shape[1] if mixture is not None else 0
        labels = torch.tensor(data.labels) if groups > 1 else torch.zeros(len(data), dtype=torch.int64)
        eye = self.condition(torch.eye(self.classes, device=self.device))
        for label in range(groups):
            own = (labels == label).nonzero()[:, 0]
            own = own[torch.randperm(len(own), generator=rng)[: max(room, IMAGES if fitted is not None else 0)]]
            mean, logvar = self.posteriors(data, own, eye[label]) if len(own) else self.prior(eye[label : label + 1])
            if mixture is not None:
                first = own[:room].argsort() if len(own) else torch.zeros(1, dtype=torch.int64)
                mixture.keep(label, mean[first.to(mean.device)], logvar[first.to(mean.device)])
            if fitted is None:
                continue
            if len(own):
                fitted.fit(label, mean, logvar, rng)
            else:
                fitted.keep(label, torch.ones(1), mean, (0.5 * logvar).exp().diag_embed())

    def posteriors(self, data: Any, index: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance n,Z of q(z | x, y), of the images of a data set at `index`, given label weights y K."""
        found = []
        for i in range(0, len(index), ENCODED):
            x = from_uint8(torch.tensor(data.images[index[i : i + ENCODED].numpy()])).to(self.device)
            found.append(self.encoder(x, y.expand(len(x), -1)))
        mean, logvar = (torch.cat(part) for part in zip(*found, strict=True))
        return mean, logvar

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where latents may come from; the first is the default."""
        found: dict[Source, bool] = {
            "fitted": self.encoder.fitted is not None,
            "prior": True,
            "posterior": self.encoder.mixture is not None,
        }
        return tuple(name for name, there in found.items() if there)

    def capabilities(self) -> dict[str, Capability]:
        classes = self.spec.classes if self.config.conditional else ()
        return {
            **self.makes(sourced(self.sources)),
            "invert": Capability(inputs=("image",), controls=InvertControls),
            "morph": Capability(inputs=("image", "to_image"), controls=morphing(classes)),
        }

    def start(self, rows: Sequence[Row]) -> State:
        """Latents z = mean + scale * spread * e: of the prior, the Gaussians, the mixture, or (invert) the given
        image's posterior; to morph, on the line between those of two images, each of its class. To interpolate, mean,
        scale and e lie between those of two seeds, and the label weights, by which all go, between two classes."""
        state, asked, task = super().start(rows), [row.controls for row in rows], rows[0].task
        y, e = state["y"], state["z"]  # of an interpolation, on the way already
        if task in ("invert", "morph"):
            mean, logvar = self.encoder(self.inputs(rows), y)
            z = mean + (0.5 * logvar).exp() * e
        if task in ("interpolate", "morph"):
            share = torch.tensor([[c.share] for c in asked], device=self.device)
        if task == "interpolate":
            ends = [row.seed for row in rows], [row.to_seed for row in rows]
            here, there = (self.placed(asked, seeds, y, e) for seeds in ends)
            z = torch.lerp(here, there, share)
        if task == "generate":
            z = self.placed(asked, [row.seed for row in rows], y, e)
        if task == "morph":
            to_y = self.condition(self.to_weights(rows))
            mean, logvar = self.encoder(self.inputs(rows, "to_image"), to_y)
            z, y = torch.lerp(z, mean + (0.5 * logvar).exp() * e, share), torch.lerp(y, to_y, share)
        return state.replace(z=z, y=y)

    def placed(self, asked: Sequence[Any], seeds: Sequence[int], y: Tensor, e: Tensor) -> Tensor:
        """Latents N,Z: noise e N,Z as the source that a row's controls ask for has it, by the component that the row's
        seed points at."""
        sources: list[Source] = [getattr(controls, "source", "prior") for controls in asked]
        mean, logvar = self.prior(y)
        z: Tensor = mean + (0.5 * logvar).exp() * e
        if all(source == "prior" for source in sources):
            return z
        u = torch.special.ndtr(torch.cat([noise(seed, "component", 0, (1,)) for seed in seeds])).to(self.device)
        weights = y if self.config.conditional else torch.ones_like(y[:, :1])
        found: list[tuple[Source, Tensor]] = []
        if self.encoder.mixture is not None and "posterior" in sources:
            mean, logvar = self.encoder.mixture(weights, u)
            found.append(("posterior", mean + (0.5 * logvar).exp() * e))
        if self.encoder.fitted is not None and "fitted" in sources:
            mean, scale = self.encoder.fitted(weights, u)
            found.append(("fitted", mean + torch.einsum("nij,nj->ni", scale, e)))
        for name, own in found:
            picked = torch.tensor([[source == name] for source in sources], device=self.device)
            z = torch.where(picked, own, z)
        return z

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.mean(self.decoder(z, y))

    def finish(self, state: State) -> Output:
        """The images, and where they lie: z N,Z."""
        return Output(super().finish(state).images, {"z": state["z"].cpu()})


# -- formulas ----------------------------------------------------------------------------------------------------------


def warmup(fraction: float, share: float, cycles: int) -> float:
    """Beta's factor after a fraction of the budget: in each cycle it rises from 0 to 1 over `share` of it, then stays
    (Fu 2019); with one cycle it is the linear warm-up."""
    if not share or fraction >= 1:
        return 1.0
    return min(1.0, (fraction * cycles) % 1.0 / share)


def kl_normal(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL( N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar)) ), elementwise."""
    apart = (mean - prior_mean).square()
    return 0.5 * ((apart + logvar.exp()) / prior_logvar.exp() - 1 - logvar + prior_logvar)


def log_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2), elementwise."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """p log s + (1 - p) log(1 - s) for the pixel p = (x + 1) / 2 in [0, 1] and s = sigmoid(logits), elementwise."""
    return -F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none")


def log_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the probability that a logistic gives to the bin around x, one of 256 levels in [-1, 1], elementwise.

    The bins of -1 and 1 go on to infinity, so that the 256 sum to 1.

    With a and b a bin's ends in units of the scale, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)),
    which loses nothing in the tails.
    """
    precision = (-log_scale).exp()
    a, b = precision * (x - mean + HALF_BIN), precision * (x - mean - HALF_BIN)
    below, above = F.logsigmoid(a), F.logsigmoid(-b)
    inside = below + above + (-torch.expm1(-2 * HALF_BIN * precision)).log()
    return torch.where(x < HALF_BIN - 1, below, torch.where(x > 1 - HALF_BIN, above, inside))
