"""MeanFlow: one-step generation from scratch, class-conditional (Geng 2025, "Mean Flows for One-step Generative
Modeling").

The path is the flow's (Lipman 2023): z_t = (1-t) x + t e from data x at t=0 to noise e at t=1, with velocity v = e - x.
A flow learns v and needs many steps to follow it; MeanFlow learns the average velocity between r <= t,

    u(z_t, r, t) = 1/(t-r) * integral from r to t of v(z_tau, tau) dtau,        (eq. 3)

so that one step z_r = z_t - (t-r) u reaches any r exactly (eq. 12). Differentiating (t-r) u by t along the path gives
the MeanFlow identity, which needs no integral (eq. 6, 8):

    u = v - (t-r) du/dt,   du/dt = v . d_z u + d_t u:  a JVP of tangent (v, 0, 1) in (z, r, t).

What the network states. As in `flow`, it states an image, for the reasons given there (docs/decisions/0003): here
X(z_t, r, t) = z_t - t u, as in pixel MeanFlow (Lu 2026). X(z_t, t, t) is the flow's mean clean image, X(z_t, 0, t) the
image that the path from z_t ends in; the single step from t=1 to r=0 is X itself. Put into the identity, with
a = (t-r)/t and the clean image x for z_t - t v, every 1/t falls out of the target (the network is no longer
differentiated through one, and small t are harmless):

    X = x + a (X - x) - D,   D = dz . d_z X + (t-r) d_t X:  a JVP of tangent dz = a (z_t - x) = (t-r) v, dt = t - r.

At r = t this is X = x, the flow's regression; at r = 0 it is D = 0: X does not change along a path, which is the
continuous consistency model's condition (Song 2023). The loss is the velocity's, |u - u_target|^2 = |X - X_target|^2 /
t^2 without gradient through the target, t clamped below at `t_min`, and each image weighted by 1 / (loss + c)^p
(section 4.3).

Guidance (Ho & Salimans 2022) is trained in, so that a step stays one evaluation: the identity is asked of the guided
field w v + (1-w) v(z_t | null label) (section 4.2), for which x becomes w x + (1-w) X(z_t, t, t | null). A tenth of the
images is trained with the null label, unguided.

With `taught`, a flow of the same data (a frozen child, whose weights a run is given by --teacher) states that field,
and x becomes its guided clean image w D(z_t, t | y) + (1-w) D(z_t, t | null): Eulerian distillation of a flow map
(Boffi 2024; Sabour 2025, "Align Your Flow"). The velocity of the identity is then the field's own and not one sample of
it, so that less is left to chance, and what is learnt is where the flow's sampler would end, with its guidance. Start
it --from a MeanFlow that has learnt the rest.

With `ends` the single step alone is learnt, from noise and the image that the teacher's own sampler makes of it (Luhman
2021, "Knowledge Distillation in Iterative Generative Models"). The last so many are kept, and each is seen `reuse`
times, for a flow's cost 16 passes. Or a MeanFlow is the teacher (`taught_by`), by `teacher_steps` of a pass each. The
loss is the mean square of their difference and, added to it, that of what the teacher sees in both, noised alike (Lin &
Yang 2024, "Diffusion Model with Perceptual Loss"): its feature maps on the way to the middle, each place's channels
scaled to length 1 as in LPIPS (Zhang 2018). A MeanFlow's two steps in one are halving (Salimans & Ho 2022, "Progressive
Distillation"); one step follows a MeanFlow's few more closely than a flow's eight (docs/LOG.md).

The JVP is forward-mode and shares its primal with the loss; attention leaves the fused kernels for it, which have no
forward derivative. With `apart` = 0.75 and guidance, an update costs 1.8 times a flow's in multiplications.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from kartina import registry
from kartina.config import FamilyConfig, ImageSpec, Preset, TrainConfig
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
    State,
    interpolating,
    noise,
    to_uint8,
)
from kartina.generators.diffusive import CPU, DiffusiveFamily, Width, between
from kartina.nets.unet import UNet, check_fit
from kartina.registry import register

TOP = 10.0  # highest frequency of the time embeddings: the flow's 1000 would drown d_t X in the JVP
C = 1e-3  # of the adaptive weight; the paper adds it to a sum over an image's values, here it is to their mean
MOST = 8  # evaluations that an image may take
NEAR = 0.05  # t at which the teacher looks at images that are compared: chosen, not swept


class MeanFlowConfig(FamilyConfig):
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (64, 128, 128)  # channels, finest first
    blocks: int = Field(2, ge=1, le=8)  # residual blocks a level
    attention: tuple[int, ...] = (1, 2)  # levels with self-attention, 0 = finest
    stem: int = Field(2, ge=1, le=8)  # pixel-unshuffle factor
    dropout: float = Field(0.0, ge=0, lt=1)
    label_dropout: float = Field(0.1, ge=0, lt=1)  # share of images trained with the null label
    guidance: float = Field(1.5, ge=0, le=10)  # w, trained in: 1 is off; a MeanFlow that teaches has its own
    taught: bool = False  # by a teacher: learn a flow's field, and not that of the data
    taught_by: Literal["flow", "meanflow"] = "flow"
    shift: float = Field(1.0, ge=1, le=20)  # of the flow that teaches: its own setting
    ends: int = Field(0, ge=0, le=65536)  # 0 is off; else the single step alone is taught, by so many kept images
    reuse: int = Field(4, ge=1, le=1000)  # times that each of them is seen, in the mean; at most the batch
    teacher_steps: int | None = Field(None, ge=1, le=100)  # for each of them; None: a flow's default, a MeanFlow's two
    apart: float = Field(0.75, gt=0, le=1)  # share of images with r != t
    t_mean: float = Field(-0.4, ge=-10, le=10)  # both times are logit-normal, sorted: mean and deviation of logit(t)
    t_std: float = Field(1.0, gt=0, le=10)
    t_min: float = Field(0.1, gt=0, lt=1)  # the loss weight 1/t^2 stops growing here
    power: float = Field(0.75, ge=0, le=1)  # p of the adaptive weight: 0 is the plain square, 0.5 near the distance

    @model_validator(mode="after")
    def _together(self) -> MeanFlowConfig:
        if self.ends and not self.taught:
            raise ValueError(f"ends={self.ends} are images of a teacher: set taught=true as well")
        if self.taught_by == "meanflow" and not (self.taught and self.ends):
            raise ValueError(
                "a MeanFlow teaches by its images alone: set taught=true, and ends, the number that are kept"
            )
        if self.teacher_steps is not None and not self.ends:
            raise ValueError(f"teacher_steps={self.teacher_steps} are those of a teacher's images: set ends as well")
        if self.taught_by == "meanflow" and (self.teacher_steps or 0) > MOST:
            raise ValueError(f"teacher_steps={self.teacher_steps}; a MeanFlow makes an image in at most {MOST}")
        if self.guidance != 1 and not self.label_dropout and not self.taught:
            raise ValueError(
                f"guidance={self.guidance:g} asks for images without a label, which label_dropout=0 never trains: set "
                "guidance=1, or a label_dropout above 0"
            )
        return self


class MeanFlowControls(Controls):
    steps: int = Field(1, ge=1, le=MOST, description="Evaluations of the network: one is enough, more refine")


@register("meanflow")
class MeanFlow(Family):
    Config = MeanFlowConfig
    teacher: Family
    end_seeds: Tensor
    end_labels: Tensor
    end_images: Tensor
    channels_last = False
    teachers: tuple[str, ...] = ("flow", "meanflow")  # type: ignore[misc]  # of a model, the one that its config names
    sweep: ClassVar = {"steps": (1, 2, 4)}
    presets: ClassVar = {
        "meanflow-32-cpu": Preset(
            32,
            "one-step diffusion for an hour of CPU: silhouettes, still grainy, after ten minutes",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), guidance=2.0, t_mean=0.0, t_std=1.6),
            CPU,
        ),
        "meanflow-distil-32-cpu": Preset(
            32,
            "a flow in one step: give it --teacher FLOW, and start it --from a MeanFlow",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), guidance=1.25, taught=True, t_mean=0.0, t_std=1.6),
            {**CPU, "lr": 7e-4, "decay_from": 0.1, "ema": 3000},
        ),
        "meanflow-onestep-32-cpu": Preset(
            32,
            "a flow in one step, by its images: --teacher FLOW --from what meanflow-distil-32-cpu made of it",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), guidance=1.25, taught=True, ends=8192),
            {**CPU, "lr": 5e-4, "decay_from": 0.0, "ema": 3000},
        ),
        "meanflow-halve-32-cpu": Preset(
            32,
            "one step that is as good as two: give it a MeanFlow as --teacher and as --from",
            dict(
                widths=(64, 96, 112), blocks=1, attention=(1, 2), taught=True, taught_by="meanflow", ends=256, reuse=1
            ),
            {**CPU, "lr": 3e-4, "decay_from": 0.0, "ema": 3000},
        ),
        "meanflow-64-cpu": Preset(
            64,
            "one-step diffusion at 64 px for an hour of CPU: folded four times",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), stem=4, t_min=0.2),
            CPU,
        ),
        "meanflow-32": Preset(
            32,
            "one-step diffusion for a GPU, with the paper's CIFAR-10 times, share and weight",
            dict(widths=(128, 256, 256), attention=(1, 2), stem=1, dropout=0.2, t_mean=-2.0, t_std=2.0),
            dict(batch=256, lr=3e-4, warmup=100_000, ema=1_000_000, clip=1.0),
        ),
        "meanflow-64": Preset(
            64,
            "one-step diffusion at 64 px for a GPU",
            dict(widths=(128, 256, 384), attention=(1, 2), stem=2, dropout=0.1),
            dict(batch=256, lr=3e-4, warmup=100_000, ema=1_000_000, clip=1.0),
        ),
        "meanflow-128": Preset(
            128,
            "one-step diffusion at 128 px for a GPU: folded four times",
            dict(widths=(128, 256, 384), attention=(1, 2), stem=4, dropout=0.1, t_min=0.2),
            dict(batch=128, lr=2e-4, warmup=100_000, ema=1_000_000, clip=1.0),
        ),
    }

    def __init__(self, config: MeanFlowConfig, spec: ImageSpec):
        super().__init__(config, spec)
        check_fit(config.widths, config.attention, config.stem, spec.height, spec.width)
        size: dict[str, Any] = dict(
            cin=spec.channels, cout=spec.channels, labels=self.classes + 1, widths=config.widths,
            blocks=config.blocks, attention=config.attention, stem=config.stem,
        )  # fmt: skip
        self.generator = UNet(**size, dropout=config.dropout, span=True, top=TOP)
        if config.taught:
            nets = {key: getattr(config, key) for key in ("widths", "blocks", "attention", "stem")}
            by = registry.family(config.taught_by)
            if config.taught_by == "flow":
                nets["shift"] = config.shift
            self.teacher = by(by.Config(**nets), spec).requires_grad_(False)
            self.teachers = (config.taught_by,)
        if config.ends:  # what the teacher made: noise by its seed, label, image
            self.register_buffer("end_seeds", torch.zeros(config.ends, dtype=torch.int64))
            self.register_buffer("end_labels", torch.zeros(config.ends, dtype=torch.int64))
            self.register_buffer("end_images", torch.zeros(config.ends, *spec.shape, dtype=torch.float16))

    def translated(self, family: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A flow's. Its network is told times by frequencies up to 1000, 100 times TOP, so each feature of a time is
        half of them further on there: its weights move to where it is here, and those of frequencies beyond TOP stay
        behind. How far a step reaches, of which a flow knows nothing, adds nothing at first. X(z, t, t) then begins as
        the flow's D(z, t), but for what the highest frequencies told."""
        name, reach = "generator.time.1.weight", "generator.span.3."
        here = self.state_dict()
        if family != "flow" or name not in tensors or tensors[name].shape != here[name].shape:
            return tensors
        moved = [
            torch.nn.functional.pad(part[:, part.shape[1] // 2 :], (0, part.shape[1] // 2))
            for part in tensors[name].chunk(2, dim=1)  # of cosines, of sines; the fastest first
        ]
        silent = {f"{reach}{end}": torch.zeros(here[f"{reach}{end}"].shape) for end in ("weight", "bias")}
        return {**tensors, **silent, name: torch.cat(moved, dim=1)}

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return [Phase("ends" if self.config.ends else "meanflow", list(self.generator.parameters()))]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(betas=(0.9, 0.99))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        return self.of_ends(batch, at) if phase == "ends" else self.of_paths(batch, at)

    def of_paths(self, batch: Batch, at: At) -> Loss:
        """The MeanFlow identity, at points on the paths from the images."""
        x, n = batch.images, len(batch)
        r, t, k = self.times(at, n)
        e = at.randn(*x.shape)
        z = torch.lerp(x, e, column(t))
        dropped = at.rand(n) < (0 if self.taught else self.config.label_dropout)
        labels = torch.where(dropped, self.classes, batch.labels)
        y = torch.nn.functional.one_hot(labels, self.classes + 1).float()

        # The identity for the first k images, plain flow for the others, where r = t and X_target = x.
        aim = self.lesson(z, t, y) if self.taught else self.aim(x, z, t, ~dropped)
        clean, target = self.identity(z[:k], r[:k], t[:k], y[:k], aim[:k])
        if k < n:
            clean = torch.cat([clean, self.clean(z[k:], r[k:], t[k:], y[k:])])
            target = torch.cat([target, aim[k:]])

        # |u - u_target|^2 = |X - X_target|^2 / t^2, then the adaptive weight.
        error = (clean - target).square().mean(dim=[1, 2, 3]) / t.clamp(min=self.config.t_min).square()
        weight = (error.detach() + C) ** -self.config.power
        stats = {"loss": error.mean().detach(), "mse": (clean - x).square().mean().detach()}
        return Loss((weight * error).mean(), stats)

    def validate(self, batch: Batch, at: At, trained: Family) -> Mapping[str, Tensor]:
        """The part of the loss that needs no derivative: r = t, where the map is a flow's, by labels. After a teacher's
        images the map is no flow's any more."""
        if self.config.ends:
            return {}
        x, t = batch.images, self.times(at, len(batch))[1]
        z = torch.lerp(x, at.randn(*x.shape), column(t))
        y = torch.nn.functional.one_hot(batch.labels, self.classes + 1).float()
        if self.config.taught:
            assert isinstance(trained, MeanFlow)
            aim = trained.lesson(z, t, y)
        else:
            aim = self.aim(x, z, t, torch.ones_like(t, dtype=torch.bool))
        clean = self.clean(z, t, t, y)
        error = (clean - aim).square().mean(dim=[1, 2, 3]) / t.clamp(min=self.config.t_min).square()
        return {"loss": error.mean(), "mse": (clean - x).square().mean()}

    def times(self, at: At, n: int) -> tuple[Tensor, Tensor, int]:
        """r <= t, float N each, and k: r != t for the first k = `apart` * n images (at least one), r = t for the rest.

        A fixed number of fixed rows is as good as a draw, because the order of the images is random.
        """
        two = torch.sigmoid(at.randn(2, n) * self.config.t_std + self.config.t_mean)
        t, r = two.amax(dim=0), two.amin(dim=0)
        k = max(1, round(self.config.apart * n))
        r[k:] = t[k:]
        return r, t, k

    def aim(self, x: Tensor, z: Tensor, t: Tensor, labelled: Tensor) -> Tensor:
        """z_t - t v of the guided velocity: w x + (1-w) X(z_t, t, t | null) where `labelled` (bool N), else x."""
        if self.config.guidance == 1 or not self.spec.classes:
            return x
        null = torch.zeros(len(x), self.classes + 1, device=x.device)
        null[:, -1] = 1
        with torch.no_grad():
            guided = torch.lerp(self.clean(z, t, t, null), x, self.config.guidance)
        return torch.where(column(labelled), guided, x)

    @torch.no_grad()
    def lesson(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """z_t - t v of the teacher's guided velocity, N,C,H,W: w D(z_t, t | y) + (1-w) D(z_t, t | null)."""
        assert isinstance(self.teacher, DiffusiveFamily)  # a MeanFlow teaches by its images alone
        return self.teacher.guided(z, t, y, torch.full_like(t, self.guidance))

    @property
    def guidance(self) -> float:
        """w; without classes there is no label to be guided by."""
        return float(self.config.guidance) if self.spec.classes else 1.0

    def identity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, aim: Tensor) -> tuple[Tensor, Tensor]:
        """X(z_t, r, t), and what the MeanFlow identity wants it to be, without gradient: N,C,H,W each."""
        a = column(1 - r / t)
        clean, change = self.along(z, r, t, y, a * (z - aim))
        return clean, torch.lerp(aim, clean, a).sub(change).detach()

    def along(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        """X(z_t, r, t), and its change along tangent (dz, 0, t - r) in (z, r, t), by one forward-mode pass."""
        with dual_level(), sdpa_kernel(SDPBackend.MATH):
            dual = self.clean(make_dual(z, dz), r, make_dual(t, t - r), y)  # type: ignore[no-untyped-call]
            clean, change = unpack_dual(dual)  # type: ignore[no-untyped-call]
        return clean, change

    def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """X(z_t, r, t) = z_t - t u, in z's precision N,C,H,W, given label weights y N,K+1."""
        out: Tensor = self.generator(z, t, y, t - r).to(z.dtype)
        return out

    # -- a teacher's images ---------------------------------------------------------------------------------------

    def of_ends(self, batch: Batch, at: At) -> Loss:
        """How far the single step is from the teacher's images; of the batch, its labels alone are used."""
        of = self.renew(batch.labels, at)
        x, one = self.end_images[of].float(), torch.ones(len(of), device=batch.labels.device)
        y = torch.nn.functional.one_hot(self.end_labels[of], self.classes + 1).float()
        made = self.clean(self.noises(self.end_seeds[of].tolist()), 0 * one, one, y)
        pixels, features = (made - x).square().mean(), self.distance(made, x, y, at).mean()
        stats = {"loss": pixels + features, "mse": pixels, "features": features}
        return Loss(pixels + features, {k: v.detach() for k, v in stats.items()})

    @torch.no_grad()
    def renew(self, labels: Tensor, at: At) -> Tensor:
        """Put new images of the teacher's in the place of the oldest, one for each `reuse` that are seen; says which
        ones to see, int64 N: the new ones, and the rest by chance from all that are kept."""
        n, size = len(labels), self.config.ends
        new = min(size, max(1, n // self.config.reuse))
        place = (torch.arange(new, device=labels.device) + at.step * new) % size
        seeds = torch.randint(2**62, (new,), generator=at.rng, device=at.rng.device)
        eye, controls = torch.eye(self.classes), self.teacher_controls
        rows = [Row(eye[k], seed, controls) for k, seed in zip(labels[:new].tolist(), seeds.tolist(), strict=True)]
        with torch.autocast(labels.device.type, enabled=False):  # solvers divide small differences
            state = self.teacher.start(rows)
            while not bool(state.done.all()):
                state = self.teacher.step(state)
        self.end_seeds[place] = seeds
        self.end_labels[place] = labels[:new]
        self.end_images[place] = state["clean"].half()  # the last step lands on it
        held = min(size, (at.step + 1) * new)
        return torch.cat([place, (at.rand(n - new) * held).long()])

    @property
    def teacher_controls(self) -> BaseModel:
        """How the teacher makes its images: a flow with the guidance, else by its defaults; a MeanFlow in two steps."""
        settings: dict[str, Any] = {"guidance": self.guidance} if self.config.taught_by == "flow" else {"steps": 2}
        if self.config.teacher_steps is not None:
            settings["steps"] = self.config.teacher_steps
        return self.teacher.capabilities()["generate"].controls.model_validate(settings)

    def distance(self, a: Tensor, b: Tensor, y: Tensor, at: At) -> Tensor:
        """How far apart the teacher sees images a and b, float N; no gradient through b."""
        net = self.teacher.get_submodule("generator")
        assert isinstance(net, UNet)
        e, t = at.randn(*a.shape), torch.full((len(a),), NEAR, device=a.device)

        def seen(x: Tensor) -> list[Tensor]:
            middle, way, _ = net.encode(torch.lerp(x, e, NEAR), t, y, 0 * t if net.span is not None else None)
            return [torch.nn.functional.normalize(h.float(), dim=1) for h in (*way, middle)]

        with torch.no_grad():
            of_b = seen(b)
        pairs = zip(seen(a), of_b, strict=True)
        return torch.stack([(p - q).square().sum(dim=1).mean(dim=[1, 2]) for p, q in pairs]).mean(dim=0)

    # -- sampling ------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        return {
            "generate": Capability(controls=MeanFlowControls),
            "interpolate": Capability(controls=interpolating(MeanFlowControls, self.spec.classes, "noise")),
        }

    def start(self, rows: Sequence[Row]) -> State:
        y = torch.cat([self.weights(rows), torch.zeros(len(rows), 1, device=self.device)], dim=1)
        z = self.noises([row.seed for row in rows])
        if rows[0].task == "interpolate":
            z, y = between(self, rows, z, self.noises([row.to_seed for row in rows]), y)
        steps = torch.tensor([row.controls.steps for row in rows], dtype=torch.int64, device=self.device)
        return State({"z": z, "clean": torch.zeros_like(z), "y": y, "step": torch.zeros_like(steps), "steps": steps})

    def noises(self, seeds: Sequence[int]) -> Tensor:
        """What a flow starts from by the same seeds, N,C,H,W: the same seed is the same picture in both families."""
        return torch.stack([noise(seed, "flow", 0, self.spec.shape) for seed in seeds]).to(self.device)

    def step(self, state: State) -> State:
        active = ~state.done
        if not bool(active.any()):
            return state
        s = state if bool(active.all()) else state.take(active)

        # z_r = z_t - (t-r) u = X + r/t (z_t - X), at even times; X itself at r = 0.
        t, r = 1 - s["step"] / s["steps"], 1 - (s["step"] + 1) / s["steps"]
        clean = self.clean(s["z"], r, t, s["y"])
        new = s.replace(z=torch.lerp(clean, s["z"], column(r / t)), clean=clean, step=s["step"] + 1)
        return new if s is state else state.put(active, new)

    def finish(self, state: State) -> Output:
        return Output(to_uint8(state["z"]))

    def preview(self, state: State) -> Tensor:
        return to_uint8(state["clean"])


def column(values: Tensor) -> Tensor:
    """N -> N,1,1,1."""
    return values[:, None, None, None]
