"""DDPM: schedules against closed forms, the epsilon loss, the map between training steps and noise levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kartina.generators.base import At, Batch
from kartina.generators.ddpm import DDPM, T, alpha_bar
from tests import tiny

both = pytest.mark.parametrize("schedule", ["linear", "cosine"])


def ddpm(schedule: str = "linear", **more: Any) -> DDPM:
    return DDPM(DDPM.Config(**{**tiny.TINY["ddpm"], "schedule": schedule, **more}), tiny.spec())


class Net(nn.Module):
    """States tanh of what it sees, and keeps both."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.x, self.t, self.out = x, t, torch.tanh(x)
        return self.out


def trained(model: DDPM) -> tuple[Net, Tensor, Tensor, Tensor, float]:
    """A loss on a network of whose answers we know: the net, the images, the noise, abar of each image, the loss."""
    model.generator = net = Net()
    rng = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(256, 1, 16, 16) * 2 - 1, torch.arange(256) % 3, torch.arange(256))
    loss = model.loss("denoise", batch, At(0, 0, 1, rng, torch.ones(3) / 3))
    again = torch.Generator().manual_seed(0)
    z, e = torch.randn(256, generator=again), torch.randn(256, 1, 16, 16, generator=again)
    j = (net.t * T).round().long()
    assert torch.equal(j, (torch.special.ndtr(z) * T).long())
    abar = torch.from_numpy(alpha_bar(model.config.schedule))[j].float()[:, None, None, None]
    return net, batch.images, e, abar, loss.total.item()


def test_linear_schedule() -> None:
    """Ho 2020: beta from 1e-4 to 0.02 in 1000 steps; at the end 4e-5 of the image's variance is left."""
    abar = alpha_bar("linear")
    log, expected = 0.0, []
    for j in range(1000):
        log += math.log1p(-(1e-4 + (0.02 - 1e-4) * j / 999))
        expected.append(math.exp(log))
    assert abar == pytest.approx(np.array(expected), rel=1e-10)
    assert abar[0] == pytest.approx(0.9999) and abar[-1] == pytest.approx(4.0358e-5, rel=1e-3)


def test_cosine_schedule() -> None:
    """Nichol & Dhariwal 2021, eq. 17: f(t)/f(0), except where a beta is held at 0.999."""
    abar = alpha_bar("cosine")
    f = [math.cos((j / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for j in range(1001)]
    assert abar[:999] == pytest.approx(np.array(f[1:1000]) / f[0], rel=1e-9)
    assert abar[999] == pytest.approx(abar[998] * 0.001)
    assert abar[499] == pytest.approx(0.4938, abs=1e-3)


@both
def test_noise_levels_and_training_steps_are_inverse(schedule: str) -> None:
    model, abar = ddpm(schedule), alpha_bar(schedule)
    j = torch.arange(T, dtype=torch.float32)
    t = model.at_step(j)
    assert t.numpy() == pytest.approx(np.sqrt((1 - abar) / abar), rel=1e-4)
    assert torch.allclose(model.training_step(t), j, atol=0.01)
    between = torch.tensor([0.5, 10.25, 998.5])
    assert torch.allclose(model.training_step(model.at_step(between)), between, atol=0.01)
    outside = model.training_step(torch.tensor([1e-6, 1e9]))
    assert outside.tolist() == [0.0, T - 1.0]


def test_every_training_step_is_as_likely() -> None:
    model = ddpm()
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(model.training_step(model.level(z)).round().long(), minlength=T).double()
    chi_square = ((counts - 400) ** 2 / 400).sum().item()  # 999 degrees of freedom: 999 +- 45
    assert len(counts) == T and 999 - 5 * 45 < chi_square < 999 + 5 * 45


@both
def test_loss_is_on_the_noise(schedule: str) -> None:
    """|e - e_theta(x_j, j)|^2 with x_j = sqrt(abar) x_0 + sqrt(1 - abar) e, whatever coordinates it is computed in."""

    net, x, e, abar, loss = trained(ddpm(schedule))
    assert torch.allclose(net.x, abar.sqrt() * x + (1 - abar).sqrt() * e, atol=1e-4)
    assert loss == pytest.approx((e - net.out).square().mean().item(), rel=1e-3)


@both
def test_loss_is_on_what_is_stated(schedule: str) -> None:
    """Salimans & Ho 2022, section 4: |v - v_theta|^2, v = sqrt(abar) e - sqrt(1 - abar) x_0, or |x_0 - x_theta|^2."""
    net, x, e, abar, loss = trained(ddpm(schedule, states="velocity"))
    v = abar.sqrt() * e - (1 - abar).sqrt() * x
    assert loss == pytest.approx((v - net.out).square().mean().item(), rel=1e-3)
    net, x, _, _, loss = trained(ddpm(schedule, states="image"))
    assert loss == pytest.approx((x - net.out).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("states", ["noise", "velocity", "image"])
def test_min_snr(states: str) -> None:
    """Hang 2023: min(SNR, 5) |D - x_0|^2, where D is what follows from v_theta = sqrt(abar) e - sqrt(1 - abar) D."""
    net, x, e, abar, loss = trained(ddpm("cosine", states=states, snr_max=5.0))
    mixed = abar.sqrt() * x + (1 - abar).sqrt() * e
    clean = {
        "noise": (mixed - (1 - abar).sqrt() * net.out) / abar.sqrt(),
        "velocity": abar.sqrt() * mixed - (1 - abar).sqrt() * net.out,
        "image": net.out,
    }[states]
    weight = torch.minimum(abar / (1 - abar), torch.tensor(5.0))
    assert loss == pytest.approx((weight * (clean - x).square()).mean().item(), rel=1e-3)


def test_the_solver_visits_even_steps_from_the_last() -> None:
    model = ddpm()
    times = model.times(torch.arange(11), torch.full((11,), 10))
    assert times[-1] == 0 and (times.diff() < 0).all()
    assert model.training_step(times[:-1]).tolist() == pytest.approx([999 - 100 * i for i in range(10)], abs=0.01)


def test_clean_images_are_held_to_their_range_while_sampling() -> None:
    model = ddpm().sampler()
    x, t, y = torch.randn(2, 1, 16, 16) * 50, torch.full((2,), 50.0), torch.eye(4)[:2]
    with torch.inference_mode():
        assert model.denoise(x, t, y).abs().max() > 10, "an untrained network states no noise"
        for w in (1.0, 4.0):
            assert model.guided(x, t, y, torch.full((2,), w)).abs().max() <= 1
