"""What every denoising family shares: one network, one loss, one sampler, two ways of guidance.

A network states the clean image D(x, t, y). At time t an image lies on the path

    x_t = alpha(t) x_0 + t e,    e ~ N(0, I),

so t is the deviation of the noise. Flow matching walks alpha = 1 - t from t=1 to 0; EDM (Karras 2022) walks alpha = 1
from t = sigma_max to 0, and so does DDPM in the coordinates x / sqrt(abar), as in DDIM (Song 2021, eq. 14). On both
paths the slope of the probability-flow ODE is the same expression, (x - D) / t, so one state machine serves all:

    euler    x + (t' - t) (x - D) / t; on either path this is DDIM with eta 0
    heun     the mean of the slopes at both ends (Karras 2022, algorithm 1); the last step is Euler's
    churn    before a step of either, noise is stirred in and t grows by 1 + S_churn/N (algorithm 2)
    ddim     Euler with fresh noise: eta 0 is the ODE, eta 1 the ancestral sampler of DDPM (Song 2021, eq. 16)
    dpm++    DPM-Solver++(2M) (Lu 2022, algorithm 2): Euler's step towards a clean image that is extrapolated from the
             last two; in the paper's terms exp(-h) = (t' alpha) / (t alpha')
    deis     Zhang & Chen 2023, tAB-DEIS of third order, of the clean image: the parabola in t through the last three D
             is integrated exactly, x' = (t'/t) x + t' * integral of D dq over q from 1/t to 1/t'

Every step that ends at t = 0 lands on D itself. `spacing` moves the steps: those left, as a share of all, are raised to
that power, so that more of them are near the image. Each row carries its time, solver history and seed, so rows at
different steps, with different solvers, guidance and step counts, share every evaluation.

Guidance is D' + w (D - D'), where D' is what is steered away from: D without the label (Ho & Salimans 2022; a null
label of its own replaces some labels in training), or the `weak` network's D, an earlier copy kept as a part of the
package (autoguidance: Karras 2024). w = 1 is off and evaluates no D'. Guidance may be confined to a stretch of the
solver's way (Kynkaanniemi 2024), given in shares of its steps so that it means the same in every family.

Beside `generate` there are five tasks on the same steps, each a matter of where a row starts:

    transform    an image with noise, at the time that is a share 1 - `strength` of the solver's way (SDEdit, Meng 2022)
    inpaint      as `generate`, but outside the mask D is the known image. There the slope is then that of the straight
                 way from the known image to the row's noise, so x stays the noised known image and ends as the image
    interpolate  noise between that of two seeds, on the great circle (slerp); label weights between two classes
    invert       the image itself at t = 0: the steps run backwards to the noise that it comes from, and then to the
                 image again (DDIM inversion: Song 2021, section 4.3); what differs from the image was lost on the way
    morph        two images at t = 0: the steps run to the noise of one, then of the other, and back from what lies
                 between (Song 2021, section 5.3); label weights between the classes of the two

With `source` the network sees another image beside x, in channels of its own: the one of a pair, the image made small
and large again, or the image without its colours (Saharia 2021, SR3 and Palette). The model then has one task, which
starts from such an image: translate, upscale or colorize.

With `augment` training images are flipped, turned, scaled and shifted, and the network is told how; no image that it
makes is, for then it is told of nothing (Karras 2022, section 5 and appendix F.2, with other transforms: AUGMENTS).

A family says what its path is (`alpha`, `scale`), which times it trains on (`level`) with what `weight`, which ones the
solver visits (`times`), and how D is made of the network's output (`denoise`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, create_model, model_validator
from torch import Tensor, nn

from kartina.augment.ada import ADA, Transform, moves
from kartina.config import FamilyConfig, ImageSpec, Preset, TrainConfig
from kartina.errors import ConfigError
from kartina.generators.base import (
    Adam,
    At,
    Batch,
    Capability,
    Controls,
    Family,
    Loss,
    Output,
    Phase,
    Row,
    Share,
    State,
    going,
    interpolating,
    noise,
    to_uint8,
)
from kartina.nets.dit import DiT
from kartina.nets.sources import enlarged, grey, shrunk
from kartina.nets.unet import UNet, check_fit

Width = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=200, description="Steps of the solver: more is finer and slower")]
Solver = Annotated[
    Literal["heun", "euler", "ddim", "dpm++", "deis"],
    Field(description="Heun evaluates the network twice a step, the others once; DEIS and DPM++ need the fewest steps"),
]
Guidance = Annotated[float, Field(ge=0, le=10, description="Pull towards the class: 1 is off, more is more typical")]
Spacing = Annotated[float, Field(ge=0.5, le=4, description="More is finer steps near the image; 1 is the model's own")]
InvertSteps = Annotated[
    int, Field(ge=1, le=500, description="Steps to the noise, and as many back: more is closer and slower")
]
InvertSolver = Annotated[
    Literal["heun", "euler"], Field(description="Heun evaluates the network twice a step, Euler once")
]

QUARTILES = (-0.67448975, 0.0, 0.67448975)  # of a normal number: where the losses by noise level are divided
WEAK_HALF_LIFE = 0.05  # of the weak network's average, as a share of the updates so far
FINE = 1000  # steps that times between two steps are read from
LEAST = 1e-4  # of the share of the way that is left, whatever the spacing
STRAIGHT = 1e-3  # sine of the angle below which an arc is taken for its chord
WIDE = (slice(None), None, None, None)  # N -> N,1,1,1
AUGMENTS: tuple[Transform, ...] = (
    "xflip", "integer_translation", "isotropic_scaling", "rotation", "anisotropic_scaling", "fractional_translation",
)  # fmt: skip
TOLD = 6  # numbers by which the network is told of them


class DiffusiveConfig(FamilyConfig):
    """Settings that every denoising family has; a family may change the defaults."""

    backbone: Literal["unet", "dit"] = "unet"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (64, 128, 128)  # channels, finest first
    blocks: int = Field(2, ge=1, le=8)  # U-Net: residual blocks a level
    attention: tuple[int, ...] = (1, 2)  # U-Net: levels with self-attention, 0 = finest
    stem: int = Field(2, ge=1, le=8)  # U-Net: pixel-unshuffle factor
    patch: int = Field(2, ge=1, le=32)  # DiT: side of the square of pixels that is one token
    depth: int = Field(12, ge=1, le=64)  # DiT: blocks
    width: int = Field(384, ge=8, le=4096, multiple_of=4)  # DiT: channels of a token
    heads: int = Field(6, ge=1, le=64)  # DiT: attention heads
    dropout: float = Field(0.0, ge=0, lt=1)
    label_dropout: float = Field(0.1, gt=0, lt=1)  # share of images trained with the null label, which guidance needs
    weak_share: float = Field(0.0, ge=0, le=1)  # share of the budget at which the weak copy is kept; 0 = none
    source: Literal["none", "pairs", "upscale", "colorize"] = "none"  # an image that the network sees beside x
    factor: int = Field(4, ge=2, le=16)  # upscale: how many times larger than what is given
    augment: float = Field(0.0, ge=0, le=1)  # probability of each of AUGMENTS, of which the network is told; 0 = none


class DiffusiveControls(Controls):
    """How the solver goes from noise to an image."""

    guidance: Guidance = 1.5
    steps: Steps = 8
    solver: Solver = "heun"
    spacing: Spacing = 1.0
    guide_from: Share = Field(0.0, description="Share of the way from noise to image at which guidance starts")
    guide_to: Share = Field(1.0, description="Share of the way from noise to image at which guidance ends")
    churn: float = Field(0.0, ge=0, le=200, description="Heun and Euler: noise stirred in along the way; 0 is none")
    churn_noise: float = Field(1.0, ge=0.9, le=1.1, description="Heun and Euler: scale of the noise stirred in")
    eta: Share = Field(0.0, description="DDIM: fresh noise in each step; 0 is none, 1 is as much as DDPM's")

    @model_validator(mode="after")
    def _together(self) -> DiffusiveControls:
        if self.guide_from > self.guide_to:
            raise ValueError(f"guidance starts at {self.guide_from} and ends before, at {self.guide_to}")
        if self.churn and self.solver not in ("heun", "euler"):
            raise ValueError(f"churn={self.churn:g} works with solver=heun or euler, not {self.solver}")
        if self.eta and self.solver != "ddim":
            raise ValueError(f"eta={self.eta:g} works with solver=ddim, not {self.solver}")
        return self


class InvertControls(Controls):
    steps: InvertSteps = 25
    solver: InvertSolver = "heun"


@cache
def guidable(controls: type[DiffusiveControls], by: tuple[Literal["label", "weak"], ...]) -> type[DiffusiveControls]:
    """The controls of a model that can be steered away from images without the label, or from those of its weak
    network; the first is the default. Guidance by the label is the family's; by the weak network alone, or by nothing,
    it is off where nothing is said, and by nothing it stays off."""
    if by == ("label",):
        return controls
    fields: dict[str, Any] = {}
    if "label" not in by:
        about = "Pull away from the weak network's images: 1 is off" if by else "1: it has no classes to pull towards"
        fields["guidance"] = (Annotated[float, Field(ge=0 if by else 1, le=10 if by else 1, description=about)], 1.0)
    if by:
        about = "What guidance steers away from: images without the label, or those of the weak network"
        fields["guide"] = (Literal[by], Field(by[0], description=about))
    return create_model(f"{'Auto' if by else 'Un'}guided{controls.__name__}", __base__=controls, **fields)


@cache
def transforming(controls: type[DiffusiveControls]) -> type[DiffusiveControls]:
    """The controls with those of `transform`."""
    about = "How much is made anew: 0 keeps the image, 1 keeps nothing of it"
    strength: Any = (Share, Field(0.75, description=about))
    return create_model(f"Transform{controls.__name__}", __base__=controls, strength=strength)


@cache
def morphing(controls: type[InvertControls], classes: tuple[str, ...]) -> type[InvertControls]:
    """The controls with those of `morph`, for a model of these classes."""
    return create_model(f"Morph{controls.__name__}", __base__=controls, **going(classes))


class DiffusiveFamily(Family):
    """Base of the denoising families: a `generator`, and a `weak` copy of it where `weak_share` asks for one.

    Images are float N,C,H,W in [-1, 1]; times t float N; label weights y N,K+1, of which the last is the null label's.
    """

    config: DiffusiveConfig
    controls: ClassVar[type[DiffusiveControls]] = DiffusiveControls
    invert_controls: ClassVar[type[InvertControls]] = InvertControls
    channels_last = False
    far: ClassVar[float] = math.inf  # by how many times t may change in a step of Heun; a longer one is Euler's
    sweep: ClassVar[Mapping[str, Sequence[Any]]] = {
        "solver": ("heun", "dpm++", "deis"),
        "spacing": (1.0, 1.25, 1.5),
        "guidance": (1.0, 1.25, 1.5, 2.0),
        "steps": (6, 8, 12, 16),
    }

    def __init__(self, config: DiffusiveConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.check_source()
        self.generator = self.network()
        if config.weak_share:
            self.weak = self.network().requires_grad_(False)
            self.parts = (*self.parts, "weak")  # type: ignore[misc]  # of this model, not of the family

    def network(self) -> nn.Module:
        """The backbone: (x N,C,H,W, what it is told of the noise N, y) -> N,C,H,W."""
        c, spec = self.config, self.spec
        seen = spec.channels + self.source_channels
        labels, told = self.classes + 1, TOLD if c.augment else 0
        if c.backbone == "dit":
            if spec.height % c.patch or spec.width % c.patch:
                raise ConfigError(
                    f"Found images of {spec.height}x{spec.width}; this {self.name} needs both sides to be multiples of "
                    f"{c.patch} (patch {c.patch}). Import the data at another --size, or set patch."
                )
            if c.width % c.heads:
                raise ConfigError(f"Found width={c.width} and heads={c.heads}; expected a width that they divide.")
            return DiT(seen, spec.channels, labels, c.patch, c.depth, c.width, c.heads, c.dropout, told)
        check_fit(c.widths, c.attention, c.stem, spec.height, spec.width)
        return UNet(
            seen,
            spec.channels,
            labels=labels,
            widths=c.widths,
            blocks=c.blocks,
            attention=c.attention,
            stem=c.stem,
            dropout=c.dropout,
            told=told,
        )

    def stated(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        """What the generator, or `net`, states of x beside its source, told of the noise by t: float32 N,C,H,W."""
        seen = x if source is None else torch.cat([x, source], dim=1)
        out: Tensor = (net or self.generator)(seen, t, y).float()
        return out

    # -- the image beside x ----------------------------------------------------------------------------------------

    @classmethod
    def takes_pairs(cls, config: DiffusiveConfig) -> bool:
        return config.source == "pairs"

    @property
    def source_channels(self) -> int:
        return {"none": 0, "pairs": self.spec.source_channels, "upscale": self.spec.channels, "colorize": 1}[
            self.config.source
        ]

    def check_source(self) -> None:
        """Raise ConfigError where there is no such source for images of this kind."""
        c, spec = self.config, self.spec
        if c.source == "pairs" and not spec.source_channels:
            raise ConfigError(
                "Found data without pairs; source=pairs learns from pairs. Import a folder or zip with SPLIT/A "
                "(sources) and SPLIT/B (targets) of equal file names."
            )
        if c.source == "upscale" and (spec.height % c.factor or spec.width % c.factor):
            raise ConfigError(
                f"Found images of {spec.height}x{spec.width}; source=upscale needs both sides to be multiples of "
                f"{c.factor} (its factor). Import the data at another --size, or set factor."
            )
        if c.source == "colorize" and spec.channels != 3:
            raise ConfigError(
                f"Found images of {spec.channels} channels; source=colorize learns from colour. Import with "
                "--channels 3."
            )

    def source(self, batch: Batch) -> Tensor | None:
        """The image that the network sees beside each image of the batch, N,C',H,W in [-1, 1]; None without."""
        match self.config.source:
            case "pairs":
                return batch.sources
            case "upscale":
                return enlarged(shrunk(batch.images, self.config.factor), self.config.factor)
            case "colorize":
                return grey(batch.images)
        return None

    # -- what a family says ----------------------------------------------------------------------------------------

    def alpha(self, t: Tensor) -> Tensor:
        """How much of the clean image is in x_t: N -> N. 1 here, the path of EDM."""
        return torch.ones_like(t)

    def scale(self, alpha: Tensor, t: Tensor) -> Tensor:
        """What alpha x_0 + t e must be divided by to lie on the path: N, N -> N. alpha on the path of EDM."""
        return alpha

    def level(self, z: Tensor) -> Tensor:
        """Training times, a rising function of standard normal numbers: N -> N."""
        raise NotImplementedError

    def weight(self, t: Tensor) -> Tensor:
        """Of |D - x_0|^2 in the loss: N -> N."""
        raise NotImplementedError

    def times(self, step: Tensor, steps: Tensor) -> Tensor:
        """Where the solver is after `step` of `steps` (int64 N): falling times N, the last of them 0."""
        raise NotImplementedError

    @property
    def least(self) -> float:
        """The time below which the way to the noise and back has the score of this time, so that its slope falls to 0.

        A network that states the image outright errs by as much however little noise there is, and the slope
        (x - D) / t has that error divided by t: each step away from the image would add to it.
        """
        return 0.0

    def denoise(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        """D(x_t, t): the mean clean image, float32 N,C,H,W; by the generator, or by `net`. See `stated`."""
        raise NotImplementedError

    # -- training --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return [Phase("denoise", list(self.generator.parameters()))]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(betas=(0.9, 0.99))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        z, e = at.randn(len(batch)), at.randn(*batch.images.shape)
        dropped = at.rand(len(batch)) < self.config.label_dropout
        labels = torch.where(dropped, self.classes, batch.labels)
        if not self.config.augment:
            return self.error(batch.images, e, z, labels, self.source(batch))
        batch, told = self.augmented(batch, at)
        return self.error(batch.images, e, z, labels, self.source(batch), told)

    def augmented(self, batch: Batch, at: At) -> tuple[Batch, Tensor]:
        """The batch, each image moved at random (and its source with it), and N,TOLD: how (Karras 2022, appendix F.2).

        StyleGAN2's geometric augmentations. What is told enters where the class does, through a linear layer without a
        bias, and is left out when images are made: the network knows which images were moved, and makes none such.
        """
        h, w = self.spec.height, self.spec.width
        pipeline = ADA(self.spec.channels, AUGMENTS)
        pipeline.p.fill_(self.config.augment)
        draw = pipeline.draw(pipeline.numbers(batch.images, at.rng), h, w)
        images, sources = (x if x is None else pipeline.execute(x, draw) for x in (batch.images, batch.sources))
        assert images is not None
        with torch.autocast(images.device.type, enabled=False):  # of a product of matrices bfloat16 leaves 8 bits
            told = moves(draw, h, w)
        return replace(batch, images=images, sources=sources), told

    def validate(self, batch: Batch, at: At, trained: Family) -> Mapping[str, Tensor]:
        z, e = at.randn(len(batch)), at.randn(*batch.images.shape)
        return self.error(batch.images, e, z, batch.labels, self.source(batch)).stats

    def error(
        self, x: Tensor, e: Tensor, z: Tensor, labels: Tensor, source: Tensor | None = None, told: Tensor | None = None
    ) -> Loss:
        """E weight |D - x|^2 on images x with noise e at the times of z, and the same in each quarter of the times.

        labels int64 N, K for the null label. `loss_q1` (least noise) to `loss_q4` are sums over the images of the
        quarter, times 4/N: means in the long run, and their own mean is the loss.
        """
        t = self.level(z)
        y = nn.functional.one_hot(labels, self.classes + 1).float()
        if told is not None:
            y = torch.cat([y, told], dim=1)
        clean = self.denoise(self.noised(x, e, t), t, y, source=source)
        error = self.weight(t) * (clean - x).square().mean(dim=[1, 2, 3])
        quarter = torch.stack([z > q for q in QUARTILES]).sum(dim=0)
        stats = {f"loss_q{i + 1}": (error * (quarter == i)).mean() * 4 for i in range(4)}
        return Loss(error.mean(), {k: v.detach() for k, v in {"loss": error.mean(), **stats}.items()})

    def noised(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """x_t of clean images x and noise e."""
        return self.alpha(t)[WIDE] * x + t[WIDE] * e

    @torch.no_grad()
    def after(self, phase: str, stats: Mapping[str, Tensor], at: At) -> None:
        """Until `weak_share` of the budget the weak network follows the generator (a moving average); then it stays.

        Karras 2024 trains a smaller network besides; an earlier copy of the same one costs no training.
        """
        if at.fraction < self.config.weak_share:
            keep = 0.5 ** (1 / (WEAK_HALF_LIFE * (at.step + 1)))
            torch._foreach_lerp_(list(self.weak.parameters()), list(self.generator.parameters()), 1 - keep)

    # -- sampling --------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        controls = guidable(self.controls, self.guides)
        match self.config.source:
            case "pairs":
                return {"translate": Capability(("image",), controls, self.spec.source_channels)}
            case "upscale":
                return {"upscale": Capability(("image",), controls, shrink=self.config.factor)}
            case "colorize":
                return {"colorize": Capability(("image",), controls, 1)}
        return {
            "generate": Capability(controls=controls),
            "transform": Capability(("image",), transforming(controls)),
            "inpaint": Capability(("image", "mask"), controls),
            "interpolate": Capability(controls=interpolating(controls, self.spec.classes, "noise")),
            "invert": Capability(("image",), self.invert_controls),
            "morph": Capability(("image", "to_image"), morphing(self.invert_controls, self.spec.classes)),
        }

    @property
    def guides(self) -> tuple[Literal["label", "weak"], ...]:
        """What its images can be steered away from."""
        found: dict[Literal["label", "weak"], bool] = {
            "label": bool(self.spec.classes),
            "weak": self.config.weak_share > 0,
        }
        return tuple(name for name, there in found.items() if there)

    def start(self, rows: Sequence[Row]) -> State:
        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        task, given = rows[0].task, [row.controls for row in rows]
        if task in ("invert", "morph"):
            given = [
                self.controls.model_construct(steps=c.steps, solver=c.solver, guidance=1.0, spacing=1.0) for c in given
            ]
        weak = [getattr(c, "guide", "label") == "weak" for c in given]
        steps = column([c.steps for c in given], torch.int64)
        y = torch.cat([self.weights(rows), torch.zeros(len(rows), 1, device=self.device)], dim=1)
        e = torch.stack([noise(row.seed, self.name, 0, self.spec.shape) for row in rows]).to(self.device)

        # Where a row starts: at this step and time of its way, at this image with the noise of that time.
        step, turn = torch.zeros_like(steps), torch.zeros_like(steps)
        t, x0 = self.times(step, steps), torch.zeros_like(e)
        more: dict[str, Tensor] = {}
        match task:
            case "transform":
                step, t = self.entry(column([c.strength for c in given]), steps, column([c.spacing for c in given]))
                # Where the way begins, nothing of the image is left, even if alpha is not quite 0 there.
                x0 = torch.where(column([c.strength == 1 for c in given], torch.bool)[WIDE], 0.0, self.inputs(rows))
            case "inpaint":
                more = {"known": self.inputs(rows), "mask": self.inputs(rows, "mask")}
                x0 = torch.lerp(more["known"], x0, more["mask"])
            case "interpolate":
                there = [noise(row.to_seed, self.name, 0, self.spec.shape) for row in rows]
                e, y = between(self, rows, e, torch.stack(there).to(self.device), y)
            case "invert":
                turn, steps = steps, 2 * steps
                t, x0 = self.times(turn, turn), self.inputs(rows)
                more = {"noise": torch.zeros_like(e)}
            case "morph":
                turn, steps = 2 * steps, 3 * steps
                t, x0 = self.times(steps - turn, steps - turn), self.inputs(rows)
                share, to_y = column([row.controls.share for row in rows]), self.other_class(rows, y)
                more = {
                    "noise": torch.zeros_like(e),
                    "to_image": self.inputs(rows, "to_image"),
                    "to_y": to_y,
                    "between_y": torch.lerp(y, to_y, share[:, None]),
                    "share": share,
                }
            case "translate" | "colorize":
                more = {"source": self.inputs(rows)}
            case "upscale":
                more = {"source": enlarged(self.inputs(rows), self.config.factor)}
        x = self.noised(x0, e, t)
        return State(
            {
                "x": x,
                "t": t,
                "y": y,
                "clean": torch.zeros_like(x),  # the last D: the history of dpm++ and deis, and the preview
                "clean_before": torch.zeros_like(x),  # and the one before it
                "made_at": torch.full_like(t, math.inf),  # the times of both; infinite: there is none
                "made_before": torch.full_like(t, math.inf),
                "slope": torch.zeros_like(x),  # Heun: the slope at the start of the step
                "stage": torch.zeros_like(steps),  # Heun: 1 = the second evaluation is due
                "step": step,
                "steps": steps,
                "turn": turn,  # up to this step the way leads to the noise: once to invert, twice to morph
                "seed": column([row.seed for row in rows], torch.int64),
                "heun": column([c.solver == "heun" for c in given], torch.bool),
                "dpm": column([c.solver == "dpm++" for c in given], torch.bool),
                "deis": column([c.solver == "deis" for c in given], torch.bool),
                "spacing": column([c.spacing for c in given]),
                "churn": column([c.churn for c in given]),
                "churn_noise": column([c.churn_noise for c in given]),
                "eta": column([c.eta for c in given]),
                "guidance": column([c.guidance for c in given]),
                "weak": column(weak, torch.bool),
                "guide_from": column([c.guide_from for c in given]),
                "guide_to": column([c.guide_to for c in given]),
                **more,
            }
        )

    def entry(self, strength: Tensor, steps: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
        """Where a transformation enters the way: steps already done (int64 N), and the time t N.

        The time follows from the strength alone. The first step leads from there to the step of the solver that is
        half a step or more away, so that no step is tiny.
        """
        way = 1 - strength
        t = self.times(way * FINE, torch.full_like(steps, FINE))
        done = torch.minimum(spaced(way * steps, steps, 1 / spacing).round().long(), steps - 1)
        return torch.where(way < 1, done, steps), t

    def step(self, state: State) -> State:
        active = ~state.done
        if not bool(active.any()):
            return state
        s = state if bool(active.all()) else state.take(active)
        step, steps, turn, second = s["step"], s["steps"], s["turn"], s["stage"] == 1
        last = step + 1 == steps

        # Stir noise in where the row churns; then the step goes from (x, t) to t_next.
        way = steps - turn  # there, and back
        x, t = s["x"], s["t"]
        after = torch.where(step < turn, way - 1 - step % way, step + 1 - turn)
        t_next = self.times(spaced(after, way, s["spacing"]), way)
        churned = (s["churn"] > 0) & ~second
        if bool(churned.any()):
            x, t = self.stirred(s, churned)
        dt = (t_next - t)[WIDE]

        # One evaluation: at the start of the step, or (Heun, and where it leaves t = 0) at its end.
        here = torch.where(second | (t == 0), t_next, t)
        at = torch.where(turn > 0, here.clamp(min=self.least), here)
        flat, here = here / at, at  # 1, but below `least` on the way to the noise and back
        x_here = torch.where(second[WIDE], x + dt * s["slope"], x)
        done = (step + second) / steps
        w = torch.where((done >= s["guide_from"]) & (done <= s["guide_to"]), s["guidance"], 1.0)
        clean = self.guided(x_here, here, s["y"], w, s["weak"], s.tensors.get("source"))
        if "mask" in s.tensors:
            clean = torch.lerp(s["known"], clean, s["mask"])

        # DPM++ and DEIS aim at an image that is extrapolated from the last D.
        one, two = self.ahead(s, here, t_next)
        aim = clean + one[WIDE] * (clean - s["clean"]) + two[WIDE] * (s["clean"] - s["clean_before"])

        # Euler moves on at once, and so does the step that ends at t = 0 (there x = D); Heun averages two slopes.
        slope = (x_here - aim) / here[WIDE] * flat[WIDE]
        long = torch.maximum(t, t_next) > self.far * torch.minimum(t, t_next)
        halfway = s["heun"] & ~second & ~last & ~(long & (t > 0))
        moved = x + dt * torch.where(second[WIDE], (s["slope"] + slope) / 2, slope)
        renewed = s["eta"] > 0
        if bool(renewed.any()):
            moved[renewed] += self.renewal(s, renewed, clean, here, t_next)
        moved = torch.where((~second & last & (here == t))[WIDE], clean, moved)

        new = s.replace(
            x=torch.where(halfway[WIDE], x, moved),
            t=torch.where(halfway, t, t_next),
            clean=clean,
            slope=torch.where(halfway[WIDE], slope, s["slope"]),
            stage=halfway.long(),
            step=step + (~halfway).long(),
            clean_before=s["clean"],
            made_at=here,
            made_before=s["made_at"],
        )
        if "noise" in s.tensors:
            there = (new["step"] <= turn) & (new["step"] % way == 0) & ~halfway
            new = self.turned(new, there, new["step"] == turn)
        return new if s is state else state.put(active, new)

    def turned(self, s: State, there: Tensor, last: Tensor) -> State:
        """Rows that are `there`, at the noise of an image, keep it and go back; to morph, first from the other image,
        and at the `last` noise from what lies between the two."""
        found = s["x"] / torch.where(there, s["t"], 1.0)[WIDE]
        if "to_image" not in s.tensors:
            return s.replace(noise=torch.where(there[WIDE], found, s["noise"]))
        first, last = there & ~last, there & last
        found = torch.where(last[WIDE], slerp(s["noise"], found, s["share"]), found)
        x = torch.where(last[WIDE], s["t"][WIDE] * found, s["x"])
        y = torch.where(last[:, None], s["between_y"], s["y"])
        return s.replace(
            x=torch.where(first[WIDE], s["to_image"], x),
            t=torch.where(first, 0.0, s["t"]),
            y=torch.where(first[:, None], s["to_y"], y),
            noise=torch.where(there[WIDE], found, s["noise"]),
        )

    def ahead(self, s: State, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """How far the step from t looks ahead: the weights N of (D - D_1) and (D_1 - D_2) in the image aimed at, where
        D_1 and D_2 are the last D's. 0 where there is no such history, and for the solvers of one step.

        DPM++: along the line in lambda = log(alpha/t) through the last two. DEIS: with D(q) the parabola through the
        last three, Newton's form, the aim is the mean of D over q = 1/t .. 1/t_next.
        """
        t_1, t_2 = s["made_at"], s["made_before"]
        now, then = self.half_log_snr(t), self.half_log_snr(t_next)
        dpm = (then - now) / (2 * (now - self.half_log_snr(t_1)))

        m = t * t_next * torch.log(t / t_next) / (t - t_next)  # mean of t over the step
        m_1, m_2 = m - t, t * t_next - (t + t_1) * m + t * t_1  # of (s - t), and of (s - t)(s - t_1)
        one = (m_1 + m_2 / (t - t_2)) / (t - t_1)
        two = -m_2 / ((t_1 - t_2) * (t - t_2))

        one = torch.where(s["deis"], one, torch.where(s["dpm"], dpm, 0.0))
        return one.nan_to_num(0, 0, 0), torch.where(s["deis"], two, 0.0).nan_to_num(0, 0, 0)

    def half_log_snr(self, t: Tensor) -> Tensor:
        """log(alpha/t), from -inf (all noise) to inf (t = 0): N -> N."""
        return torch.log(self.alpha(t).clamp(min=0) / t)

    def stirred(self, s: State, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x and t of all rows after the picked ones took noise in (Karras 2022, algorithm 2, lines 4 to 6).

        t/alpha grows by 1 + gamma, gamma = min(S_churn/N, sqrt 2 - 1); on a path where alpha falls the sum is scaled
        back onto it. The paper's S_tmin and S_tmax are 0 and infinity: every step churns.
        """
        x, t, part = s["x"].clone(), s["t"].clone(), s.take(rows)
        grow = 1 + (part["churn"] / part["steps"]).clamp(max=math.sqrt(2) - 1)
        scale = self.scale(self.alpha(part["t"]), grow * part["t"])
        extra = part["t"] * (grow.square() - 1).sqrt() * part["churn_noise"]
        x[rows] = ((part["x"] + extra[WIDE] * self.fresh(part, "churn")) / scale[WIDE]).to(x.dtype)
        t[rows] = (grow * part["t"] / scale).to(t.dtype)
        return x, t

    def renewal(self, s: State, rows: Tensor, clean: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """What DDIM with eta adds to Euler's step of the picked rows (Song 2021, eq. 12 and 16).

        Of the noise that is left at t', t' e, a part becomes fresh: t' (sqrt(1 - k^2) e + k e'), with
        k = eta sqrt(1 - q^2) and q = (t' alpha) / (t alpha').
        """
        part = s.take(rows)
        grown = self.half_log_snr(t)[rows] - self.half_log_snr(t_next)[rows]
        k = (part["eta"] * (1 - torch.exp(2 * grown)).sqrt())[WIDE]
        e = (part["x"] - self.alpha(part["t"])[WIDE] * clean[rows]) / part["t"][WIDE]
        return t_next[rows][WIDE] * (((1 - k.square()).sqrt() - 1) * e + k * self.fresh(part, "eta"))

    def fresh(self, s: State, stream: str) -> Tensor:
        """Noise N,C,H,W of each row's own seed and step."""
        of = zip(s["seed"].tolist(), s["step"].tolist(), strict=True)
        return torch.stack([noise(seed, stream, step, self.spec.shape) for seed, step in of]).to(self.device)

    def guided(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        w: Tensor,
        weak: Tensor | None = None,
        source: Tensor | None = None,
    ) -> Tensor:
        """D' + w (D - D'), evaluating D' only for rows with w != 1: without the label, in the same batch as D; or, for
        the rows that `weak` (bool N) picks, by the weak network."""
        steered = w != 1
        if not bool(steered.any()):
            return self.denoise(x, t, y, source=source)
        by_weak = steered & weak if weak is not None else torch.zeros_like(steered)
        by_label = steered & ~by_weak
        null = torch.zeros_like(y[by_label])
        null[:, -1] = 1
        both = None if source is None else torch.cat([source, source[by_label]])
        out = self.denoise(torch.cat([x, x[by_label]]), torch.cat([t, t[by_label]]), torch.cat([y, null]), source=both)
        d, d_null = out[: len(x)], out[len(x) :]
        mixed = d.clone()
        mixed[by_label] = torch.lerp(d_null, d[by_label], w[by_label][WIDE])
        if bool(by_weak.any()):
            beside = None if source is None else source[by_weak]
            d_weak = self.denoise(x[by_weak], t[by_weak], y[by_weak], self.weak, beside)
            mixed[by_weak] = torch.lerp(d_weak, d[by_weak], w[by_weak][WIDE])
        return mixed

    def finish(self, state: State) -> Output:
        """The images; of an inversion also the noise N,C,H,W that they come from, of unit variance on a good model."""
        found = {"noise": state["noise"].cpu()} if "noise" in state.tensors else {}
        return Output(to_uint8(state["x"]), found)

    def preview(self, state: State) -> Tensor:
        return to_uint8(state["clean"])


def spaced(step: Tensor, steps: Tensor, power: Tensor) -> Tensor:
    """Where a step lies, N, in even steps: the share that is left is raised to `power`. With 1, `step` itself.

    At least LEAST of that share stays left, which float32 tells from none: only the last step ends the way.
    """
    left = (1 - step / steps).clamp(min=0)
    return torch.where(power == 1, step, (1 - torch.maximum(left**power, LEAST * left)) * steps)


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Points on the great circles from a to b, N,...: between two draws of noise there is one as likely. share N.

    (sin((1-s) angle) a + sin(s angle) b) / sin(angle); on the straight line where the sine is too small to divide by.
    """
    angle = torch.acos(nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1))
    sine, shape = angle.sin(), (-1, *[1] * (a.dim() - 1))
    of_a, of_b = (torch.sin(s * angle) / sine for s in (1 - share, share))
    line = torch.lerp(a, b, share.view(shape))
    return torch.where((sine < STRAIGHT).view(shape), line, of_a.view(shape) * a + of_b.view(shape) * b)


def between(family: Family, rows: Sequence[Row], e: Tensor, there: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and label weights of rows that interpolate: so far on the arc from e to `there`, so far from y to the class
    to go to."""
    share = torch.tensor([row.controls.share for row in rows], device=family.device)
    return slerp(e, there, share), torch.lerp(y, family.other_class(rows, y), share[:, None])


# -- presets -----------------------------------------------------------------------------------------------------------

CPU = dict(
    optimizer="muon", batch=32, lr=2e-3, warmup=1000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000, clip=1.0
)
_GPU = dict(batch=128, lr=3e-4, warmup=50_000, decay="cosine", decay_from=0.5, decay_to=0.05, ema=500_000)
_SIZES: dict[str, tuple[int, str, dict[str, Any], dict[str, Any]]] = {
    "32-cpu": (
        32,
        "for minutes of CPU",
        dict(widths=(64, 96, 112), blocks=1, attention=(1, 2)),
        CPU,
    ),
    "64-cpu": (
        64,
        "at 64 px for minutes of CPU: folded four times",
        dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), stem=4),
        CPU,
    ),
    "32": (
        32,
        "for a GPU, or a CPU overnight",
        dict(widths=(128, 256, 256), blocks=2, attention=(1, 2), stem=1, dropout=0.1),
        _GPU,
    ),
    "64": (
        64,
        "at 64 px for a GPU",
        dict(widths=(128, 256, 256), blocks=2, attention=(1, 2), stem=2, dropout=0.1),
        _GPU,
    ),
    "128": (
        128,
        "at 128 px for a GPU",
        dict(widths=(128, 256, 256, 384), blocks=2, attention=(2, 3), stem=2, dropout=0.1),
        _GPU,
    ),
}


def preset_table(family: str, what: str, config: Mapping[str, Mapping[str, Any]]) -> dict[str, Preset]:
    """A family's presets of every size: the same nets and training, and `config` over the nets' settings by size."""
    return {
        f"{family}-{key}": Preset(size, f"{what} {use}", {**nets, **config.get(key, {})}, train)
        for key, (size, use, nets, train) in _SIZES.items()
    }
