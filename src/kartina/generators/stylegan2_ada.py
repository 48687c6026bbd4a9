"""StyleGAN2 (Karras 2020a, arXiv 1912.04958) with adaptive discriminator augmentation (Karras 2020b, 2006.06676).

A mapping network turns z and the label into a style w. The synthesis network starts from a learned 4x4 constant; w
scales every convolution's input channels (modulation), whose output is then brought back to unit deviation by the
weights alone (demodulation), and each resolution adds its own image to an up-sampled sum (skips). Because w is nearly
disentangled, it is what one truncates, mixes, interpolates, and what an image is projected into.

Where this file departs from the papers, and why:

- Modulation multiplies activations, demodulation the convolution's result: s and 1/sigma are constants of a sample, so
  conv(s x) / sigma equals a convolution with the sample's own weights, and a batch shares one fast convolution.
- Path lengths are taken with respect to each layer's own w and averaged as squares, since mixed styles have no one w.
- Modulated values keep bf16's wide range, so weights and styles need no normalisation before they are multiplied.
- Inversion minimises distances of pixels at several scales, without a network for perceptual distances, and leaves the
  noise inputs off instead of optimising them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import (
    At,
    Batch,
    Capability,
    Controls,
    Loss,
    Output,
    Phase,
    Row,
    State,
    interpolating,
    noise,
    to_uint8,
)
from kartina.nets.layers import MinibatchStd
from kartina.nets.resample import conv_down, conv_up, downsample, upsample
from kartina.registry import register

GAIN = math.sqrt(2)  # of the leaky ReLU: it keeps the deviation of its input
CLAMP = 256.0  # largest activation in low precision
SETTLED = 8192  # latents behind the mean styles of a settled model
STARTS = 31  # styles that an inversion tries before it descends


class StyleGAN2Config(AdversarialConfig):
    z: int = Field(512, ge=1, le=4096)
    w: int = Field(512, ge=1, le=4096)  # dimensions of a style
    mapping: int = Field(8, ge=1, le=16)  # layers from z to w
    mapping_rate: float = Field(0.01, gt=0, le=1)  # learning rate of the mapping, as a share
    noise_rate: float = Field(1.0, gt=0, le=1)  # learning rate of the strengths of the noise inputs, as a share
    w_decay: float = Field(0.995, ge=0, lt=1)  # of the running mean of w, per update
    width: int = Field(64, ge=4, le=1024)  # channels at full resolution; doubles as the map halves
    width_max: int = Field(512, ge=4, le=4096)
    skips: bool = True  # D: residual; false = the plain stack that suits 32 px
    group: int = Field(4, ge=1, le=256)  # D: rows of a minibatch deviation
    mixing: float = Field(0.9, ge=0, le=1)  # share of generated images that mix two styles
    path_weight: float = Field(2.0, ge=0, le=1e6)  # of the path length penalty; 0 = none
    path_every: int = Field(4, ge=2, le=1000)  # steps between path length penalties, each on half a batch
    path_decay: float = Field(0.01, gt=0, le=1)  # by which the mean path length follows
    gamma: float = Field(-1.0, ge=-1, le=1e6)  # below 0: automatic, 0.0002 x pixels / batch
    penalty_every: int = Field(16, ge=1, le=1000)
    beta1: float = Field(0.0, ge=0, lt=1)
    augment: Literal["none", "diffaugment", "ada"] = "ada"


# -- layers with an equalised learning rate: N(0, 1) weights, scaled where they are used (Karras 2018, section 4.1) ----


class Linear(nn.Module):
    """float N,I -> N,O in float32; weights and bias learn at `rate` times the learning rate."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.activate = rate, activate

    def forward(self, x: Tensor) -> Tensor:
        gain = self.rate / math.sqrt(self.weight.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            y = F.linear(x.to(self.weight.dtype) * gain, self.weight, self.bias * self.rate)
            return F.leaky_relu(y, 0.2) * GAIN if self.activate else y


class Conv(nn.Module):
    """A convolution of D, k odd, with bias and leaky ReLU (`activate`), halving the sides with `down`."""

    def __init__(self, inputs: int, outputs: int, k: int, down: bool = False, activate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, k, k))
        self.bias = nn.Parameter(torch.zeros(outputs)) if activate else None
        self.down = down

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """N,I,H,W -> N,O,H,W (or halved); `gain` multiplies the result."""
        low = precision(x)
        total = gain * (1.0 if self.bias is None else GAIN)  # lrelu(g x) = g lrelu(x) for g > 0
        weight = (self.weight * (total / math.sqrt(self.weight[0].numel()))).to(low)
        bias = None if self.bias is None else (self.bias * total).to(low)
        x = x.to(low)
        if self.down and weight.shape[2] == 1:
            x = F.conv2d(downsample(x), weight, bias)
        elif self.down:
            x = conv_down(x, weight, bias)
        else:
            x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
        return x if self.bias is None else clamped(F.leaky_relu(x, 0.2), gain)


class StyledConv(nn.Module):
    """Modulate by a style, convolve, demodulate, add noise and bias, leaky ReLU (Karras 2020a, section 2.2)."""

    def __init__(self, inputs: int, outputs: int, w: int, up: bool, noise_rate: float = 1.0):
        super().__init__()
        self.noise_gain = noise_rate * GAIN
        self.affine = Linear(w, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x N,I,H,W, style w N,W and noise N,1,H',W' -> N,O,H',W', where H' is 2H with `up`."""
        low = precision(x)
        s = self.affine(w) / math.sqrt(self.weight[0].numel())
        y = scaled(x.to(low), s.to(low))
        weight = self.weight.to(low)
        y = conv_up(y, weight) if self.up else F.conv2d(y, weight, padding=1)
        # lrelu(g x) = g lrelu(x) for g > 0, so the gain is in each of the three.
        d = (self.demodulation(s) * GAIN).to(low)[:, :, None, None]
        y = y * d if noise is None else torch.addcmul((noise * (self.strength * self.noise_gain)).to(low), y, d)
        y = y + (self.bias * GAIN).to(low)[:, None, None]
        return clamped(F.leaky_relu(y, 0.2))

    def demodulation(self, s: Tensor) -> Tensor:
        """1 / sqrt(sum over i,k of (s_i w_oik)^2 + eps) for scales s N,I: N,O (eq. 3)."""
        with torch.autocast(s.device.type, enabled=False):
            squares = self.weight.square().sum(dim=(2, 3))
            return (s.square() @ squares.t() + 1e-8).rsqrt()


class ToImage(nn.Module):
    """Modulate and convolve 1x1 to image channels, without demodulation."""

    def __init__(self, inputs: int, channels: int, w: int):
        super().__init__()
        self.affine = Linear(w, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        low = precision(x)
        s = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = F.conv2d(scaled(x.to(low), s.to(low)), self.weight.to(low), self.bias.to(low))
        return clamped(y).to(self.bias.dtype)


def scaled(x: Tensor, s: Tensor) -> Tensor:
    """N,C,H,W times a factor for each row and channel, N,C."""
    return x * s[:, :, None, None]


def clamped(x: Tensor, gain: float = 1.0) -> Tensor:
    """In low precision, activations are kept within +-256 (Karras 2020b, appendix D.1)."""
    return F.hardtanh(x, -CLAMP * gain, CLAMP * gain) if x.dtype in (torch.bfloat16, torch.float16) else x


def precision(x: Tensor) -> torch.dtype:
    """The type that convolutions run in: autocast's, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def unit(x: Tensor) -> Tensor:
    """N,D scaled to a second moment of 1 in each row."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


# -- networks ----------------------------------------------------------------------------------------------------------


class MappingNetwork(nn.Module):
    """z N,Z (0 dimensions for D's) and label weights N,K -> style N,W; each normalised, then concatenated."""

    def __init__(self, z: int, labels: int, w: int, depth: int, rate: float):
        super().__init__()
        self.embed = Linear(labels, w) if labels else None
        inputs = z + (w if labels else 0)
        self.layers = nn.Sequential(*(Linear(w if i else inputs, w, rate, activate=True) for i in range(depth)))

    def forward(self, z: Tensor | None, y: Tensor) -> Tensor:
        parts = [] if z is None else [unit(z)]
        if self.embed is not None:
            parts.append(unit(self.embed(y)))
        w: Tensor = self.layers(torch.cat(parts, dim=1))
        return w


class SynthesisNetwork(nn.Module):
    """Styles N,L,W and noise N,T (or none) -> images N,C,H,W, nearly in [-1, 1]."""

    def __init__(self, widths: Sequence[int], channels: int, w: int, noise_rate: float = 1.0):
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.first = StyledConv(widths[0], widths[0], w, False, noise_rate)
        self.ups = nn.ModuleList(StyledConv(a, b, w, True, noise_rate) for a, b in pairwise(widths))
        self.convs = nn.ModuleList(StyledConv(b, b, w, False, noise_rate) for b in widths[1:])
        self.images = nn.ModuleList(ToImage(b, channels, w) for b in widths)
        self.layers = 2 * len(widths)  # L: each convolution's style; an image shares that of the convolution after it
        self.maps = [4, *(4 * 2**i for i in range(1, len(widths)) for _ in range(2))]  # sides of the noise inputs
        self.noise = sum(side * side for side in self.maps)  # T

    def forward(self, w: Tensor, noise: Tensor | None = None) -> Tensor:
        sizes = [side * side for side in self.maps]
        maps: list[Tensor | None] = [None] * len(sizes)
        if noise is not None:
            maps = [m.reshape(-1, 1, s, s) for m, s in zip(torch.split(noise, sizes, 1), self.maps, strict=True)]
        x = self.first(self.const.expand(len(w), -1, -1, -1), w[:, 0], maps[0])
        image: Tensor = self.images[0](x, w[:, 1])
        for i, (up, conv, to_image) in enumerate(zip(self.ups, self.convs, self.images[1:], strict=True)):
            x = up(x, w[:, 2 * i + 1], maps[2 * i + 1])
            x = conv(x, w[:, 2 * i + 2], maps[2 * i + 2])
            image = upsample(image) + to_image(x, w[:, 2 * i + 3])
        return image


class Generator(nn.Module):
    """Mapping and synthesis, and the mean styles that truncation pulls to."""

    w_mean: Tensor  # W
    w_class: Tensor  # K,W

    def __init__(self, config: StyleGAN2Config, widths: Sequence[int], channels: int, labels: int, classes: int):
        super().__init__()
        self.mapping = MappingNetwork(config.z, labels, config.w, config.mapping, config.mapping_rate)
        self.synthesis = SynthesisNetwork(widths, channels, config.w, config.noise_rate)
        self.register_buffer("w_mean", torch.zeros(config.w))
        self.register_buffer("w_class", torch.zeros(classes, config.w))

    def forward(self, z: Tensor, y: Tensor, noise: Tensor | None = None) -> Tensor:
        """z N,Z and label weights N,K -> images N,C,H,W: one style for all layers, not truncated."""
        image: Tensor = self.synthesis(self.broadcast(self.mapping(z, y)), noise)
        return image

    def broadcast(self, w: Tensor) -> Tensor:
        """One style for every layer: N,W -> N,L,W."""
        return w[:, None].expand(-1, self.synthesis.layers, -1)

    @torch.no_grad()
    def track(self, w: Tensor, y: Tensor, decay: float) -> None:
        """Let the running means follow the styles w N,W of label weights y N,K; absent classes stay."""
        self.w_mean.lerp_(w.mean(dim=0), 1 - decay)
        weight = y.sum(dim=0)[:, None]
        mean = y.t() @ w / weight.clamp(min=1e-8)
        self.w_class.lerp_(torch.where(weight > 0, mean, self.w_class), 1 - decay)


class Residual(nn.Module):
    """Two convolutions that halve the sides, beside a 1x1 shortcut; both scaled to keep the deviation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(inputs, inputs, 3)
        self.down = Conv(inputs, outputs, 3, down=True)
        self.skip = Conv(inputs, outputs, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x, math.sqrt(0.5)) + self.down(self.conv(x), math.sqrt(0.5))
        return y


class Discriminator(nn.Module):
    """Images N,C,H,W in [-1, 1] and label weights N,K -> logits N (float32)."""

    def __init__(self, config: StyleGAN2Config, widths: Sequence[int], channels: int, labels: int):
        super().__init__()
        last, fine = widths[0], list(reversed(widths))
        self.image = Conv(channels, fine[0], 1)
        self.blocks = nn.ModuleList(
            Residual(a, b) if config.skips else nn.Sequential(Conv(a, a, 3), Conv(a, b, 3, down=True))
            for a, b in pairwise(fine)
        )
        self.std = MinibatchStd(config.group)
        self.join = Conv(last + 1, last, 3)
        self.hidden = Linear(last * 16, last, activate=True)
        self.head = Linear(last, last if labels else 1)
        self.label = MappingNetwork(0, labels, last, config.mapping, config.mapping_rate) if labels else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h: Tensor = self.image(x)
        for block in self.blocks:
            h = block(h)
        h = self.head(self.hidden(self.join(self.std(h)).flatten(1)))
        if self.label is None:
            return h.squeeze(1)
        e: Tensor = self.label(None, y)
        return (h * e).sum(dim=1) / math.sqrt(e.shape[1])


# -- controls ----------------------------------------------------------------------------------------------------------


class StyleControls(Controls):
    truncation: float = Field(
        1.0, ge=0, le=1.5, description="Psi: 1 is off; less is more typical, 0 is the mean image. The same seed keeps z"
    )
    centre: Literal["class", "global"] = Field("class", description="Mean style that truncation pulls to")
    cutoff: int | None = Field(
        None, ge=0, le=32, description="Layers that truncation reaches, from the coarse; none: all"
    )
    mix_seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of a second style, for the fine layers")
    mix_from: int = Field(4, ge=0, le=32, description="First layer of the second style; fewer change more")
    noise: bool = Field(True, description="Random fine detail")


class InvertControls(Controls):
    steps: int = Field(200, ge=1, le=2000, description="Steps of the search: more is closer and slower")
    rate: float = Field(0.05, gt=0, le=1, description="Learning rate of the search")
    layers: bool = Field(False, description="A style for each layer (W+): closer to the image, less easy to edit")


# -- the family --------------------------------------------------------------------------------------------------------


# What *-cpu presets share. They see few updates, so equalised layers learn faster than in the paper, the mapping not so
# much slower than the rest, and the noise inputs slowly: or G paints with them. At such rates single gradients throw
# the networks off, so they are clipped: without, nothing recognisable came of minutes (docs/LOG.md). Overfitting is no
# matter of minutes: shifts by a few pixels instead of ADA.
MINUTES: dict[str, Any] = dict(
    z=64, w=128, mapping=2, mapping_rate=0.1, noise_rate=0.03, width_max=256, mixing=0.0, path_weight=0.0,
    penalty_every=8, augment="diffaugment", translate=0.06, cutout=0.0, colour=0.0, loss="relativistic", g_lr=0.5,
)  # fmt: skip
MINUTES_TRAIN: dict[str, Any] = dict(
    batch=16, lr=5e-3, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1, ema=5000, clip=1.0
)


@register("stylegan2_ada")
class StyleGAN2ADA(AdversarialFamily):
    Config = StyleGAN2Config
    config: StyleGAN2Config
    generator: Generator
    path_mean: Tensor
    sweep: ClassVar = {"truncation": (0.6, 0.7, 0.8, 0.9, 1.0)}
    presets: ClassVar = {
        "stylegan2-ada-32-cpu": Preset(
            32,
            "StyleGAN2 for minutes of CPU",
            dict(width=32, skips=False, gamma=1.0, **MINUTES),
            MINUTES_TRAIN,
        ),
        "stylegan2-ada-32": Preset(
            32,
            "the paper's CIFAR-10 configuration of StyleGAN2-ADA, for a GPU",
            dict(
                mapping=2, width=512, skips=False, group=32, mixing=0.0, path_weight=0.0, gamma=0.01
            ),
            dict(batch=64, lr=2.5e-3, ema=500_000, ema_ramp=0.05),
        ),
        "stylegan2-ada-64": Preset(
            64,
            "StyleGAN2-ADA at 64 px, for a GPU",
            dict(mapping=2, width=256),
            dict(batch=64, lr=2.5e-3, ema=20_000),
        ),
        "stylegan2-ada-64-cpu": Preset(
            64,
            "StyleGAN2 at 64 px for minutes of CPU",
            dict(width=16, gamma=1.0, **MINUTES),
            MINUTES_TRAIN,
        ),
        "stylegan2-ada-128": Preset(
            128,
            "StyleGAN2-ADA at 128 px, for a GPU",
            dict(width=128),
            dict(batch=32, lr=2.5e-3, ema=10_000),
        ),
    }  # fmt: skip

    def __init__(self, config: StyleGAN2Config, spec: ImageSpec):
        super().__init__(config, spec)
        size = spec.height
        if spec.width != size or size & (size - 1) or not 8 <= size <= 1024:
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; StyleGAN2 needs square images with a side of 8, 16, 32, "
                f"..., 1024. Import the data at such a --size."
            )
        depth = int(math.log2(size)) - 2
        widths = [min(config.width_max, config.width * 2**i) for i in reversed(range(depth + 1))]  # 4 px first
        labels = self.classes if config.conditional and spec.classes else 0
        self.generator = Generator(config, widths, spec.channels, labels, self.classes)
        self.discriminator = Discriminator(config, widths, spec.channels, labels)
        self.register_buffer("path_mean", torch.zeros(()))

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        phases = super().phases()
        if self.config.path_weight:
            g = list(self.generator.parameters())
            phases.append(Phase("path", g, opt="G", every=self.config.path_every, batch=0.5))
        return phases

    def penalty_weight(self, n: int) -> float:
        automatic = 0.0002 * self.spec.height * self.spec.width / n  # Karras 2020b, section 4
        return automatic if self.config.gamma < 0 else self.config.gamma

    def fake(self, y: Tensor, at: At) -> Tensor:
        images: Tensor = self.generator.synthesis(self.styles(y, at), self.noises(len(y), at))
        return images

    def styles(self, y: Tensor, at: At) -> Tensor:
        """Styles N,L,W from fresh latents; a share of the rows change style at a layer drawn for each."""
        n, layers, config = len(y), self.generator.synthesis.layers, self.config
        w = self.generator.mapping(at.randn(n, config.z), y)
        self.generator.track(w.detach(), y, config.w_decay)
        if not config.mixing:
            return self.generator.broadcast(w)
        other = self.generator.mapping(at.randn(n, config.z), y)
        start = 1 + (at.rand(n) * (layers - 1)).long()
        start = torch.where(at.rand(n) < config.mixing, start, layers)
        second = torch.arange(layers, device=w.device) >= start[:, None]
        return torch.where(second[:, :, None], other[:, None], w[:, None])

    def noises(self, n: int, at: At) -> Tensor:
        return at.randn(n, self.generator.synthesis.noise)

    def loss_path(self, batch: Batch, y: Tensor, at: At) -> Loss:
        """E (|J_w^T e| - a)^2, with e an image of normal noise over sqrt(HW) and a the running mean of the lengths
        (Karras 2020a, eq. 4), times its weight and interval."""
        w = self.styles(y, at)
        image = self.generator.synthesis(w, self.noises(len(y), at))
        e = at.randn(*image.shape) / math.sqrt(image.shape[2] * image.shape[3])
        (grad,) = torch.autograd.grad((image * e).sum(), w, create_graph=True)
        length = grad.square().sum(dim=2).mean(dim=1).sqrt()
        mean = self.path_mean.lerp(length.detach().mean(), self.config.path_decay)
        penalty = (length - mean).square().mean()
        stats = {"path_length": length.detach().mean(), "path_penalty": penalty.detach()}
        return Loss(self.config.path_weight * self.config.path_every * penalty, stats)

    def after(self, phase: str, stats: Mapping[str, Tensor], at: At) -> None:
        super().after(phase, stats, at)
        if phase == "path":
            self.path_mean.lerp_(stats["path_length"], self.config.path_decay)

    @torch.no_grad()
    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        """Mean styles of the averaged mapping: each class's from the same latents, and all of them as in `data`."""
        z = torch.randn(max(128, SETTLED // self.classes), self.config.z, generator=rng).to(self.device)
        eye = self.condition(torch.eye(self.classes, device=self.device))
        means = [self.generator.mapping(z, y.expand(len(z), -1)).mean(dim=0) for y in eye]
        share = torch.from_numpy(data.counts()).float() if self.spec.classes else torch.ones(1)
        self.generator.w_class.copy_(torch.stack(means))
        self.generator.w_mean.copy_((share / share.sum()).to(self.device) @ self.generator.w_class)

    # -- sampling ------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        classes = self.spec.classes if self.config.conditional else ()
        return {
            "generate": Capability(controls=StyleControls),
            "interpolate": Capability(controls=interpolating(StyleControls, classes, "style")),
            "invert": Capability(inputs=("image",), controls=InvertControls),
        }

    def start(self, rows: Sequence[Row]) -> State:
        """Everything random is decided here: a row keeps its styles and its noise."""
        y = self.condition(self.weights(rows))
        zero = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        common = {"x": torch.zeros(len(rows), *self.spec.shape, device=self.device), "step": zero}
        if rows[0].task == "invert":
            return State({**common, **self.search(rows, y)})
        maps = torch.stack([self.detail(row) for row in rows]).to(self.device)
        return State({**common, "w": self.chosen(rows, y), "noise": maps, "steps": zero + 1})

    def step(self, state: State) -> State:
        active = ~state.done
        if not bool(active.any()):
            return state
        s = state if bool(active.all()) else state.take(active)
        if "target" in s.tensors:
            new = self.descend(s)
        else:
            new = s.replace(x=self.generator.synthesis(s["w"], s["noise"]).float(), step=s["steps"])
        return new if s is state else state.put(active, new)

    def finish(self, state: State) -> Output:
        if "target" in state.tensors:
            return Output(to_uint8(self.generator.synthesis(state["w"])), {"w": state["w"].float().cpu()})
        return Output(to_uint8(state["x"]))

    def preview(self, state: State) -> Tensor | None:
        return to_uint8(state["x"]) if "target" in state.tensors else None

    def column(self, values: Sequence[Any]) -> Tensor:
        """One value for each row, N,1, on the model's device."""
        return torch.tensor(values, device=self.device)[:, None]

    def detail(self, row: Row) -> Tensor:
        """The noise T of a row: its seed's, or 0. Interpolation takes it along at unit variance, so that it ends at the
        other seed's image."""
        c, size = row.controls, (self.generator.synthesis.noise,)
        if not c.noise:
            return torch.zeros(size)
        own = noise(row.seed, "noise", 0, size)
        if row.task != "interpolate":
            return own
        mixed = torch.lerp(own, noise(row.to_seed, "noise", 0, size), c.share)
        return mixed if row.to_seed == row.seed else mixed / math.hypot(c.share, 1 - c.share)

    def mapped(self, seeds: Sequence[int], y: Tensor) -> Tensor:
        """The styles N,W that seeds stand for."""
        z = torch.stack([noise(seed, "z", 0, (self.config.z,)) for seed in seeds])
        w: Tensor = self.generator.mapping(z.to(self.device), y)
        return w

    def chosen(self, rows: Sequence[Row], y: Tensor) -> Tensor:
        """Styles N,L,W as the rows' controls ask for: interpolated, mixed, truncated.

        All that lies between two seeds or classes lies on the line in W between the styles (and mean styles) of both.
        """
        layers, asked = self.generator.synthesis.layers, [row.controls for row in rows]
        layer = torch.arange(layers, device=self.device)
        w = self.mapped([row.seed for row in rows], y)
        other = self.mapped([c.mix_seed or 0 for c in asked], y)
        if rows[0].task == "interpolate":
            to_y = self.condition(self.to_weights(rows))
            share = self.column([c.share for c in asked])
            w = torch.lerp(w, self.mapped([row.to_seed for row in rows], to_y), share)
            other = torch.lerp(other, self.mapped([c.mix_seed or 0 for c in asked], to_y), share)
            y = torch.lerp(y, to_y, share)

        # Mix: from a layer on, the style of another seed.
        begin = self.column([layers if c.mix_seed is None else c.mix_from for c in asked])
        styles = torch.where((layer >= begin)[:, :, None], other[:, None], w[:, None])

        # Truncate: up to a layer, towards a mean style.
        of_class = self.column([c.centre == "class" for c in asked])
        centre = torch.where(of_class, y @ self.generator.w_class, self.generator.w_mean)
        end = self.column([layers if c.cutoff is None else c.cutoff for c in asked])
        psi = torch.where(layer < end, self.column([float(c.truncation) for c in asked]), 1.0)
        return torch.lerp(centre[:, None], styles, psi[:, :, None])

    # -- projection of an image into w ---------------------------------------------------------------------------

    def search(self, rows: Sequence[Row], y: Tensor) -> dict[str, Tensor]:
        """Where each row's search starts: at the nearest of the mean style and STARTS of the row's own styles."""
        targets, w = self.inputs(rows), []
        for row, target, label in zip(rows, targets, y, strict=True):
            z = noise(row.seed, "invert", 0, (STARTS, self.config.z)).to(self.device)
            own = self.generator.mapping(z, label.expand(STARTS, -1))
            tried = self.generator.broadcast(torch.cat([(label @ self.generator.w_class)[None], own]))
            w.append(tried[distance(self.generator.synthesis(tried), target[None]).argmin()])
        start = torch.stack(w)
        asked = [row.controls for row in rows]
        return {
            "target": targets,
            "w": start,
            "mean": torch.zeros_like(start),  # Adam's moments
            "square": torch.zeros_like(start),
            "rate": self.column([c.rate for c in asked])[:, 0],
            "layers": self.column([c.layers for c in asked])[:, 0],
            "steps": self.column([c.steps for c in asked])[:, 0],
        }

    def descend(self, s: State) -> State:
        """One step of Adam on each row's styles, at the row's own place in its schedule."""
        with torch.inference_mode(False), torch.enable_grad():
            w, target = s["w"].clone().requires_grad_(True), s["target"].clone()
            image = self.generator.synthesis(w).float()
            (grad,) = torch.autograd.grad(distance(image, target).sum(), w)
        each = s["layers"][:, None, None]
        grad = torch.where(each, grad, grad.sum(dim=1, keepdim=True))  # in W all layers move as one

        t = (s["step"] + 1)[:, None, None]
        mean, square = torch.lerp(grad, s["mean"], 0.9), torch.lerp(grad.square(), s["square"], 0.999)
        move = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        # The rate rises over the first twentieth and falls, as a cosine, over the last quarter.
        steps = s["steps"][:, None, None]
        fall = 0.5 - 0.5 * torch.cos(math.pi * ((1 - (t - 1) / steps) / 0.25).clamp(max=1))  # above 0 in the last step
        rate = s["rate"][:, None, None] * fall * (t / steps / 0.05).clamp(max=1)
        return s.replace(w=s["w"] - rate * move, mean=mean, square=square, x=image.detach(), step=s["step"] + 1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared differences of two batches N,C,H,W, summed over scales from the pixel to 4x4 blocks left: N."""
    difference = a - b
    total = difference.square().mean(dim=(1, 2, 3))
    while min(difference.shape[2:]) > 4:
        difference = F.avg_pool2d(difference, 2)
        total = total + difference.square().mean(dim=(1, 2, 3))
    return total
