"""pix2pix (Isola 2017): the GAN whose condition is an image. It learns from pairs, and translates.

    G        a U-Net (Ronneberger 2015): strided convolutions down to 1x1, fractionally strided ones back up, each level
             with a skip to its mirror; widths C64-C128-C256-C512-..., depth from the size (8 levels for 256 px)
    D        PatchGAN on (source, image): a logit for each 70x70 patch, C64-C128-C256-C512 and one more convolution
    noise    dropout 0.5 in the three innermost decoder layers, in training and in sampling: the paper found that G
             ignores a latent. In sampling the units to drop come from the image's own seed
    losses   log D halved for D; -log D(G) + 100 L1 for G (eq. 4); Adam 2e-4 (0.5, 0.999), batch 1
    jitter   286 -> 256: the pair is enlarged and cut back at one random place; mirrored (by the loader) where safe

Normalisation is that of one image (InstanceNorm with gain and bias: what BatchNorm at batch 1 is), in every layer but
the first and last ones and the 1x1 bottleneck, where nothing would be left: this is the authors' erratum. Weights start
as N(0, 0.02).

Where we depart: the depth follows from any power of two (the paper's is 256), and D has fewer strided layers where the
image is too small for them. A class label, if the pairs have classes, is appended to the source as one constant plane a
class: the condition of all this file is an image. Presets for a CPU have narrower nets and average the weights (EMA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.augment.diffaugment import crops
from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import At, Batch, Capability, Controls, Loss, Row, State, noise
from kartina.registry import register


class Pix2PixConfig(AdversarialConfig):
    z: int = Field(0, ge=0, le=0)  # no latent: dropout is the noise
    width: int = Field(64, ge=4, le=1024)  # channels of the first layer of G and of D; doubles as the map halves
    width_max: int = Field(512, ge=4, le=4096)
    dropout: float = Field(0.5, ge=0, lt=1)
    dropped: int = Field(3, ge=0, le=8)  # decoder layers with dropout, from the bottleneck on
    patch: int = Field(3, ge=1, le=5)  # strided layers of D: it looks at 16, 34, 70, 142 or 286 pixels
    l1: float = Field(100.0, ge=0, le=1e6)  # weight of the distance to the target
    jitter: float = Field(30 / 256, ge=0, le=1)  # share by which pairs are enlarged before they are cut back
    beta2: float = Field(0.999, ge=0, lt=1)
    augment: Literal["none", "diffaugment", "ada"] = "none"


class TranslateControls(Controls):
    dropout: bool = Field(True, description="Drop units as in training: each seed gives a slightly different picture")


class Generator(nn.Module):
    """Condition N,Q,S,S -> images N,C,S,S in [-1, 1]."""

    def __init__(self, config: Pix2PixConfig, size: int, condition: int, channels: int):
        super().__init__()
        depth = int(math.log2(size))
        down = [min(config.width_max, config.width * 2**i) for i in range(depth)]
        up = [*reversed(down[:-1]), channels]
        self.dropout = config.dropout
        self.drops = [(w, 2 ** (i + 1), 2 ** (i + 1)) for i, w in enumerate(up[:-1])][: config.dropped]  # C,H,W each
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=i in (0, depth - 1))
            for i, (a, b) in enumerate(zip([condition, *down], down, strict=False))
        )
        self.down_norms = nn.ModuleList(
            nn.InstanceNorm2d(w, affine=True) if 0 < i < depth - 1 else nn.Identity() for i, w in enumerate(down)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=i == depth - 1)
            for i, (a, b) in enumerate(zip([down[-1], *(2 * w for w in up)], up, strict=False))
        )
        self.up_norms = nn.ModuleList(nn.InstanceNorm2d(w, affine=True) for w in up[:-1])

    def forward(self, y: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """`masks` are what dropout multiplies with, N,C,H,W for each of `drops`; None: drawn, in training."""
        # Down.
        skips = [self.downs[0](y)]
        for conv, norm in zip(self.downs[1:], self.down_norms[1:], strict=True):
            skips.append(norm(conv(F.leaky_relu(skips[-1], 0.2))))

        # Up: convolution, norm, dropout; then the skip beside it.
        h = skips.pop()
        for i, (up, norm) in enumerate(zip(self.ups[:-1], self.up_norms, strict=True)):
            h = norm(up(F.relu(h)))
            if i < len(self.drops):
                h = F.dropout(h, self.dropout, self.training) if masks is None else h * masks[i]
            h = torch.cat([h, skips.pop()], dim=1)
        image: Tensor = self.ups[-1](F.relu(h)).float().tanh()
        return image


class Discriminator(nn.Module):
    """Condition and image together, N,Q+C,S,S -> logits N,h,w, one for each patch."""

    def __init__(self, config: Pix2PixConfig, size: int, channels: int):
        super().__init__()
        strided = min(config.patch, int(math.log2(size)) - 2)
        widths = [min(config.width_max, config.width * 2**i) for i in range(strided + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, stride=2 if i < strided else 1, padding=1, bias=i == 0),
                nn.InstanceNorm2d(b, affine=True) if i else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for i, (a, b) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.head = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x).float().squeeze(1)
        return logits


@register("pix2pix")
class Pix2Pix(AdversarialFamily):
    Config = Pix2PixConfig
    config: Pix2PixConfig
    paired = True
    channels_last = False
    sweep: ClassVar[Mapping[str, Sequence[Any]]] = {}  # there is no `generate` to choose controls for
    presets: ClassVar = {
        "pix2pix-32-cpu": Preset(
            32,
            "image to image for minutes of CPU",
            dict(width=32, width_max=256, patch=2),
            dict(batch=4, lr=2e-4, ema=2000, decay="linear", decay_from=0.5),
        ),
        "pix2pix-64-cpu": Preset(
            64,
            "image to image at 64 px for minutes of CPU",
            dict(width=32, width_max=256),
            dict(batch=1, lr=2e-4, ema=2000, decay="linear", decay_from=0.5),
        ),
        "pix2pix-128-cpu": Preset(
            128,
            "image to image at 128 px for half an hour of CPU",
            dict(width=32, width_max=256),
            dict(batch=1, lr=2e-4, ema=2000, decay="linear", decay_from=0.5),
        ),
        "pix2pix-256": Preset(
            256,
            "image to image as published; 80,000 images were used for 400 pairs",
            {},
            dict(batch=1, lr=2e-4, ema=0, decay="linear", decay_from=0.5),
        ),
    }

    def __init__(self, config: Pix2PixConfig, spec: ImageSpec):
        super().__init__(config, spec)
        size = spec.height
        if not spec.source_channels:
            raise ConfigError(
                "Found data without pairs; pix2pix learns from pairs. Import a folder or zip with SPLIT/A (sources) "
                "and SPLIT/B (targets) of equal file names."
            )
        if spec.width != size or size & (size - 1) or not 8 <= size <= 256:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; pix2pix needs square images with a side of 8, 16, 32, "
                f"64, 128 or 256. Import the data at such a --size."
            )
        if config.augment == "ada" and spec.source_channels != spec.channels:
            raise ConfigError(
                f"Found augment=ada with sources of {spec.source_channels} and targets of {spec.channels} channels; "
                f"it transforms both alike and needs as many in both. Import with --channels 3, or use diffaugment."
            )
        self.planes = self.classes if config.conditional and spec.classes else 0
        condition = spec.source_channels + self.planes
        self.generator = Generator(config, size, condition, spec.channels)
        self.discriminator = Discriminator(config, size, condition + spec.channels)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(m.weight, std=0.02)

    # -- training --------------------------------------------------------------------------------------------------

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        found = super().loss(phase, self.jittered(batch, at), at)
        # All that D minimises is halved: it learns more slowly than G (section 3.3).
        return found if phase == "G" else Loss(found.total / 2, found.stats)

    def loss_G(self, batch: Batch, y: Tensor, at: At) -> Loss:
        fake = self.fake(y, at)
        adversarial = self.g_loss(fake, batch, y, at)
        distance = (fake - batch.images).abs().mean()
        return Loss(adversarial + self.config.l1 * distance, {"loss_G": adversarial.detach(), "l1": distance.detach()})

    def fake(self, y: Tensor, at: At) -> Tensor:
        """Images N,C,S,S for the conditions y N,Q,S,S."""
        images: Tensor = self.generator(y)
        return images

    def score(self, images: Tensor, y: Tensor, at: At) -> Tensor:
        """D's logits N,h,w of the augmented pairs."""
        source, planes = torch.split(y, [self.spec.source_channels, self.planes], dim=1)
        if self.config.augment != "none":
            # The same draws for both, so that the pair stays one.
            before = at.rng.get_state()
            source = self.augmented(source, at)
            at.rng.set_state(before)
            images = self.augmented(images, at)
        logits: Tensor = self.discriminator(torch.cat([source, planes, images], dim=1))
        return logits

    def label(self, batch: Batch, at: At) -> Tensor:
        """The condition N,Q,S,S of the batch."""
        assert batch.sources is not None
        return self.condition_image(batch.sources, super().label(batch, at))

    def condition_image(self, source: Tensor, weights: Tensor) -> Tensor:
        """Sources N,C',S,S and label weights N,K -> N,Q,S,S: a constant plane for each class after the source."""
        planes = weights[:, : self.planes, None, None].expand(-1, -1, *source.shape[2:])
        return torch.cat([source, planes], dim=1)

    def jittered(self, batch: Batch, at: At) -> Batch:
        """Each pair enlarged (bicubic) and cut back to its size at a random place, the same in both images."""
        assert batch.sources is not None
        size = self.spec.height
        large = round(size * (1 + self.config.jitter))
        top, left = (
            torch.randint(large - size + 1, (len(batch), 1, 1), generator=at.rng, device=at.rng.device) for _ in "yx"
        )

        def cut(x: Tensor) -> Tensor:
            big = F.interpolate(x, size=(large, large), mode="bicubic").clamp(-1, 1)
            return crops(big, top, left, size, size).contiguous()

        return replace(batch, images=cut(batch.images), sources=cut(batch.sources)) if large > size else batch

    # -- sampling --------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        return {"translate": Capability(("image",), TranslateControls, self.spec.source_channels)}

    def start(self, rows: Sequence[Row]) -> State:
        y = self.condition_image(self.inputs(rows), self.condition(self.weights(rows)))
        masks = [torch.stack([self.mask(row, i) for row in rows]).to(self.device) for i in range(len(self.drops))]
        ready = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        x = torch.zeros(len(rows), *self.spec.shape, device=self.device)
        dropped = {f"mask{i}": mask for i, mask in enumerate(masks)}
        return State({"y": y, "x": x, **dropped, "step": ready, "steps": ready + 1})

    def step(self, state: State) -> State:
        masks = [state[f"mask{i}"] for i in range(len(self.drops))]
        return state.replace(x=self.generator(state["y"], masks), step=state["steps"])

    def mask(self, row: Row, i: int) -> Tensor:
        """What dropout layer i multiplies the row's C,H,W units with: 0, or 1 / (1 - p); drawn from the row's seed."""
        shape, p = self.drops[i], self.config.dropout
        if not row.controls.dropout:
            return torch.ones(shape)
        least = NormalDist().inv_cdf(p) if p else -math.inf  # noise is below it with probability p
        return (noise(row.seed, f"dropout{i}", 0, shape) > least).float() / (1 - p)

    @property
    def drops(self) -> list[tuple[int, int, int]]:
        assert isinstance(self.generator, Generator)
        return self.generator.drops
