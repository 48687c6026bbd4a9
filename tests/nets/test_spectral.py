"""Spectral normalisation against SVD, and what averaging and memory formats do to it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kartina.nets.spectral import SpectralNorm, spectral_norm


def top(weight: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().flatten(1))[0])


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 9, 3), nn.Linear(40, 5), nn.Linear(5, 40)])
def test_weight_over_its_largest_singular_value(layer: nn.Module) -> None:
    raw = layer.weight.detach().clone()
    spectral_norm(layer)
    for _ in range(500):
        layer.weight  # noqa: B018 - each reading in train mode is one power iteration
    assert torch.allclose(layer.eval().weight, raw / top(raw), rtol=1e-3)


def test_one_power_iteration_in_training_and_none_in_eval() -> None:
    layer = spectral_norm(nn.Linear(4, 3))
    norm, raw = layer.parametrizations.weight[0], layer.parametrizations.weight.original.detach()
    u = norm.u.clone()
    v = raw.T @ u / (raw.T @ u).norm()
    after = raw @ v / (raw @ v).norm()
    assert torch.allclose(layer.weight, raw / (after @ raw @ v), rtol=1e-5)
    assert torch.allclose(norm.u, after, rtol=1e-5)
    layer.eval()
    assert torch.equal(layer.weight, layer.weight) and torch.allclose(norm.u, after, rtol=1e-5)


def test_gradient_against_finite_differences() -> None:
    """With u and v held, as they are at convergence: d sigma / dW = u v^T."""
    torch.manual_seed(0)
    weight = torch.randn(3, 5, dtype=torch.float64)
    norm = SpectralNorm(weight)
    for _ in range(200):
        norm(weight)
    assert torch.autograd.gradcheck(norm.eval(), (weight.requires_grad_(),), atol=1e-5)


def test_a_channels_last_weight_has_the_same_sigma() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    torch.manual_seed(1)
    plain = spectral_norm(copy.deepcopy(conv))
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for _ in range(3):
        assert torch.allclose(plain.weight, last.weight, rtol=1e-5)


def test_autocast_does_not_coarsen_sigma() -> None:
    layer = spectral_norm(nn.Linear(64, 64)).eval()
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, exact)


def test_an_averaged_copy_divides_by_its_own_sigma() -> None:
    live = spectral_norm(nn.Linear(8, 8))
    mean = copy.deepcopy(live)
    with torch.no_grad():  # EMA: weights averaged, buffers copied
        live.parametrizations.weight.original.mul_(3).add_(0.05 * torch.randn(8, 8))
        for _ in range(30):
            live.weight  # noqa: B018
        mean.parametrizations.weight.original.lerp_(live.parametrizations.weight.original, 0.5)
        mean.parametrizations.weight[0].u.copy_(live.parametrizations.weight[0].u)
    assert top(mean.eval().weight) == pytest.approx(1, abs=0.01)
    assert top(live.eval().weight) == pytest.approx(1, abs=0.01)
