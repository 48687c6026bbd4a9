"""Adversarial losses by hand, on two logits a side; the gradient penalty is in each family's test."""

from __future__ import annotations

import math

import pytest
import torch

from kartina.nets.losses import d_loss, g_loss, gradient_square

REAL, FAKE = [2.0, -0.5], [0.3, -1.5]
PAIRS = list(zip(REAL, FAKE, strict=True))


def log_sigmoid(v: float) -> float:
    return math.log(1 / (1 + math.exp(-v)))


CROSS_ENTROPY = sum(-log_sigmoid(r) - math.log(1 - 1 / (1 + math.exp(-f))) for r, f in PAIRS) / 2
EXPECTED = {
    "minimax": (CROSS_ENTROPY, sum(math.log(1 - 1 / (1 + math.exp(-f))) for f in FAKE) / 2),
    "softplus": (CROSS_ENTROPY, sum(-log_sigmoid(f) for f in FAKE) / 2),
    "hinge": (sum(max(0, 1 - r) + max(0, 1 + f) for r, f in PAIRS) / 2, sum(-f for f in FAKE) / 2),
    "relativistic": (
        sum(-log_sigmoid(r - f) for r, f in PAIRS) / 2,
        sum(-log_sigmoid(f - r) for r, f in PAIRS) / 2,
    ),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_losses_by_hand(kind: str) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert d_loss(kind, real, fake).item() == pytest.approx(EXPECTED[kind][0], rel=1e-5)
    assert g_loss(kind, fake, real).item() == pytest.approx(EXPECTED[kind][1], rel=1e-5)


def test_gradient_square_of_a_quadratic() -> None:
    x = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 3.0]]]], requires_grad=True)
    logits = (x**2).sum(dim=[1, 2, 3])  # gradient 2x
    assert gradient_square(logits, x).tolist() == pytest.approx([4 * (1 + 4), 4 * (0.25 + 9)])
