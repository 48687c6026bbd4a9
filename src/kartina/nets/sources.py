"""What an image condition is made of, where no pair gives it: the image made small, or grey.

All take and give float32 N,C,H,W in [-1, 1], on the 256 levels of a file: training sees what a user's image will be.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as PIL's mode L


def levels(x: Tensor) -> Tensor:
    """Rounded to 256 levels."""
    return ((x + 1) * 127.5).round() / 127.5 - 1


def shrunk(images: Tensor, factor: int) -> Tensor:
    """N,C,H,W -> N,C,H/factor,W/factor: each pixel is the mean of a square."""
    return levels(F.avg_pool2d(images, factor))


def enlarged(images: Tensor, factor: int) -> Tensor:
    """N,C,H,W -> N,C,H*factor,W*factor, bicubic: as super-resolution networks see their input (Saharia 2021, SR3)."""
    return F.interpolate(images, scale_factor=float(factor), mode="bicubic").clamp(-1, 1)


def grey(images: Tensor) -> Tensor:
    """N,3,H,W -> N,1,H,W."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)[:, None, None]
    return levels((images * weights).sum(dim=1, keepdim=True))
