"""Flow matching: class-conditional, by straight paths (Lipman 2023; Liu 2023, rectified flow).

A path leads straight from data x at t=0 to noise e at t=1: x_t = (1-t) x + t e, with velocity v = e - x. The network
learns the mean velocity at (x_t, t); sampling follows it from t=1 to t=0 (Euler, or Heun: 2nd order).

Two choices make it trainable on a CPU. (1) The network states the *clean image* D(x_t, t), and the velocity is
(x_t - D) / t; the loss stays the one on velocities, |v_theta - v|^2 = |D - x|^2 / t^2, with t clamped below at `t_min`
(as in Li & He 2025). A small network need not carry noise through to its output, so flat backgrounds come out flat
instead of speckled. (2) The U-Net works on a folded image (`nets.unet`). Training times are logit-normal (Esser 2024).

Classifier-free guidance (Ho & Salimans 2022): v = v_u + w (v_c - v_u), with a null label of its own, which replaces the
label of a tenth of the training images. w = 1 is off and makes no unconditional evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

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
    noise,
    to_uint8,
)
from kartina.nets.unet import UNet, check_fit
from kartina.registry import register

Width = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]


class FlowConfig(FamilyConfig):
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (64, 128, 128)  # channels, finest first
    blocks: int = Field(2, ge=1, le=8)  # residual blocks a level
    attention: tuple[int, ...] = (1, 2)  # levels with self-attention, 0 = finest
    stem: int = Field(2, ge=1, le=8)  # pixel-unshuffle factor
    dropout: float = Field(0.0, ge=0, lt=1)
    label_dropout: float = Field(0.1, ge=0, lt=1)  # share of images trained with the null label
    t_mean: float = Field(0.4, ge=-10, le=10)  # logit-normal training times: mean and deviation of logit(t)
    t_std: float = Field(1.0, gt=0, le=10)
    shift: float = Field(1.0, ge=1, le=20)  # crowds solver steps towards noise, for large images (Esser 2024, eq. 23)
    t_min: float = Field(0.1, gt=0, lt=1)  # the loss weight 1/t^2 stops growing here


class FlowControls(Controls):
    guidance: float = Field(1.5, ge=0, le=10, description="Pull towards the class: 1 is off, more is more typical")
    steps: int = Field(8, ge=1, le=200, description="Steps of the solver: more is finer and slower")
    solver: Literal["heun", "euler"] = Field("heun", description="Heun evaluates the network twice a step, Euler once")


@register("flow")
class Flow(Family):
    Config = FlowConfig
    channels_last = False
    sweep: ClassVar = {"guidance": (1.0, 1.25, 1.5, 2.0), "steps": (6, 8, 12)}
    presets: ClassVar = {
        "flow-32-cpu": Preset(
            32,
            "flow matching for minutes of CPU: recognisable after two, good after ten",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2)),
            dict(batch=32, lr=1e-3, warmup=3000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000, clip=1.0),
        ),
        "flow-32": Preset(
            32,
            "flow matching for a GPU, or a CPU overnight",
            dict(widths=(128, 256, 256), blocks=2, attention=(1, 2), stem=1, dropout=0.1),
            dict(batch=128, lr=3e-4, warmup=50_000, decay="cosine", decay_from=0.5, decay_to=0.05, ema=500_000),
        ),
        "flow-64-cpu": Preset(
            64,
            "flow matching at 64 px for minutes of CPU: folded four times",
            dict(widths=(64, 96, 112), blocks=1, attention=(1, 2), stem=4, t_mean=0.8, t_min=0.2, shift=2.0),
            dict(batch=32, lr=1e-3, warmup=3000, decay="cosine", decay_from=0.3, decay_to=0.02, ema=5000, clip=1.0),
        ),
    }

    def __init__(self, config: FlowConfig, spec: ImageSpec):
        super().__init__(config, spec)
        check_fit(config.widths, config.attention, config.stem, spec.height, spec.width)
        self.generator = UNet(
            spec.channels,
            spec.channels,
            labels=self.classes + 1,
            widths=config.widths,
            blocks=config.blocks,
            attention=config.attention,
            stem=config.stem,
            dropout=config.dropout,
        )

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        return [Phase("flow", list(self.generator.parameters()))]

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam(betas=(0.9, 0.99))

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        x, n = batch.images, len(batch)
        t = torch.sigmoid(at.randn(n) * self.config.t_std + self.config.t_mean)
        e = at.randn(*x.shape)
        dropped = at.rand(n) < self.config.label_dropout
        labels = torch.where(dropped, self.classes, batch.labels)
        y = torch.nn.functional.one_hot(labels, self.classes + 1).float()

        # |v_theta - v|^2 = |D - x|^2 / t^2.
        t4 = t[:, None, None, None]
        clean = self.denoise((1 - t4) * x + t4 * e, t, y)
        weight = t.clamp(min=self.config.t_min) ** -2
        error = (clean - x).square().mean(dim=[1, 2, 3])
        return Loss((weight * error).mean(), {"loss": (weight * error).mean().detach(), "mse": error.mean().detach()})

    def denoise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """D(x_t, t): the mean clean image, float32 N,C,H,W, given label weights y N,K+1."""
        out: Tensor = self.generator(x, t, y).float()
        return out

    # -- sampling ------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        return {"generate": Capability(controls=FlowControls)}

    def start(self, rows: Sequence[Row]) -> State:
        y = torch.cat([self.weights(rows), torch.zeros(len(rows), 1, device=self.device)], dim=1)
        x = torch.stack([noise(row.seed, "flow", 0, self.spec.shape) for row in rows]).to(self.device)

        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        return State(
            {
                "x": x,
                "slope": torch.zeros_like(x),  # Heun: the velocity at the start of the step
                "stage": column([0] * len(rows), torch.int64),  # Heun: 1 = the second evaluation is due
                "clean": torch.zeros_like(x),  # the last D, for previews
                "y": y,
                "guidance": column(
                    [row.controls.guidance if self.spec.classes else 1.0 for row in rows], torch.float32
                ),
                "heun": column([row.controls.solver == "heun" for row in rows], torch.bool),
                "step": column([0] * len(rows), torch.int64),
                "steps": column([row.controls.steps for row in rows], torch.int64),
            }
        )

    def step(self, state: State) -> State:
        active = ~state.done
        if not bool(active.any()):
            return state
        s = state if bool(active.all()) else state.take(active)
        step, steps, second = s["step"], s["steps"], s["stage"] == 1

        # One evaluation: at the start of the step, or (Heun) at its end.
        t, t_next = self.time(1 - step / steps), self.time(1 - (step + 1) / steps)
        wide = (slice(None), None, None, None)
        dt = (t_next - t)[wide]
        here = torch.where(second, t_next, t)
        x_here = torch.where(second[wide], s["x"] + dt * s["slope"], s["x"])
        clean = self.guided(x_here, here, s["y"], s["guidance"])
        v = (x_here - clean) / here[wide]

        # Euler moves on at once, and so does the step that ends at t = 0 (there x = D); Heun averages two slopes.
        halfway = s["heun"] & ~second & (step + 1 < steps)
        moved = s["x"] + dt * torch.where(second[wide], (s["slope"] + v) / 2, v)
        moved = torch.where((~second & (step + 1 == steps))[wide], clean, moved)
        new = s.replace(
            x=torch.where(halfway[wide], s["x"], moved),
            slope=torch.where(halfway[wide], v, s["slope"]),
            stage=halfway.long(),
            clean=clean,
            step=step + (~halfway).long(),
        )
        return new if s is state else state.put(active, new)

    def time(self, u: Tensor) -> Tensor:
        """Even solver times u in [0, 1] -> path times, crowded towards 1 by `shift`."""
        s = self.config.shift
        t: Tensor = s * u / (1 + (s - 1) * u)
        return t

    def guided(self, x: Tensor, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """D_u + w (D_c - D_u), evaluating the unconditional half only for rows with w != 1, in the same batch."""
        both = w != 1
        if not bool(both.any()):
            return self.denoise(x, t, y)
        null = torch.zeros_like(y[both])
        null[:, -1] = 1
        out = self.denoise(torch.cat([x, x[both]]), torch.cat([t, t[both]]), torch.cat([y, null]))
        d_c, d_u = out[: len(x)], out[len(x) :]
        mixed = d_c.clone()
        mixed[both] = torch.lerp(d_u, d_c[both], w[both][:, None, None, None])
        return mixed

    def finish(self, state: State) -> Output:
        return Output(to_uint8(state["x"]))

    def preview(self, state: State) -> Tensor:
        return to_uint8(state["clean"])
