"""FIR resampling against scipy, its adjoint, and the convolutions that up- and down-sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional as F

from kartina.nets.resample import BILINEAR, conv_down, conv_up, downsample, fir, normalised, upsample

TAPS = np.array([1, 3, 3, 1]) / 8


def field(n: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(x: np.ndarray, taps: np.ndarray, up: int, down: int, pad: tuple[int, int, int, int]) -> np.ndarray:
    """Zeros in, pad (or crop), scipy's correlation, keep every down-th."""
    left, right, top, bottom = pad
    apart = np.zeros((x.shape[0] * up, x.shape[1] * up))
    apart[::up, ::up] = x
    apart = np.pad(apart, [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))])
    apart = apart[max(-top, 0) : apart.shape[0] + min(bottom, 0), max(-left, 0) : apart.shape[1] + min(right, 0)]
    return signal.correlate2d(apart, np.outer(taps, taps), mode="valid")[::down, ::down]


CASES = [
    (1, 1, (0, 0, 0, 0)),
    (1, 1, (2, 2, 2, 2)),
    (2, 1, (2, 1, 2, 1)),
    (1, 2, (1, 1, 1, 1)),
    (1, 2, (2, 0, 1, 3)),
    (2, 3, (3, -1, 0, 2)),
    (3, 2, (1, 2, 4, 0)),
]


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_fir_against_scipy(up: int, down: int, pad: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    x, taps = field(2, 3, *size), np.array([1.0, 3.0, -2.0, 0.5])
    found = fir(x, taps, up, down, pad)
    for i in range(2):
        for c in range(3):
            expected = reference(x[i, c].numpy(), taps, up, down, pad)
            np.testing.assert_allclose(found[i, c].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
def test_gradients_of_fir_to_second_order(up: int, down: int, pad: tuple[int, int, int, int]) -> None:
    x = field(1, 2, 5, 4).requires_grad_(True)

    def f(x: torch.Tensor) -> torch.Tensor:
        return fir(x, (1.0, 3.0, -2.0, 0.5), up, down, pad)

    assert torch.autograd.gradcheck(f, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: f(x).square(), x, fast_mode=True)


def test_upsampling_is_scipys_upfirdn() -> None:
    x = field(1, 1, 6, 8)
    rows = signal.upfirdn(TAPS * 2, x[0, 0].numpy(), up=2, axis=0)
    both = signal.upfirdn(TAPS * 2, rows, up=2, axis=1)
    np.testing.assert_allclose(upsample(x)[0, 0].numpy(), both[1:13, 1:17], atol=1e-12)


def test_downsampling_is_scipys_upfirdn() -> None:
    x = field(1, 1, 6, 8)
    rows = signal.upfirdn(TAPS, x[0, 0].numpy(), down=2, axis=0)  # starts 3 pixels before the image: odd
    expected = [np.convolve(x[0, 0, :, j].numpy(), TAPS)[2:-1:2] for j in range(8)]
    along = np.stack(expected, axis=1)
    assert rows.shape[0] == 5 and along.shape == (3, 8)
    both = np.stack([np.convolve(row, TAPS)[2:-1:2] for row in along])
    np.testing.assert_allclose(downsample(x)[0, 0].numpy(), both, atol=1e-12)


def test_a_flat_image_stays_flat_inside() -> None:
    flat = torch.ones(1, 2, 8, 8)
    assert torch.allclose(upsample(flat)[:, :, 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    assert torch.allclose(downsample(flat)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert upsample(flat).shape == (1, 2, 16, 16) and downsample(flat).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("taps", [BILINEAR, (1.0, 1.0), (1.0, 2.0, 1.0)])
def test_downsampling_is_the_adjoint_of_upsampling_over_four(taps: tuple[float, ...]) -> None:
    x, y = field(2, 3, 4, 6), field(2, 3, 8, 12, seed=1)
    assert (upsample(x, taps) * y).sum().item() == pytest.approx(4 * (x * downsample(y, taps)).sum().item(), rel=1e-12)


@pytest.mark.parametrize("taps", [BILINEAR, (1.0, 1.0), (1.0, 2.0, 1.0)])
def test_conv_up_is_upsampling_then_convolution(taps: tuple[float, ...]) -> None:
    x, weight = field(2, 3, 5, 6), field(4, 3, 3, 3, seed=1)
    found, expected = conv_up(x, weight, taps), F.conv2d(upsample(x, taps), weight, padding=1)
    assert found.shape == (2, 4, 10, 12)
    assert torch.allclose(found[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], atol=1e-10)


def test_conv_up_against_scipy() -> None:
    x, weight = field(1, 2, 5, 5), field(1, 2, 3, 3, seed=1)
    total = np.zeros((10, 10))
    for c in range(2):
        apart = np.zeros((9, 9))
        apart[::2, ::2] = x[0, c].numpy()
        wide = signal.correlate2d(apart, weight[0, c].numpy(), mode="full")  # 11
        total += signal.correlate2d(np.pad(wide, 1), np.outer(TAPS, TAPS) * 4, mode="valid")
    np.testing.assert_allclose(conv_up(x, weight)[0, 0].numpy(), total, atol=1e-12)


@pytest.mark.parametrize("taps", [BILINEAR, (1.0, 1.0), (1.0, 2.0, 1.0)])
def test_conv_down_is_convolution_then_downsampling(taps: tuple[float, ...]) -> None:
    x, weight, bias = field(2, 3, 10, 12), field(4, 3, 3, 3, seed=1), torch.arange(4.0).double()
    found = conv_down(x, weight, bias, taps)
    expected = downsample(F.conv2d(x, weight, padding=1), taps) + bias[:, None, None]
    assert found.shape == (2, 4, 5, 6)
    assert torch.allclose(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], atol=1e-10)


def test_types_and_memory_formats_are_kept() -> None:
    x = field(2, 8, 8, 8).float().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert upsample(x).dtype == torch.float32, "sums of images stay precise"
    low = upsample(x.bfloat16())
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), upsample(x), atol=0.05)
    assert upsample(x).is_contiguous(memory_format=torch.channels_last)
    small = downsample(x.requires_grad_(True))
    grad = torch.autograd.grad(small, x, small.detach())[0]
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_taps_are_normalised_to_their_gain() -> None:
    assert normalised((1, 3, 3, 1)) == (0.125, 0.375, 0.375, 0.125)
    assert normalised((1, 2, 1), 2) == (0.5, 1.0, 0.5)
