"""MobileNetV2 (Sandler 2018), trained on ImageNet, from a file of 8-bit kernels: 3.4 MB, for photographs.

    lNN.weight_int8 (out, in/groups, kh, kw), lNN.scale (out), lNN.bias (out), NN = 00..52; weight = int8 * scale

A 3x3/2 convolution, 17 inverted residual blocks, a 1x1 convolution, the mean, and a layer of 1,001 classes (0 is the
background). BatchNorm is folded into the kernels. Strides pad as TensorFlow's 'SAME' does: an odd pixel goes to the
right and below. Images are brought to 224 x 224 in float, by torch's antialiased bicubic, not rounded, to [-1, 1].

Distances in its 1,280 features are called FD-MobileNetV2 and KD-MobileNetV2, never FID or KID.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.errors import IntegrityError, NotFoundError

SIDE = 224
FEATURES = 1280
CLASSES = 1001
BLOCKS = (  # t expansion, c channels, n times, s first stride (Sandler 2018, table 2)
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
LAYERS = 53
MAX_BYTES = 64 << 20  # of the file


class Conv(nn.Module):
    """Convolution with 'SAME' padding, then ReLU6 unless it is a bottleneck's end."""

    def __init__(self, wide: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, clip: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(wide, out, kernel, stride, groups=groups)
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(same(x, self.conv.kernel_size[0], self.conv.stride[0]))
        return F.relu6(y, inplace=True) if self.clip else y


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around x as TensorFlow's 'SAME': ceil(side / stride) outputs, the odd zero to the right and below."""
    before_after = []
    for side in (x.shape[3], x.shape[2]):  # F.pad begins with the last dimension
        zeros = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before_after += [zeros // 2, zeros - zeros // 2]
    return F.pad(x, before_after) if any(before_after) else x


class Inverted(nn.Module):
    """1x1 up by t, 3x3 depthwise, 1x1 down without ReLU; the input is added where the shape stays."""

    def __init__(self, wide: int, out: int, t: int, stride: int):
        super().__init__()
        inner = wide * t
        up = [Conv(wide, inner)] if t > 1 else []
        self.layers = nn.Sequential(*up, Conv(inner, inner, 3, stride, groups=inner), Conv(inner, out, clip=False))
        self.adds = stride == 1 and wide == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """float N,3,H,W in levels 0..255 -> features N,1280 and logits N,1001."""

    def __init__(self) -> None:
        super().__init__()
        self.first, wide, blocks = Conv(3, 32, 3, 2), 32, []
        for t, out, n, stride in BLOCKS:
            for i in range(n):
                blocks.append(Inverted(wide, out, t, stride if i == 0 else 1))
                wide = out
        self.blocks = nn.Sequential(*blocks)
        self.last = Conv(wide, FEATURES)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True)
        features = self.last(self.blocks(self.first(x / 127.5 - 1))).mean((2, 3))
        return features, self.classifier(features)

    def parts(self) -> list[nn.Conv2d | nn.Linear]:
        """The 53 layers in the file's order."""
        return [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def load(path: Path) -> tuple[MobileNetV2, bytes]:
    """The network of a file, and the file's bytes. NotFoundError where there is none, IntegrityError for another."""
    if not path.is_file():
        raise NotFoundError(f"Found no file {path}; expected MobileNetV2's kernels. Pass --weights FILE.npz.")
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(
            f"Found {path.name} of {path.stat().st_size:,} bytes; expected MobileNetV2's, about 3.4 MB."
        )
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:  # TypeError: an npy
        raise IntegrityError(f"Found {path.name}, which cannot be read as npz ({error}).") from None
    net = MobileNetV2()
    parts = net.parts()
    assert len(parts) == LAYERS
    with torch.no_grad():
        for i, part in enumerate(parts):
            weight, bias = _layer(arrays, i, tuple(part.weight.shape), path.name)
            part.weight.copy_(torch.from_numpy(weight))
            assert part.bias is not None
            part.bias.copy_(torch.from_numpy(bias))
    return net.eval().requires_grad_(False), content


def _layer(
    arrays: dict[str, NDArray[np.generic]], i: int, shape: tuple[int, ...], file: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Layer i's weight and bias in float32. Raises IntegrityError where an array is missing or of another shape."""
    names = [f"l{i:02d}.{part}" for part in ("weight_int8", "scale", "bias")]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise IntegrityError(f"Found no {missing[0]} in {file}; expected {LAYERS} layers of MobileNetV2 1.0.")
    kernel, scale, bias = (arrays[name] for name in names)
    if kernel.dtype != np.int8 or kernel.size != np.prod(shape) or kernel.shape[0] != shape[0]:
        raise IntegrityError(f"Found {names[0]} of {kernel.dtype} {kernel.shape} in {file}; expected int8 {shape}.")
    if scale.shape != (shape[0],) or bias.shape != (shape[0],):
        raise IntegrityError(
            f"Found scale {scale.shape}, bias {bias.shape} of l{i:02d} in {file}; expected {shape[0]}."
        )
    floats = kernel.reshape(shape).astype(np.float32) * scale.astype(np.float32).reshape(-1, *(1,) * (len(shape) - 1))
    return floats, bias.astype(np.float32)
