"""EDM (Karras 2022, "Elucidating the design space of diffusion-based generative models"): class-conditional.

Noise of deviation sigma is added to the image, x = x_0 + sigma e, and the network is wrapped so that its input and what
it has to state have unit variance at every sigma (table 1):

    D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)

    c_skip = sd^2 / (sigma^2 + sd^2)         c_out = sigma sd / sqrt(sigma^2 + sd^2)
    c_in   = 1 / sqrt(sigma^2 + sd^2)        c_noise = ln(sigma) / 4

where sd is the deviation of the data: 0.5 in the paper, measured on the training images where `sigma_data` is 0. The
loss is E (sigma^2 + sd^2) / (sigma sd)^2 |D - x_0|^2 with ln sigma ~ N(-1.2, 1.2^2); the solver visits

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,  i < N,  sigma_N = 0   (eq. 5).

A network that states the image outright (`states`: c_skip = 0, c_out = 1) has no noise to carry through, which a small
folded one draws as grain. It errs by as much however little noise there is; `snr_max` makes the weight
min(1 / sigma^2, snr_max), as in Min-SNR (Hang 2023).

`augment` is the paper's idea with StyleGAN2-ADA's geometric transforms (see `generators.diffusive`): the paper, with
0.12 for its CIFAR-10 and 0.15 at 64 px, mirrors every other image whatever the probability, turns images upside down,
too, and does not move them by whole pixels.

Solvers, guidance and the loop: `generators.diffusive`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kartina.config import ImageSpec
from kartina.generators.diffusive import WIDE, DiffusiveConfig, DiffusiveControls, DiffusiveFamily, Steps, preset_table
from kartina.registry import register

MEASURED = 2048  # images that sigma_data is measured on


class EDMConfig(DiffusiveConfig):
    sigma_data: float = Field(0.5, ge=0, le=10)  # deviation of the images (they span 2); 0 = measured
    states: Literal["mixture", "image"] = "mixture"  # what the network does: image and noise as in the paper, or D
    snr_max: float = Field(0.0, ge=0)  # the loss's weight is 1 / sigma^2, at most this; 0 = the paper's weight
    p_mean: float = Field(-1.2, ge=-10, le=10)  # of ln sigma in training
    p_std: float = Field(1.2, gt=0, le=10)
    sigma_min: float = Field(0.002, gt=0, le=1)  # the solver's last noise level before none
    sigma_max: float = Field(80.0, gt=1, le=10_000)  # and its first
    rho: float = Field(7.0, ge=1, le=100)  # crowds solver steps towards the image

    @model_validator(mode="after")
    def _bounded(self) -> EDMConfig:
        if self.states == "image" and not self.snr_max:
            raise ValueError("states=image needs a bound of its weight, 1 / sigma^2: set snr_max as well, such as 5")
        return self


class EDMControls(DiffusiveControls):
    steps: Steps = 12


@register("edm")
class EDM(DiffusiveFamily):
    Config = EDMConfig
    controls = EDMControls
    stated_by = ("states",)
    config: EDMConfig
    sweep: ClassVar = {**DiffusiveFamily.sweep, "steps": (8, 12, 18)}
    presets: ClassVar = preset_table(
        "edm",
        "EDM diffusion",
        {
            # States the image, as in DDPM, and is trained nearer to noise, where shapes are decided.
            **{size: dict(sigma_data=0.0, states="image", snr_max=5.0, p_mean=0.0) for size in ("32-cpu", "64-cpu")},
            **{size: dict(sigma_data=0.0) for size in ("32", "64", "128")},
        },
    )

    def __init__(self, config: EDMConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator.register_buffer("sigma_data", torch.tensor(config.sigma_data or 0.5))

    def setup(self, data: Any, rng: torch.Generator) -> None:
        """Measure the deviation of the training images, evenly spread, where the config leaves it open. That of a
        start, which is a buffer of its network, is not this run's."""
        if self.config.sigma_data:
            self.sd.fill_(self.config.sigma_data)
        else:
            index = np.linspace(0, len(data) - 1, min(len(data), MEASURED)).astype(np.int64)
            self.sd.fill_(max(float(np.std(data.images[index], dtype=np.float64)) / 127.5, 0.01))

    @property
    def sd(self) -> Tensor:
        found: Tensor = self.generator.get_buffer("sigma_data")
        return found

    def level(self, z: Tensor) -> Tensor:
        return torch.exp(z * self.config.p_std + self.config.p_mean)

    def weight(self, t: Tensor) -> Tensor:
        snr = t**-2
        return snr.clamp(max=self.config.snr_max) if self.config.snr_max else self.sd**-2 + snr

    @property
    def least(self) -> float:
        return self.config.snr_max**-0.5 if self.config.states == "image" else 0.0

    def times(self, step: Tensor, steps: Tensor) -> Tensor:
        first, last = (s ** (1 / self.config.rho) for s in (self.config.sigma_max, self.config.sigma_min))
        sigma = (first + step / (steps - 1).clamp(min=1) * (last - first)).clamp(min=0) ** self.config.rho
        # Past the last level, where `spacing` may go, what is left falls evenly to none.
        return torch.where(step <= steps - 1, sigma, self.config.sigma_min * (steps - step))

    def preconditioning(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise of sigma N, each N."""
        total = sigma.square() + self.sd**2
        return self.sd**2 / total, sigma * self.sd / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4

    def denoise(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.preconditioning(t)
        if self.config.states == "image":
            return self.stated(c_in[WIDE] * x, c_noise, y, net, source)
        return c_skip[WIDE] * x + c_out[WIDE] * self.stated(c_in[WIDE] * x, c_noise, y, net, source)
