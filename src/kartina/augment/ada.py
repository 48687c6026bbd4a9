"""Adaptive discriminator augmentation (Karras 2020): the controller of p, and the pipeline it drives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INTERVAL = 4  # updates between adjustments of p


class ADA(nn.Module):
    """Transforms each image with probability p, and lets p follow how far D overfits. p is in the state: it resumes."""

    p: Tensor
    signs: Tensor
    count: Tensor
    since: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))  # sum of E sign D(real) since the last adjustment
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # updates since the last adjustment
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))  # images seen at the last adjustment

    def forward(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """float N,C,H,W in [-1, 1] -> the same, each image transformed by its own draw."""
        return x

    @torch.no_grad()
    def observe(self, sign_real: Tensor, images: int, target: float, images_per_unit: float) -> None:
        """After an update of D: E sign D(real) of its batch, and the images seen so far in training.

        Every INTERVAL updates p moves towards where r_t = E sign D(real) equals `target`, by the share of
        `images_per_unit` seen since; it stays in [0, 1] (section 3.1).
        """
        self.signs += sign_real.detach().to(self.signs)
        self.count += 1
        if int(self.count) < INTERVAL:
            return
        step = (images - int(self.since)) / images_per_unit
        self.p.add_(torch.sign(self.signs / self.count - target) * step).clamp_(0, 1)
        self.since.fill_(images)
        self.signs.zero_()
        self.count.zero_()
