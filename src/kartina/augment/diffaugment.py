"""DiffAugment (Zhao 2020): the same random, differentiable transforms before the discriminator, real and generated.

Every function takes float N,C,H,W, a strength, and the step's random generator; each image gets its own draw.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def translate(x: Tensor, share: float, rng: torch.Generator, fill: float = -1.0) -> Tensor:
    """Shift each image by up to `share` of its side in whole pixels, each axis; what comes in is `fill`."""
    n, _, h, w = x.shape
    ph, pw = round(h * share), round(w * share)
    if not (ph or pw):
        return x
    dy = torch.randint(0, 2 * ph + 1, (n, 1, 1), generator=rng, device=x.device)
    dx = torch.randint(0, 2 * pw + 1, (n, 1, 1), generator=rng, device=x.device)
    return crops(F.pad(x, (pw, pw, ph, ph), value=fill), dy, dx, h, w)


def crops(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut height x width out of each image, at its own whole-pixel place: N,C,H,W; top and left int64 N,1,1."""
    rows = top + torch.arange(height, device=x.device)[None, :, None]  # n,h,1
    cols = left + torch.arange(width, device=x.device)[None, None, :]  # n,1,w
    index = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[index, rows, cols].permute(0, 3, 1, 2)


def cutout(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Grey out one square of `share` of the side in each image, placed anywhere, also across the border."""
    n, _, h, w = x.shape
    ch, cw = round(h * share), round(w * share)
    if not (ch and cw):
        return x
    top = torch.randint(-(ch // 2), h - ch // 2, (n, 1, 1), generator=rng, device=x.device)
    left = torch.randint(-(cw // 2), w - cw // 2, (n, 1, 1), generator=rng, device=x.device)
    rows = torch.arange(h, device=x.device)[None, :, None]
    cols = torch.arange(w, device=x.device)[None, None, :]
    hole = (rows >= top) & (rows < top + ch) & (cols >= left) & (cols < left + cw)
    return x * (~hole)[:, None].to(x.dtype)


def colour(x: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Brightness +- strength/2, saturation x (1 +- strength), contrast x (1 +- strength/2), each image its own."""
    n = len(x)

    def draw() -> Tensor:
        return torch.rand((n, 1, 1, 1), generator=rng, device=x.device) * 2 - 1

    x = x + draw() * (strength / 2)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (1 + draw() * strength) + grey
    mean = x.mean(dim=[1, 2, 3], keepdim=True)
    return (x - mean) * (1 + draw() * (strength / 2)) + mean
