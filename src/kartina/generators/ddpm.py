"""DDPM (Ho 2020): 1000 steps of noise, a network that states the noise; class-conditional.

Training draws a step j, mixes x_j = sqrt(abar_j) x_0 + sqrt(1 - abar_j) e and minimises |e - e_theta(x_j, j)|^2 (eq.
14). abar is the product of 1 - beta: beta rises linearly from 1e-4 to 0.02 (Ho), or abar is a squared cosine, its betas
at most 0.999 (Nichol & Dhariwal 2021, eq. 17).

In the place of the noise the network may state the velocity v = sqrt(abar_j) e - sqrt(1 - abar_j) x_0 or the clean
image x_0 (Salimans & Ho 2022, section 4); the loss is on what it states. `snr_max` makes it min(SNR, snr_max)
|D - x_0|^2, whatever is stated (Min-SNR, Hang 2023), where SNR = abar_j / (1 - abar_j).

In the coordinates x = x_j / sqrt(abar_j) of Song 2021 this is x_0 + t e with t = sqrt(1 - abar_j) / sqrt(abar_j), the
path of EDM, so that all of `generators.diffusive` applies: D = x - t e_theta or abar x - sqrt(1 - abar) v_theta, SNR is
1 / t^2, the loss on the noise |D - x_0|^2 SNR, that on the velocity |D - x_0|^2 (SNR + 1), and DDIM, Heun and DPM++ run
as they do there. Of the T = 1000 steps the solver visits T - 1, T - 1 - T/N, ..., T/N - 1, and then
t = 0. Between two steps, where a solver may go, ln t is linear in j.

D is held to [-1, 1] while sampling, as in Ho's sampler: at the noisy end t is 100 and more, and so is D's error.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from kartina.config import ImageSpec
from kartina.generators.diffusive import (
    WIDE,
    DiffusiveConfig,
    DiffusiveControls,
    DiffusiveFamily,
    InvertControls,
    InvertSolver,
    InvertSteps,
    Solver,
    Steps,
    preset_table,
)
from kartina.registry import register

T = 1000  # steps of training


class DDPMConfig(DiffusiveConfig):
    schedule: Literal["linear", "cosine"] = "linear"
    states: Literal["noise", "velocity", "image"] = "noise"  # what the network does, and what the loss is on
    snr_max: float = Field(0.0, ge=0)  # where the weight of |D - x_0|^2, SNR, stops growing; 0 = by what is stated


class DDPMControls(DiffusiveControls):
    steps: Steps = 20
    solver: Solver = "dpm++"


class DDPMInvertControls(InvertControls):
    """DDIM inversion as published. The first step from the noise is too long for Heun's mean of two slopes: with the
    cosine schedule t falls there from 20,000 to about 16."""

    steps: InvertSteps = 50
    solver: InvertSolver = "euler"


def alpha_bar(schedule: Literal["linear", "cosine"], steps: int = T) -> NDArray[np.float64]:
    """abar_j, j = 0 .. T-1: the share of the image's variance that is left after j + 1 steps of noise."""
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, steps)
    else:
        f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.asarray(np.cumprod(1 - beta), np.float64)


@register("ddpm")
class DDPM(DiffusiveFamily):
    Config = DDPMConfig
    controls = DDPMControls
    stated_by = ("states", "schedule")
    far = 100.0  # the cosine schedule begins with t = 20,000, and is at 13 a twentieth of the steps later
    invert_controls = DDPMInvertControls
    config: DDPMConfig
    sweep: ClassVar = {**DiffusiveFamily.sweep, "steps": (10, 20, 30)}
    presets: ClassVar = preset_table(
        "ddpm",
        "DDPM",
        {
            # A small folded network that must carry the noise through draws its own grain over the image.
            **{size: dict(schedule="cosine", states="image", snr_max=5.0) for size in ("32-cpu", "64-cpu")},
            **{size: dict(schedule="cosine") for size in ("32", "64", "128")},
        },
    )

    def __init__(self, config: DDPMConfig, spec: ImageSpec):
        super().__init__(config, spec)
        abar = alpha_bar(config.schedule)
        self.log_t = np.log((1 - abar) / abar) / 2  # ln t of each training step, rising

    def table(self, like: Tensor) -> Tensor:
        """ln t of each training step, on the device and in the precision of `like`."""
        return torch.from_numpy(self.log_t).to(like)

    def at_step(self, j: Tensor) -> Tensor:
        """t at training step j, which may lie between two: float N -> N."""
        table, low = self.table(j), j.long().clamp(0, T - 2)
        return torch.lerp(table[low], table[low + 1], j - low).exp()

    def training_step(self, t: Tensor) -> Tensor:
        """The inverse of `at_step`: N -> float N, from 0 to T-1."""
        table, log_t = self.table(t), t.log()
        low = (torch.searchsorted(table, log_t, right=True) - 1).clamp(0, T - 2)
        j: Tensor = low + (log_t - table[low]) / (table[low + 1] - table[low])
        return j.clamp(0, T - 1)

    def level(self, z: Tensor) -> Tensor:
        """Every training step is as likely as any other: j = floor(T Phi(z))."""
        return self.at_step((torch.special.ndtr(z) * T).floor().clamp(0, T - 1))

    def weight(self, t: Tensor) -> Tensor:
        snr = t**-2
        if self.config.snr_max:
            return snr.clamp(max=self.config.snr_max)
        match self.config.states:
            case "noise":
                return snr
            case "velocity":
                return snr + 1
        return torch.ones_like(t)

    @property
    def least(self) -> float:
        return (self.config.snr_max or 1.0) ** -0.5 if self.config.states == "image" else 0.0

    def times(self, step: Tensor, steps: Tensor) -> Tensor:
        return torch.where(step < steps, self.at_step(T * (1 - step / steps) - 1), 0.0)

    def denoise(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        wide = t[WIDE]
        c_in = (1 + wide.square()).rsqrt()  # sqrt(abar)
        out = self.stated(c_in * x, self.training_step(t) / T, y, net, source)
        match self.config.states:
            case "noise":
                return x - wide * out
            case "velocity":
                return c_in * (c_in * x - wide * out)
        return out

    def guided(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        w: Tensor,
        weak: Tensor | None = None,
        source: Tensor | None = None,
    ) -> Tensor:
        return super().guided(x, t, y, w, weak, source).clamp(-1, 1)
