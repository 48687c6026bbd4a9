"""BigGAN (Brock 2019): residual nets, conditional BatchNorm from class and latent, spectral norm, truncation.

Generator. The label is embedded once, `shared`; z is split into one chunk a block and one for the 4x4 map (hierarchical
latents). In each block (shared(y), chunk) goes through bias-free linears to gain (1 + .) and bias of BatchNorm: figure
15 and appendix B.1. Every weight but `shared` is spectrally normalised (Miyato 2018). Discriminator: residual blocks
without normalisation layers, the sum over positions, and projection, D(x, y) = w.h + <e_y, h> (Miyato & Koyama 2018).
Both attend over positions once (SAGAN, Zhang 2019). Hinge loss, several D steps for one G step.

Initialisation is orthogonal, and G stays near it: beta |W W^T off its diagonal|^2 is added to its loss (eq. 3: the
pairwise products of filters, not their norms), for every weight but `shared`.

Sampling: truncation. Components of z beyond a threshold are drawn again (section 3.1): images become more typical and
less varied. That shifts every activation, so `settle` gathers standing statistics for a table of thresholds, and each
image uses those of its own.

Widths follow the paper's 128 px model: `width` channels at the full resolution, doubled as the map halves, at most
`width_max`. The paper gives no net for 32 px; `width = width_max` is the flat one that is usual there. Departures: z is
one chunk a block at every size; the learning rates are those of small-image configurations (2e-4 for both, betas 0.5
and 0.999), but for 128 px, where the paper's are kept. The *-cpu presets see few updates, so they take small batches
and a higher learning rate, and shift images before D (DiffAugment).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import At, Batch, Capability, Controls, Loss, Row, State, noise
from kartina.nets.layers import upsample2
from kartina.nets.losses import AdversarialLoss
from kartina.nets.norm import StandingBatchNorm
from kartina.nets.spectral import converge, spectral_norm
from kartina.registry import register

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # thresholds with standing statistics; one normal in 16,000 is beyond the last
SETTLE_BATCHES, SETTLE_BATCH = 8, 64  # for each level

# What *-cpu presets share: shifts by a few pixels alone; a rate that falls in the second half.
SHIFTS = {"translate": 0.09, "cutout": 0.0, "colour": 0.0}
MINUTES = {"warmup": 500, "decay": "linear", "decay_from": 0.5, "decay_to": 0.1, "ema": 5000}


class BigGANConfig(AdversarialConfig):
    z: int = Field(80, ge=1, le=4096)  # latent dimensions, split evenly
    embed: int = Field(128, ge=1, le=4096)  # dimensions of the shared class embedding
    width: int = Field(64, ge=8, le=1024)  # channels at the full resolution; doubles as the map halves
    width_max: int = Field(1024, ge=8, le=4096)
    attention: Literal[0, 2, 4] = 2  # stands where the map is 1/this of the image; 0 = none
    loss: AdversarialLoss = "hinge"
    d_steps: int = Field(2, ge=1, le=16)
    ortho: float = Field(1e-4, ge=0, le=1)  # weight of the orthogonal regularisation of G
    beta2: float = Field(0.999, ge=0, lt=1)


class BigGANControls(Controls):
    truncation: float = Field(
        LEVELS[-1],
        ge=LEVELS[0],
        le=LEVELS[-1],
        description="Latents beyond this are drawn again: less is more typical, more is varied; 4 redraws next to none",
    )


class Attention(nn.Module):
    """Self-attention over positions (Zhang 2019): N,C,H,W -> the same. Starts as the identity: `gamma` is 0."""

    def __init__(self, channels: int):
        super().__init__()
        small, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = nn.Conv2d(channels, small, 1, bias=False)
        self.phi = nn.Conv2d(channels, small, 1, bias=False)
        self.g = nn.Conv2d(channels, half, 1, bias=False)
        self.out = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        query = self.theta(x).flatten(2)  # N,C/8,HW
        key = F.max_pool2d(self.phi(x), 2).flatten(2)  # N,C/8,HW/4
        value = F.max_pool2d(self.g(x), 2).flatten(2)  # N,C/2,HW/4
        share = torch.bmm(query.transpose(1, 2), key).softmax(dim=-1).to(value.dtype)  # N,HW,HW/4
        seen = torch.bmm(value, share.transpose(1, 2)).reshape(n, -1, h, w)
        out: Tensor = x + self.gamma.to(x.dtype) * self.out(seen)
        return out


class ConditionalNorm(nn.Module):
    """BatchNorm with gain 1 + A c and bias B c: x N,C,H,W, condition N,E and mix N,L (see StandingBatchNorm)."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.norm = StandingBatchNorm(channels, len(LEVELS))
        self.gain = nn.Linear(condition, channels, bias=False)
        self.bias = nn.Linear(condition, channels, bias=False)

    def forward(self, x: Tensor, c: Tensor, mix: Tensor | None) -> Tensor:
        y: Tensor = self.norm(x, 1 + self.gain(c), self.bias(c), mix)
        return y


class GBlock(nn.Module):
    """Residual block that doubles the map: N,C,H,W -> N,C',2H,2W (figure 15b)."""

    def __init__(self, cin: int, cout: int, condition: int):
        super().__init__()
        self.norm1, self.conv1 = ConditionalNorm(cin, condition), nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2, self.conv2 = ConditionalNorm(cout, condition), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, c: Tensor, mix: Tensor | None) -> Tensor:
        h = self.conv1(upsample2(F.relu(self.norm1(x, c, mix))))
        h = self.conv2(F.relu(self.norm2(h, c, mix)))
        out: Tensor = h + upsample2(self.skip(x))  # a 1x1 convolution and nearest doubling commute: small map first
        return out


class Generator(nn.Module):
    """z N,Z, label weights N,K and thresholds N -> images N,C,H,W in [-1, 1]."""

    def __init__(self, config: BigGANConfig, size: int, channels: int, labels: int):
        super().__init__()
        depth = int(math.log2(size)) - 2
        widths = [min(config.width_max, config.width * 2**i) for i in reversed(range(depth + 1))]
        if config.z <= depth:
            raise ConfigError(f"Found z={config.z}; BigGAN at {size} px splits it in {depth + 1}: expected that many.")
        self.chunks = [len(part) for part in torch.arange(config.z, device="cpu").tensor_split(depth + 1)]
        self.shared = nn.Linear(labels, config.embed, bias=False)
        self.project = nn.Linear(self.chunks[0], widths[0] * 16)
        self.blocks = nn.ModuleList(
            GBlock(a, b, config.embed + chunk) for a, b, chunk in zip(widths, widths[1:], self.chunks[1:], strict=False)
        )
        self.attended = depth - 1 - _halvings(config)  # the block whose output has that size
        self.attention = Attention(widths[self.attended + 1]) if config.attention else None
        self.norm = StandingBatchNorm(widths[-1], len(LEVELS))
        self.gain = nn.Parameter(torch.ones(widths[-1]))
        self.bias = nn.Parameter(torch.zeros(widths[-1]))
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor, truncation: Tensor | None = None) -> Tensor:
        first, *rest = torch.split(z, self.chunks, dim=1)
        label = self.shared(y)
        mix = None if truncation is None else mixture(truncation)
        x = self.project(first).unflatten(1, (-1, 4, 4))
        for i, (block, chunk) in enumerate(zip(self.blocks, rest, strict=True)):
            x = block(x, torch.cat([label, chunk.to(label.dtype)], dim=1), mix)
            if self.attention is not None and i == self.attended:
                x = self.attention(x)
        image: Tensor = self.last(F.relu(self.norm(x, self.gain, self.bias, mix))).tanh()
        return image


class DBlock(nn.Module):
    """Residual block of D (figure 15c): N,C,H,W -> N,C',H/2,W/2, or the same size without `down`.

    The first block of D takes the image itself, so there is no ReLU before its first convolution.
    """

    def __init__(self, cin: int, cout: int, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout or down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.down:  # a 1x1 convolution and the mean of four commute: the small map first
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        out: Tensor = h + self.skip(x)
        return out


class Discriminator(nn.Module):
    """Images N,C,H,W in [-1, 1] and label weights N,K -> logits N."""

    def __init__(self, config: BigGANConfig, size: int, channels: int, labels: int):
        super().__init__()
        depth = int(math.log2(size)) - 2
        widths = [min(config.width_max, config.width * 2**i) for i in range(depth)]
        self.blocks = nn.ModuleList(
            DBlock(a, b, down=True, first=not i)
            for i, (a, b) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.blocks.append(DBlock(widths[-1], widths[-1], down=False))
        self.attended = _halvings(config) - 1
        self.attention = Attention(widths[self.attended]) if config.attention else None
        self.head = nn.Linear(widths[-1], 1)
        self.label = nn.Linear(labels, widths[-1], bias=False) if config.conditional else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attention is not None and i == self.attended:
                x = self.attention(x)
        h = F.relu(x).float().sum(dim=(2, 3))
        logit: Tensor = self.head(h).float().squeeze(1)
        if self.label is not None:
            logit = logit + (self.label(y).float() * h).sum(dim=1)
        return logit

    def first_layers(self) -> list[nn.Module]:
        """From the image on: blocks, and attention where it stands."""
        found = list(self.blocks)
        if self.attention is not None:
            found.insert(self.attended + 1, self.attention)
        return found


@register("biggan")
class BigGAN(AdversarialFamily):
    Config = BigGANConfig
    config: BigGANConfig
    generator: Generator
    sweep: ClassVar = {"truncation": (0.5, 1.0, 2.0, LEVELS[-1])}
    presets: ClassVar = {
        "biggan-32-cpu": Preset(
            32,
            "BigGAN for minutes of CPU: small batches, shifts",
            dict(width=32, width_max=256, embed=64, d_steps=2, augment="diffaugment", **SHIFTS),
            dict(batch=16, lr=1e-3, **MINUTES),
        ),
        "biggan-64-cpu": Preset(
            64,
            "BigGAN at 64 px for minutes of CPU",
            dict(width=16, width_max=256, embed=64, d_steps=2, augment="diffaugment", **SHIFTS),
            dict(batch=16, lr=1e-3, **MINUTES),
        ),
        "biggan-32": Preset(
            32,
            "BigGAN for small images: 256 channels at every size, four D steps",
            dict(width=256, width_max=256, d_steps=4),
            dict(batch=64, lr=2e-4, ema=200_000),
        ),
        "biggan-64": Preset(
            64,
            "BigGAN at 64 px",
            dict(z=100, width=64, d_steps=2),
            dict(batch=128, lr=2e-4, ema=200_000),
        ),
        "biggan-128": Preset(
            128,
            "BigGAN at 128 px: the paper's 96 channels, rates and betas; it used a batch of 2048",
            dict(z=120, width=96, width_max=1536, d_steps=2, beta1=0.0, g_lr=0.25),
            dict(batch=256, lr=2e-4, ema=500_000),
        ),
    }

    def __init__(self, config: BigGANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        size, least = spec.height, max(16, 8 * config.attention)
        if spec.width != size or size & (size - 1) or not least <= size <= 256:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; BigGAN needs square images with a side that is a power "
                f"of two from {least} to 256. Import the data at such a --size."
            )
        self.generator = Generator(config, size, spec.channels, self.classes)
        self.discriminator = Discriminator(config, size, spec.channels, self.classes)
        for m in list(self.modules()):
            if isinstance(m, nn.Conv2d | nn.Linear):
                if not m.weight.is_meta:  # a QR decomposition of shapes alone takes seconds
                    nn.init.orthogonal_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
                if m is not self.generator.shared:
                    spectral_norm(m)

    def loss_G(self, batch: Batch, y: Tensor, at: At) -> Loss:
        loss = super().loss_G(batch, y, at)
        if not self.config.ortho:
            return loss
        named = self.generator.named_parameters()
        extra = orthogonal_penalty(p for k, p in named if p.dim() > 1 and not k.startswith("shared."))
        return Loss(loss.total + self.config.ortho * extra, {**loss.stats, "ortho": extra.detach()})

    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        def forward(level: int) -> None:
            y = self.labels_like(data, SETTLE_BATCH, rng, share)
            z = truncated_normal(SETTLE_BATCH, self.config.z, LEVELS[level], rng)
            self.generator(z.to(self.device), y)

        converge(self.generator)
        StandingBatchNorm.settle(self.generator, forward, SETTLE_BATCHES)

    # -- sampling ------------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        return self.makes(BigGANControls)

    def latent(self, seed: int, controls: Any) -> Tensor:
        """Truncated. Between two of them, at their variance, values lie up to sqrt(2) times beyond the threshold."""
        return truncated(seed, self.config.z, controls.truncation)

    def start(self, rows: Sequence[Row]) -> State:
        truncation = torch.tensor([row.controls.truncation for row in rows], device=self.device)
        return super().start(rows).replace(truncation=truncation)

    def step(self, state: State) -> State:
        images = self.generator(state["z"], state["y"], state["truncation"])
        return state.replace(x=images.float(), step=state["steps"])


def truncated(seed: int, dim: int, threshold: float) -> Tensor:
    """Latents dim, each within +- threshold: those beyond it are drawn again until none is (section 3.1)."""
    z, again = noise(seed, "z", 0, (dim,)), 0
    while bool((beyond := z.abs() > threshold).any()):
        again += 1
        z = torch.where(beyond, noise(seed, "z", again, (dim,)), z)
    return z


def truncated_normal(n: int, dim: int, threshold: float, rng: torch.Generator) -> Tensor:
    """n,dim from the same distribution as `truncated`, at once, by the inverse of its distribution function."""
    inside = math.erf(threshold / math.sqrt(2))
    return math.sqrt(2) * torch.erfinv((2 * torch.rand(n, dim, generator=rng) - 1) * inside)


def mixture(truncation: Tensor) -> Tensor:
    """Thresholds N -> N,L weights of LEVELS, for linear interpolation between the two levels beside each."""
    levels = torch.tensor(LEVELS, device=truncation.device)
    right = torch.searchsorted(levels, truncation.contiguous()).clamp(1, len(LEVELS) - 1)
    low, high = levels[right - 1], levels[right]
    share = ((truncation - low) / (high - low)).clamp(0, 1)[:, None]
    at = F.one_hot(right, len(LEVELS)).to(share.dtype)
    return at * share + at.roll(-1, dims=1) * (1 - share)


def orthogonal_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Sum over weights O,... of |W W^T * (1 - I)|^2, W the O x rest matrix whose rows are filters (eq. 3).

    |W W^T|^2 = |W^T W|^2, so the smaller of the two products does, less the diagonal's share sum_i |w_i|^4.
    """
    total = torch.zeros(())
    for weight in weights:
        w = weight.flatten(1)
        with torch.autocast(w.device.type, enabled=False):
            product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
            total = total.to(w.device) + product.square().sum() - w.square().sum(dim=1).square().sum()
    return total


def _halvings(config: BigGANConfig) -> int:
    return config.attention.bit_length() - 1
