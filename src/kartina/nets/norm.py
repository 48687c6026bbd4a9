"""Normalisation that several families share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at least 8 channels a group and at most 32 groups."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return nn.GroupNorm(groups, channels)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose gain and bias come from the label weights (Dumoulin 2017): N,C,H,W and N,K -> N,C,H,W."""

    def __init__(self, channels: int, labels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(labels, channels, bias=False)
        self.bias = nn.Linear(labels, channels, bias=False)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = self.gain(y)[:, :, None, None], self.bias(y)[:, :, None, None]
        return torch.addcmul(bias, self.bn(x), gain)


@torch.no_grad()
def standing_statistics(net: nn.Module, forward: Callable[[], object], batches: int = 32) -> None:
    """Replace every BatchNorm's running statistics by their mean over `batches` calls of `forward` (Brock 2019, B).

    Leaves `net` in eval mode. Weights that were averaged (EMA) need this: their activations are not those that the
    running statistics were gathered on.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative mean
    if norms:
        net.train()
        for _ in range(batches):
            forward()
    for m, momentum in zip(norms, before, strict=True):
        m.momentum = momentum
    net.eval()
