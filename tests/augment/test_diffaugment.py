"""DiffAugment: identity at strength 0, a per-image reference, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kartina.augment.diffaugment import colour, cutout, translate


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("transform", [translate, cutout, colour])
def test_identity_at_zero_and_differentiable(transform: object) -> None:
    x = (torch.rand(6, 3, 8, 12) * 2 - 1).requires_grad_()
    assert torch.allclose(transform(x, 0.0, rng()), x, atol=1e-6)
    transform(x, 0.4, rng()).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert torch.equal(transform(x, 0.4, rng(1)), transform(x, 0.4, rng(1)))


def test_translate_is_a_shift_of_each_image() -> None:
    x = torch.rand(40, 2, 8, 8)
    y = translate(x, 0.25, rng()).numpy()
    shifts = set()
    for image, moved in zip(x.numpy(), y, strict=True):
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                reference = np.full_like(image, -1)
                reference[:, max(0, -dy) : 8 - max(0, dy), max(0, -dx) : 8 - max(0, dx)] = image[
                    :, max(0, dy) : 8 + min(0, dy), max(0, dx) : 8 + min(0, dx)
                ]
                if np.array_equal(reference, moved):
                    shifts.add((dy, dx))
                    break
            else:
                continue
            break
        else:
            raise AssertionError("no shift explains this image")
    assert len(shifts) > 10, "each image has its own"


def test_cutout_blanks_one_square() -> None:
    y = cutout(torch.ones(30, 1, 8, 8), 0.5, rng())
    blanked = (y == 0).sum(dim=[1, 2, 3])
    assert blanked.max() == 16 and blanked.min() >= 4
    whole = y[blanked == 16][0, 0]
    rows, cols = torch.where(whole == 0)
    assert rows.max() - rows.min() == 3 and cols.max() - cols.min() == 3


def test_colour_by_hand() -> None:
    """Brightness, then saturation, then contrast, with the three draws of each image."""
    x, s = torch.rand(3, 3, 4, 4), 0.5
    draws = [torch.rand((3, 1, 1, 1), generator=g) * 2 - 1 for g in [rng()] for _ in range(3)]
    y = x + draws[0] * s / 2
    grey = y.mean(1, keepdim=True)
    y = (y - grey) * (1 + draws[1] * s) + grey
    mean = y.mean([1, 2, 3], keepdim=True)
    y = (y - mean) * (1 + draws[2] * s / 2) + mean
    assert torch.allclose(colour(x, s, rng()), y, atol=1e-6)
