"""A U-Net that is cheap enough to train on a CPU.

The image is folded by a pixel-unshuffle stem (Shi 2016): a 32 px image becomes a 16 px one with four times the
channels, so that every convolution of the body costs a quarter. Blocks are the residual GroupNorm-SiLU-convolution
pairs of Ho 2020 with the scale-and-shift conditioning of Dhariwal & Nichol 2021; attention stands where the map is
small. The head unfolds to full resolution and looks at the input once more through two full-resolution convolutions:
without them neighbouring pixels come from separate output channels that never see each other, which shows as speckle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.errors import ConfigError
from kartina.nets.layers import Fourier, condition, zero
from kartina.nets.norm import group_norm


class Block(nn.Module):
    """Residual block: N,C,H,W and condition N,E -> N,C',H,W."""

    def __init__(self, cin: int, cout: int, emb: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = group_norm(cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.cond = nn.Linear(emb, 2 * cout)
        self.norm2, self.conv2 = group_norm(cout), zero(nn.Conv2d(cout, cout, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.cond(emb)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        out: Tensor = self.skip(x) + self.conv2(self.dropout(h))
        return out


class Attention(nn.Module):
    """Multi-head self-attention over positions, residual: N,C,H,W -> N,C,H,W."""

    def __init__(self, channels: int, head: int = 32):
        super().__init__()
        self.heads = max(h for h in range(1, channels + 1) if channels % h == 0 and (h == 1 or channels // h >= head))
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(y.transpose(2, 3).reshape(n, c, h, w))
        return out


class UNet(nn.Module):
    """x N,Cin,H,W; t float N; label weights N,K+1 (the last one is the null label) -> N,Cout,H,W.

    `widths` are the channels of each level, finest first; H and W must be multiples of stem * 2**(levels-1).
    `attention` lists the levels (0 = finest) that have it. With `span`, `forward` takes a second time, float N (how far
    a step reaches), whose embedding is added to the first one's. `top` is the highest frequency of both embeddings:
    where the network is differentiated by t, a high one drowns the derivative. With `told`, as many numbers may follow
    the label weights, of which the network is told too (`layers.condition`).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        labels: int,
        widths: Sequence[int] = (64, 128),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        stem: int = 2,
        dropout: float = 0.0,
        head: int = 32,
        span: bool = False,
        top: float = 1000.0,
        told: int = 0,
    ):
        super().__init__()
        width = widths[0]
        emb = 4 * width
        self.stem = stem
        self.time = embedding(width, emb, top)
        self.span = embedding(width, emb, top) if span else None
        self.label = nn.Linear(labels, emb, bias=False)
        nn.init.normal_(self.label.weight, std=0.5)
        self.told = nn.Linear(told, emb, bias=False) if told else None
        if self.told is not None:
            nn.init.normal_(self.told.weight, std=0.5)

        # Down.
        self.inp = nn.Conv2d(cin * stem**2, width, 3, padding=1)
        self.down = nn.ModuleList()
        skips, c = [width], width
        for level, w in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(Level(c, w, emb, dropout, level in attention))
                skips.append(c := w)

        # Middle.
        self.mid = nn.ModuleList([Level(c, c, emb, dropout, bool(attention)), Level(c, c, emb, dropout, False)])

        # Up: one block more than down, each taking a skip.
        self.up = nn.ModuleList()
        for level, w in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Level(c + skips.pop(), w, emb, dropout, level in attention))
                c = w
            if level:
                self.up.append(Upsample(c))

        # Out: unfold, then look at neighbours and at the input at full resolution.
        self.out = nn.Sequential(
            group_norm(c), nn.SiLU(), nn.Conv2d(c, head * stem**2, 3, padding=1), nn.PixelShuffle(stem)
        )
        self.refine = nn.Conv2d(head + cin, head, 3, padding=1)
        self.last = zero(nn.Conv2d(head, cout, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, span: Tensor | None = None) -> Tensor:
        h, skips, emb = self.encode(x, t, labels, span)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), emb) if isinstance(layer, Level) else layer(h)
        h = F.silu(self.out(h))
        y: Tensor = self.last(F.silu(self.refine(torch.cat([h, x.to(h.dtype)], dim=1))))
        return y

    def encode(
        self, x: Tensor, t: Tensor, labels: Tensor, span: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The map in the middle, those before every layer on the way down to it, and the condition N,E."""
        emb = self.time(t) + condition(labels, self.label, self.told)
        if self.span is not None:
            emb = emb + self.span(span)
        emb = F.silu(emb)
        h = self.inp(F.pixel_unshuffle(x, self.stem))
        skips = [h]
        for layer in self.down:
            h = layer(h, emb) if isinstance(layer, Level) else layer(h)
            skips.append(h)
        for layer in self.mid:
            h = layer(h, emb)
        return h, skips, emb


def embedding(width: int, emb: int, top: float) -> nn.Sequential:
    """Of a time: float N -> N,emb."""
    return nn.Sequential(Fourier(width, top), nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))


def check_fit(widths: Sequence[int], attention: Sequence[int], stem: int, height: int, width: int) -> None:
    """Raise ConfigError where a U-Net has not the levels that `attention` names, or the image cannot be folded."""
    beyond = [level for level in attention if not 0 <= level < len(widths)]
    if beyond:
        raise ConfigError(
            f"Found attention at level {beyond[0]}; this U-Net has levels 0 (finest) to {len(widths) - 1}. "
            f"Set attention to some of those, or widths to more."
        )
    fold = stem * 2 ** (len(widths) - 1)
    if height % fold or width % fold:
        raise ConfigError(
            f"Found images of {height}x{width}; this U-Net needs both sides to be multiples of {fold} "
            f"(stem {stem}, {len(widths)} levels). Import the data at another --size, or set widths."
        )


class Level(nn.Module):
    """A residual block, with attention behind it where asked."""

    def __init__(self, cin: int, cout: int, emb: int, dropout: float, attention: bool):
        super().__init__()
        self.block = Block(cin, cout, emb, dropout)
        self.attention = Attention(cout) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y: Tensor = self.block(x, emb)
        return y if self.attention is None else self.attention(y)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution (Odena 2016: no checkerboard)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y
