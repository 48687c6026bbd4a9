"""The Inception-v3 that FID is defined by: TensorFlow's of 2015-12-05, in plain torch (Szegedy 2015; Heusel 2017).

Only numbers from these weights are called FID, KID and IS. The network is not the one of today's model collections:

    - 1,008 classes; features are the 2,048 means of the last map; Inception Score logits have no bias
    - average pools divide by the pixels that are there, not by nine (count_include_pad=False)
    - the last block, Mixed_7c, pools by maximum where Mixed_7b pools by average
    - BatchNorm's eps is 1e-3
    - images are resized to 299 x 299 as TensorFlow 1 did it (`resize`), then (x - 128) / 128

Names of modules are those of the published state dict, `pt_inception-2015-12-05-6726825d.pth`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.errors import IntegrityError
from kartina.metrics import room

SIDE = 299
FEATURES = room.FEATURES["inception"]
CLASSES = 1008
FILE = room.INCEPTION_FILE
SHA256 = "6726825d"  # the first digits, which the file's name carries
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
BYTES = room.INCEPTION_BYTES


class Conv(nn.Module):
    """Convolution, BatchNorm, ReLU. `kernel` and `pad` are one number, or height and width."""

    def __init__(self, wide: int, out: int, kernel: int | tuple[int, int], stride: int = 1,
                 pad: int | tuple[int, int] = 0):  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(wide, out, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def mean_pool(x: Tensor) -> Tensor:
    """3 x 3 means over the pixels that are there."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3, pool."""

    def __init__(self, wide: int, pool: int):
        super().__init__()
        self.branch1x1 = Conv(wide, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(wide, 48, 1), Conv(48, 64, 5, pad=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(wide, 64, 1), Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, pad=1)
        self.branch_pool = Conv(wide, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(mean_pool(x))], 1)


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, wide: int):
        super().__init__()
        self.branch3x3 = Conv(wide, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(wide, 64, 1), Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17 x 17: 1x1, 7x7 as 1x7 and 7x1, double 7x7, pool."""

    def __init__(self, wide: int, inner: int):
        super().__init__()
        row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = Conv(wide, 192, 1)
        self.branch7x7_1 = Conv(wide, inner, 1)
        self.branch7x7_2, self.branch7x7_3 = _conv(inner, inner, row), _conv(inner, 192, column)
        self.branch7x7dbl_1 = Conv(wide, inner, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _conv(inner, inner, column), _conv(inner, inner, row)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _conv(inner, inner, column), _conv(inner, 192, row)
        self.branch_pool = Conv(wide, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean_pool(x))], 1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, wide: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(wide, 192, 1), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(wide, 192, 1)
        self.branch7x7x3_2, self.branch7x7x3_3 = Conv(192, 192, (1, 7), pad=(0, 3)), Conv(192, 192, (7, 1), pad=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8 x 8: 1x1, 3x3 split in two, double 3x3 split in two, pool: by mean in Mixed_7b, by maximum in Mixed_7c."""

    def __init__(self, wide: int, largest: bool):
        super().__init__()
        row, column = ((1, 3), (0, 1)), ((3, 1), (1, 0))
        self.largest = largest
        self.branch1x1 = Conv(wide, 320, 1)
        self.branch3x3_1 = Conv(wide, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _conv(384, 384, row), _conv(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(wide, 448, 1), Conv(448, 384, 3, pad=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _conv(384, 384, row), _conv(384, 384, column)
        self.branch_pool = Conv(wide, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.largest else mean_pool(x)
        return torch.cat([
            self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled),
        ], 1)  # fmt: skip


def _conv(wide: int, out: int, form: tuple[tuple[int, int], tuple[int, int]]) -> Conv:
    kernel, pad = form
    return Conv(wide, out, kernel, pad=pad)


class Inception(nn.Module):
    """float N,3,H,W in levels 0..255 -> features N,2048 and logits N,1008 without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, pad=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, largest=False), BlockE(2048, largest=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = (resize(x) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def resize(x: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear, as TensorFlow 1's resize_bilinear: output pixel i lies at input i * in/out, not at pixel centres."""
    for dim in (2, 3):
        n = x.shape[dim]
        at = torch.arange(side, dtype=torch.float32) * (n / side)
        low = at.floor().long().clamp(max=n - 1)
        high = (low + 1).clamp(max=n - 1)
        share = (at - low).reshape([-1 if d == dim else 1 for d in range(4)]).to(x.device)
        left, right = x.index_select(dim, low.to(x.device)), x.index_select(dim, high.to(x.device))
        x = left + (right - left) * share
    return x


def load(path: Path) -> Inception:
    """The network with the weights of a file whose checksum was checked before: tensors only, nothing is unpickled.

    Raises IntegrityError where the file is not such a state dict.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader raises: the file is no state dict
        raise IntegrityError(f"Found {path.name}, which holds no tensors alone ({error}); expected {FILE}.") from None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise IntegrityError(f"Found {path.name}, which is no dictionary of tensors; expected {FILE}.")
    net = Inception()
    expected = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    wrong = [k for k in expected.keys() | found.keys()
             if k not in found or k not in expected or found[k].shape != expected[k].shape]  # fmt: skip
    if wrong:
        raise IntegrityError(
            f"Found {path.name} with {len(wrong)} tensors too many, too few or of other shapes; expected {FILE}.",
            details=sorted(wrong),
        )
    net.load_state_dict(found, strict=False)
    return net.eval().requires_grad_(False)
