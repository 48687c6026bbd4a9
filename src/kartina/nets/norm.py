"""Normalisation that several families share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at least 8 channels a group and at most 32 groups."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return GroupNorm(groups, channels)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, with a forward-mode derivative in the output's own precision.

    In autocast torch's is float32 beside a bfloat16 output, and the convolution that follows refuses the pair.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        tangent = unpack_dual(y).tangent  # type: ignore[no-untyped-call]
        return y if tangent is None or tangent.dtype == y.dtype else y.to(y.dtype, copy=True)


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


class StandingBatchNorm(nn.Module):
    """BatchNorm whose gain and bias are given, and whose standing statistics are a table (Brock 2019, B).

    x N,C,H,W; gain and bias N,C (or C for all rows); mix N,L -> N,C,H,W. A sampler's setting, such as truncation,
    changes what the activations look like, so `settle` keeps statistics for each of L settings; row n uses their mean
    weighted by mix[n], so rows with different settings share a batch. None is the last setting. Until `settle`, every
    setting holds the running statistics of training. `bn` is torch's module, so that
    `nn.SyncBatchNorm.convert_sync_batchnorm` makes it cross-replica.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("means", torch.zeros(levels, channels))
        self.register_buffer("variances", torch.ones(levels, channels))

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor, mix: Tensor | None = None) -> Tensor:
        if self.training:
            x = self.bn(x)
            self.keep()
        else:
            mean = self.means[-1:] if mix is None else mix @ self.means
            variance = self.variances[-1:] if mix is None else mix @ self.variances
            gain = gain * (variance + self.bn.eps).rsqrt()
            bias = bias - gain * mean
        gain, bias = gain.reshape(-1, x.shape[1], 1, 1), bias.reshape(-1, x.shape[1], 1, 1)
        return torch.addcmul(bias.to(x.dtype), x, gain.to(x.dtype))

    def keep(self) -> None:
        """Let every setting have what `bn` has gathered."""
        for table, found in ((self.means, self.bn.running_mean), (self.variances, self.bn.running_var)):
            assert found is not None
            table.copy_(found)

    @staticmethod
    def settle(net: nn.Module, forward: Callable[[int], object], batches: int) -> None:
        """Fill the tables of all in `net` from `batches` calls of forward(level) for each level, in training mode."""
        norms = [m for m in net.modules() if isinstance(m, StandingBatchNorm)]
        found: list[list[Tensor]] = []  # by level: each norm's mean and variance
        for level in range(len(norms[0].means)):
            standing_statistics(net, partial(forward, level), batches)
            for m in norms:
                m.keep()
            found.append([torch.stack([m.means[0], m.variances[0]]) for m in norms])
        for m, levels in zip(norms, zip(*found, strict=True), strict=True):
            means, variances = torch.stack(levels, dim=1)
            m.means.copy_(means)
            m.variances.copy_(variances)


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
