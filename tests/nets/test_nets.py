"""Shared layers against hand-computed and independent values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kartina.nets.layers import Fourier, MinibatchStd, upsample2, zero
from kartina.nets.norm import ConditionalBatchNorm, StandingBatchNorm, group_norm, standing_statistics
from kartina.nets.unet import UNet


def test_minibatch_std_by_hand() -> None:
    x = torch.randn(8, 3, 2, 2)
    y = MinibatchStd(4)(x)
    assert y.shape == (8, 4, 2, 2) and torch.equal(y[:, :3], x)
    for first in range(2):  # rows n, n+2, n+4, n+6 form a group
        group = x[first::2].numpy()
        expected = np.sqrt(group.var(axis=0) + 1e-8).mean()
        assert y[first::2, 3].numpy() == pytest.approx(np.full((4, 2, 2), expected), rel=1e-5)
    assert MinibatchStd(4)(x[:1])[0, 3].max() < 1e-3, "one image has no deviation"
    assert MinibatchStd(4)(x[:6]).shape == (6, 4, 2, 2), "a batch that 4 does not divide"


def test_fourier_by_hand() -> None:
    y = Fourier(4, top=10.0)(torch.tensor([0.0, 0.5]))
    freqs = [10.0, 10.0 / 100]
    expected = [[1, 1, 0, 0], [*np.cos(np.multiply(freqs, 0.5)), *np.sin(np.multiply(freqs, 0.5))]]
    assert y.numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_fourier_keeps_double_precision() -> None:
    y = Fourier(4, top=10.0)(torch.tensor([0.3], dtype=torch.float64))
    assert y.dtype == torch.float64 and y[0, 0].item() == pytest.approx(np.cos(3.0), abs=1e-14)
    assert Fourier(4)(torch.tensor([0.3], dtype=torch.bfloat16)).dtype == torch.float32


def test_upsample_and_zero() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert upsample2(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert zero(nn.Linear(3, 2))(torch.randn(1, 3)).abs().sum() == 0


def test_conditional_batch_norm_is_batch_norm_with_the_labels_affine() -> None:
    cbn, x, y = ConditionalBatchNorm(3, 2), torch.randn(16, 3, 4, 4), torch.eye(2)[torch.arange(16) % 2]
    nn.init.normal_(cbn.gain.weight)
    nn.init.normal_(cbn.bias.weight)
    plain = torch.nn.functional.batch_norm(x, None, None, training=True)
    expected = (
        plain * cbn.gain.weight.T[y.argmax(1)][:, :, None, None] + cbn.bias.weight.T[y.argmax(1)][:, :, None, None]
    )
    assert torch.allclose(cbn(x, y), expected, atol=1e-5)


def test_standing_statistics_are_the_mean_over_batches() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2))
    batches = iter([torch.randn(10, 2) + i for i in range(4)])
    seen = []

    def forward() -> None:
        seen.append(next(batches))
        net(seen[-1])

    standing_statistics(net, forward, batches=4)
    assert torch.allclose(net[0].running_mean, torch.stack([b.mean(0) for b in seen]).mean(0), atol=1e-6)
    assert torch.allclose(net[0].running_var, torch.stack([b.var(0) for b in seen]).mean(0), atol=1e-6)
    assert net[0].momentum == 0.1 and not net.training


@pytest.mark.parametrize(("h", "w"), [(16, 16), (16, 32), (28, 28)])
def test_unet_keeps_the_size(h: int, w: int) -> None:
    net = UNet(3, 3, labels=4, widths=(8, 16), blocks=1, attention=(1,))
    out = net(torch.randn(2, 3, h, w), torch.rand(2), torch.eye(4)[:2])
    assert out.shape == (2, 3, h, w)
    assert out.abs().sum() == 0, "zero-initialised: it begins by saying nothing"


def test_unet_sees_its_condition() -> None:
    torch.manual_seed(0)
    net = UNet(1, 1, labels=3, widths=(8, 16), blocks=1, attention=(0, 1))
    for p in net.parameters():
        p.data += torch.randn_like(p) * 0.1
    x, t, y = torch.randn(1, 1, 16, 16), torch.tensor([0.5]), torch.eye(3)[:1]
    base = net(x, t, y)
    assert not torch.allclose(base, net(x, t + 0.3, y)) and not torch.allclose(base, net(x, t, torch.eye(3)[1:2]))


def test_unet_takes_a_second_time_only_where_asked() -> None:
    """Networks without one keep their tensors and their first weights."""

    def made(**kwargs: bool) -> UNet:
        torch.manual_seed(0)
        return UNet(1, 1, labels=3, widths=(8, 16), blocks=1, attention=(1,), **kwargs)

    plain, two = made(), made(span=True)
    new = {"span.1.weight", "span.1.bias", "span.3.weight", "span.3.bias"}
    assert two.state_dict().keys() - plain.state_dict().keys() == new
    for p in two.parameters():
        p.data += torch.randn_like(p) * 0.1
    x, t, y = torch.randn(1, 1, 16, 16), torch.tensor([0.5]), torch.eye(3)[:1]
    assert not torch.allclose(two(x, t, y, t), two(x, t, y, t / 2))


def test_group_norm_groups() -> None:
    assert [group_norm(c).num_groups for c in (8, 64, 96, 112, 512)] == [1, 8, 12, 14, 32]


def test_standing_batch_norm_trains_on_the_batch_and_mixes_its_tables_in_eval() -> None:
    norm, x, gain, bias = (
        StandingBatchNorm(3, levels=2),
        torch.randn(8, 3, 4, 4) * 3 + 1,
        torch.randn(8, 3),
        torch.ones(3),
    )
    plain = torch.nn.functional.batch_norm(x, None, None, training=True)
    assert torch.allclose(norm(x, gain, bias), plain * gain[..., None, None] + 1, atol=1e-5)
    assert torch.allclose(norm.means, 0.1 * x.mean(dim=(0, 2, 3)).expand(2, 3), atol=1e-5), "both, until it settles"

    norm.eval()
    norm.means.copy_(torch.tensor([[0.0, 1.0, 2.0], [4.0, 4.0, 4.0]]))
    norm.variances.copy_(torch.tensor([[1.0, 4.0, 9.0], [5.0, 4.0, 1.0]]))
    mix = torch.tensor([[0.25, 0.75]]).repeat(8, 1)
    mix[0] = torch.tensor([1.0, 0.0])
    found = norm(x, gain, bias, mix).numpy()
    for row, mean, var in ((0, [0.0, 1, 2], [1.0, 4, 9]), (1, [3.0, 3.25, 3.5], [4.0, 4, 3])):
        scale = gain[row].numpy() / np.sqrt(np.array(var) + 1e-5)
        expected = (x[row].numpy() - np.array(mean)[:, None, None]) * scale[:, None, None] + 1
        assert found[row] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    last = norm(x, gain, bias, torch.tensor([[0.0, 1.0]]).repeat(8, 1))
    assert torch.allclose(norm(x, gain, bias), last, atol=1e-5), "no mix: the last setting"


def test_standing_batch_norm_settles_each_setting_by_itself() -> None:
    net = torch.nn.ModuleList([StandingBatchNorm(2, levels=3)])
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}

    def forward(level: int) -> None:
        x = torch.randn(16, 2, 3, 3) * (level + 1) + level
        seen[level].append(x)
        net[0](x, torch.ones(2), torch.zeros(2))

    StandingBatchNorm.settle(net, forward, batches=4)
    for level, found in seen.items():
        assert len(found) == 4
        means, variances = (torch.stack([getattr(x, f)(dim=(0, 2, 3)) for x in found]).mean(0) for f in ("mean", "var"))
        assert torch.allclose(net[0].means[level], means, atol=1e-5)
        assert torch.allclose(net[0].variances[level], variances, rtol=1e-4)
    assert not net[0].training
