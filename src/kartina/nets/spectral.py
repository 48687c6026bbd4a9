"""Spectral normalisation (Miyato 2018): a layer whose weight is divided by its largest singular value.

One step of power iteration an evaluation follows the singular vector while the weight trains. Unlike torch's own this
one keeps the left vector `u` alone: sigma is worked out anew from (weight, u) wherever it is used, so that an averaged
copy (EMA), which has its own weights and a copied `u`, divides by its own sigma. It iterates in float32 under autocast
as well, and reads a channels-last weight without copying it.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)
WARM_UP = 5  # iterations when a layer is made


class SpectralNorm(nn.Module):
    """Parametrization of a weight O,...: the weight over sigma(weight as an O x rest matrix).

    In train mode each evaluation first moves `u` by one power iteration; in eval mode nothing changes.
    """

    u: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = _matrix(weight.detach())
        u = torch.randn(len(matrix), device=weight.device, dtype=weight.dtype)
        for _ in range(0 if weight.is_meta else WARM_UP):
            u = F.normalize(matrix @ (matrix.T @ u), dim=0)
        self.register_buffer("u", u)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = _matrix(weight)
        with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
            with torch.no_grad():
                v = F.normalize(matrix.T @ self.u, dim=0)
                u = self.u
                if self.training:
                    u = F.normalize(matrix @ v, dim=0)
                    self.u.copy_(u)
            sigma = torch.dot(u, matrix @ v)
        return weight / sigma


def _matrix(weight: Tensor) -> Tensor:
    """O x rest. The order of the columns does not change sigma, so it is the one that is cheap to read."""
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def spectral_norm(layer: M) -> M:
    """Normalise `layer.weight` from now on (the layer is changed in place and returned): initialise it before."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight), unsafe=True)  # unsafe: not run to check
    return layer


@torch.no_grad()
def converge(net: nn.Module, iterations: int = 32) -> None:
    """Bring every `u` in `net` to where the present weights want it: before statistics of averaged weights."""
    for norm in [m for m in net.modules() if isinstance(m, parametrize.ParametrizationList)]:
        before = norm.training
        norm.train()
        for _ in range(iterations):
            norm()
        norm.train(before)
