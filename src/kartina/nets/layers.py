"""Small layers that several families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fourier(nn.Module):
    """Sinusoidal features of a scalar (Vaswani 2017, as used by Ho 2020): float N -> N,dim.

    Frequencies fall geometrically from `top` to `top / 10_000`; `top` is in radians per unit of the input.
    """

    def __init__(self, dim: int, top: float = 1000.0):
        super().__init__()
        self.dim, self.top = dim, top

    def forward(self, x: Tensor) -> Tensor:
        half = self.dim // 2
        freqs = torch.exp(torch.arange(half, device=x.device, dtype=torch.float32) * (-math.log(10_000.0) / half))
        angles = x.to(torch.promote_types(x.dtype, torch.float32))[:, None] * (self.top * freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class MinibatchStd(nn.Module):
    """Append one channel: the standard deviation over groups of the batch, averaged (Karras 2018, section 3).

    N,C,H,W -> N,C+1,H,W. A group is the largest divisor of N up to `group`; rows n, n+N/g, ... form a group, so real
    and generated batches must come in separate calls.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        g = max(d for d in range(1, min(self.group, n) + 1) if n % d == 0)
        y = x.float().reshape(g, n // g, c, h, w)
        var = (y - y.mean(dim=0)).square().mean(dim=0)  # torch's `var` over a leading dimension is 10x slower on a CPU
        std = (var + 1e-8).sqrt().mean(dim=[1, 2, 3])  # n/g
        plane = std.repeat(g).reshape(n, 1, 1, 1).expand(n, 1, h, w)
        return torch.cat([x, plane.to(x.dtype)], dim=1)


class MinibatchDiscrimination(nn.Module):
    """How close each row is to the others of its batch (Salimans 2016, section 3.2): f N,A -> o N,B.

    M_i = f_i T with T of A x B x C;  c_b(x_i, x_j) = exp(-|M_ib - M_jb|_1);  o(x_i)_b = sum over j != i of c_b. Real
    and generated batches must come in separate calls.
    """

    def __init__(self, features: int, kernels: int, dims: int):
        super().__init__()
        self.T = nn.Parameter(torch.empty(features, kernels, dims))
        nn.init.normal_(self.T, std=0.02)

    def forward(self, f: Tensor) -> Tensor:
        m = (f @ self.T.flatten(1)).float().reshape(len(f), *self.T.shape[1:])  # N,B,C
        distance = (m[:, None] - m[None]).abs().sum(dim=3)  # N,N,B
        return torch.exp(-distance).sum(dim=1) - 1  # without itself, which is exp(0)


def zero(module: nn.Module) -> nn.Module:
    """Set all of a module's parameters to 0 and return it: a residual branch that starts as nothing."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def condition(labels: Tensor, label: nn.Linear, told: nn.Module | None) -> Tensor:
    """The embedding N,E of label weights N,K and, by `told`, of the numbers that follow them where any do."""
    k = label.in_features
    if told is None or labels.shape[1] == k:
        found: Tensor = label(labels)
        return found
    found = label(labels[:, :k]) + told(labels[:, k:])
    return found


def upsample2(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling: N,C,H,W -> N,C,2H,2W."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
