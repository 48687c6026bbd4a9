"""Flow matching: class-conditional, by straight paths (Lipman 2023; Liu 2023, rectified flow).

A path leads straight from data x at t=0 to noise e at t=1: x_t = (1-t) x + t e, with velocity v = e - x. The network
learns the mean velocity at (x_t, t); sampling follows it from t=1 to t=0.

Two choices make it trainable on a CPU. (1) The network states the *clean image* D(x_t, t), and the velocity is
(x_t - D) / t; the loss stays the one on velocities, |v_theta - v|^2 = |D - x|^2 / t^2, with t clamped below at `t_min`
(as in Li & He 2025). A small network need not carry noise through to its output, so flat backgrounds come out flat
instead of speckled. (2) The U-Net works on a folded image (`nets.unet`). Training times are logit-normal (Esser 2024).

Solvers, guidance and the loop are those of every denoising family: `generators.diffusive`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kartina.config import Preset
from kartina.generators.diffusive import (
    CPU,
    DiffusiveConfig,
    DiffusiveControls,
    DiffusiveFamily,
    Guidance,
    Solver,
    Spacing,
    preset_table,
)
from kartina.registry import register


class FlowConfig(DiffusiveConfig):
    t_mean: float = Field(0.4, ge=-10, le=10)  # logit-normal training times: mean and deviation of logit(t)
    t_std: float = Field(1.0, gt=0, le=10)
    shift: float = Field(1.0, ge=1, le=20)  # crowds solver steps towards noise, for large images (Esser 2024, eq. 23)
    t_min: float = Field(0.1, gt=0, lt=1)  # the loss weight 1/t^2 stops growing here


class FlowControls(DiffusiveControls):
    solver: Solver = "deis"
    spacing: Spacing = 1.25
    guidance: Guidance = 1.25


AT_64: dict[str, Any] = dict(t_mean=0.8, t_min=0.2, shift=2.0)  # noise for 64 px on a CPU
NETS: dict[str, Any] = dict(widths=(64, 96, 112), blocks=1, attention=(1, 2))  # of *-cpu presets


@register("flow")
class Flow(DiffusiveFamily):
    Config = FlowConfig
    controls = FlowControls
    sampled_by = ("shift",)
    config: FlowConfig
    presets: ClassVar = {
        **preset_table(
            "flow",
            "flow matching",
            {
                "64-cpu": AT_64,
                "64": dict(t_mean=0.8, shift=2.0),
                "128": dict(t_mean=1.2, shift=3.0),
            },
        ),
        "flow-pairs-128-cpu": Preset(
            128,
            "image to image at 128 px for half an hour of CPU: folded eight times",
            # Pairs are few: without `augment` the loss on val of 400 (facades) rises after 12,000 images.
            dict(source="pairs", stem=8, t_mean=1.2, t_min=0.2, shift=3.0, augment=0.3, **NETS),
            {**CPU, "batch": 16},
        ),
        "flow-upscale-64-cpu": Preset(
            64,
            "16 px to 64 px for minutes of CPU",
            dict(source="upscale", stem=4, **AT_64, **NETS),
            CPU,
        ),
        "flow-colorize-64-cpu": Preset(
            64,
            "grey to colour at 64 px for minutes of CPU",
            dict(source="colorize", stem=4, **AT_64, **NETS),
            CPU,
        ),
    }

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def scale(self, alpha: Tensor, t: Tensor) -> Tensor:
        return alpha + t

    def level(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z * self.config.t_std + self.config.t_mean)

    def weight(self, t: Tensor) -> Tensor:
        w: Tensor = t.clamp(min=self.config.t_min) ** -2
        return w

    @property
    def least(self) -> float:
        return self.config.t_min

    def times(self, step: Tensor, steps: Tensor) -> Tensor:
        return self.time(1 - step / steps)

    def time(self, u: Tensor) -> Tensor:
        """Even solver times u in [0, 1] -> path times, crowded towards 1 by `shift`."""
        s = self.config.shift
        t: Tensor = s * u / (1 + (s - 1) * u)
        return t

    def denoise(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        return self.stated(x, t, y, net, source)
