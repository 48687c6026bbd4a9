"""Up- and down-sampling by filters (FIR) that neither fold frequencies nor leave a grid (Zhang 2019; Karras 2020).

A separable filter such as [1, 3, 3, 1] runs between "insert zeros" and "keep every second": `fir` does all three. Its
adjoint is another `fir` (reversed taps, the two factors swapped), so gradients of any order are fast depthwise
convolutions. PyTorch's own gradient of a strided bf16 depthwise convolution takes a hundred times as long on a CPU.

Outside the image is 0, as in a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BILINEAR = (1.0, 3.0, 3.0, 1.0)

Pad = tuple[int, int, int, int]  # left, right, top, bottom, as in F.pad; may be negative


def fir(x: Tensor, taps: Sequence[float], up: int = 1, down: int = 1, pad: Pad = (0, 0, 0, 0)) -> Tensor:
    """Insert up - 1 zeros after every pixel, pad, correlate rows and columns with `taps`, keep every down-th pixel.

    float N,C,H,W -> N,C,H',W' with H' = ceil((H up + top + bottom - len(taps) + 1) / down), in x's type.
    """
    out: Tensor = _FIR.apply(x, tuple(float(t) for t in taps), up, down, pad)  # type: ignore[no-untyped-call]
    return out


class _FIR(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: tuple[float, ...], up: int, down: int, pad: Pad) -> Tensor:
        y = _fir(x, taps, up, down, pad)
        left, _, top, _ = pad
        # The adjoint starts where the last tap met the first pixel, and ends with x's size.
        reach = len(taps) - 1
        across = (reach - left, x.shape[3] * up - y.shape[3] * down + left)
        along = (reach - top, x.shape[2] * up - y.shape[2] * down + top)
        ctx.adjoint = (taps[::-1], down, up, (*across, *along))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _FIR.apply(grad, *ctx.adjoint), None, None, None, None  # type: ignore[no-untyped-call]


def _fir(x: Tensor, taps: tuple[float, ...], up: int, down: int, pad: Pad) -> Tensor:
    n, c, h, w = x.shape
    left, right, top, bottom = pad
    inside = (0, 0)
    if up > 1:
        apart = torch.empty((n, c, h * up, w * up), dtype=x.dtype, device=x.device, memory_format=_format(x)).zero_()
        apart[:, :, ::up, ::up] = x
        x = apart
    if left == right and top == bottom and min(pad) >= 0:
        inside = (top, left)
    elif any(pad):
        x = F.pad(x, pad)
    line = torch.tensor(taps, device="cpu", dtype=torch.float64)  # MPS has no float64
    kernel = torch.outer(line, line).to(x.dtype).to(x.device).expand(c, 1, -1, -1).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, kernel, stride=down, padding=inside, groups=c)


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def normalised(taps: Sequence[float], gain: float = 1.0) -> tuple[float, ...]:
    """Taps that sum to `gain`."""
    return tuple(t * gain / sum(taps) for t in taps)


def upsample(x: Tensor, taps: Sequence[float] = BILINEAR) -> Tensor:
    """Double the sides: N,C,H,W -> N,C,2H,2W. A constant stays what it is, but for the borders."""
    spare = len(taps) - 1
    before, after = (spare + 1) // 2, spare // 2
    return fir(x, normalised(taps, 2), up=2, pad=(before, after, before, after))


def downsample(x: Tensor, taps: Sequence[float] = BILINEAR) -> Tensor:
    """Halve even sides: N,C,H,W -> N,C,H/2,W/2. The adjoint of `upsample`, over 4."""
    spare = len(taps) - 2
    before, after = (spare + 1) // 2, spare // 2
    return fir(x, normalised(taps), down=2, pad=(before, after, before, after))


def conv_up(x: Tensor, weight: Tensor, taps: Sequence[float] = BILINEAR) -> Tensor:
    """Up-sample, then convolve with `weight` O,I,3,3: N,I,H,W -> N,O,2H,2W.

    Done as a transposed convolution and then the filter, which is the same but at the border: a quarter of the
    multiplications.
    """
    wide = F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), stride=2)  # 2H+1
    before, after = (len(taps) - 2) // 2, (len(taps) - 1) // 2
    return fir(wide, normalised(taps, 2), pad=(before, after, before, after))


def conv_down(x: Tensor, weight: Tensor, bias: Tensor | None = None, taps: Sequence[float] = BILINEAR) -> Tensor:
    """Convolve with `weight` O,I,3,3 and down-sample: N,I,H,W -> N,O,H/2,W/2, H and W even.

    Done as the filter and then a convolution with stride 2, which is the same but at the border: a quarter of the
    multiplications.
    """
    before, after = (len(taps) + 1) // 2, len(taps) // 2
    soft = fir(x, normalised(taps), pad=(before, after, before, after))  # H+1
    return F.conv2d(soft, weight, bias, stride=2)
