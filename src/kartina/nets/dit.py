"""DiT: a transformer over patches of the image (Peebles & Xie 2023), as a backbone for any denoising family.

Patches become tokens with fixed sine and cosine positions. A block is self-attention and a perceptron, each with a
LayerNorm before it and a gate behind; the norms' shift and scale and the gates are linear in the condition (time +
label). These linears start at zero (adaLN-Zero), so a block starts as the identity; so does the output layer, at 0.

Departures: label weights may be mixed, so their embedding is a linear without bias; dropout in the perceptron is an
option.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.nets.layers import Fourier, condition, zero

EPS = 1e-6  # of LayerNorm


def positions(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Sine and cosine features of each cell of a grid, row by row: height * width, dim. Half tell the row, half the
    column; frequencies fall geometrically from 1 to 1/10,000 radian a cell (Vaswani 2017)."""
    angles = Fourier(dim // 2, top=1.0)
    y, x = (angles(torch.arange(n, device=device)) for n in (height, width))
    return torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=2).flatten(0, 1)


def linear(cin: int, cout: int, std: float | None = None, bias: bool = True) -> nn.Linear:
    """Initialised as the paper's: Xavier uniform, or normal of deviation `std` (embeddings); biases 0."""
    made = nn.Linear(cin, cout, bias=bias)
    if std is None:
        nn.init.xavier_uniform_(made.weight)
    else:
        nn.init.normal_(made.weight, std=std)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x N,T,D with shift and scale N,D."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class DiTBlock(nn.Module):
    """Tokens N,T,D and condition N,D -> N,T,D (the paper's figure 3, adaLN-Zero)."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.qkv, self.out = linear(dim, 3 * dim), linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.mlp = nn.Sequential(
            linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Dropout(dropout), linear(4 * dim, dim)
        )
        self.cond = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.cond(c).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        y: Tensor = x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return y

    def attention(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return y


class DiT(nn.Module):
    """x N,Cin,H,W; t float N; label weights N,K+1 (the last one is the null label) -> N,Cout,H,W.

    H and W must be multiples of `patch`, `width` of `heads` and of 4. With `told`, as many numbers may follow the label
    weights, of which the network is told too (`layers.condition`).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        labels: int,
        patch: int = 2,
        depth: int = 12,
        width: int = 384,
        heads: int = 6,
        dropout: float = 0.0,
        told: int = 0,
    ):
        super().__init__()
        self.patch = patch
        self.time = nn.Sequential(Fourier(width), linear(width, width, 0.02), nn.SiLU(), linear(width, width, 0.02))
        self.label = linear(labels, width, 0.02, bias=False)
        self.told = linear(told, width, 0.02, bias=False) if told else None
        self.inp = linear(cin * patch**2, width)
        self.blocks = nn.ModuleList([DiTBlock(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self.cond = zero(nn.Linear(width, 2 * width))
        self.last = zero(nn.Linear(width, cout * patch**2))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        h = self.inp(F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2))
        h = h + positions(rows, columns, h.shape[2], h.device)
        c = F.silu(self.time(t) + condition(labels, self.label, self.told))
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.cond(c).chunk(2, dim=1)
        h = self.last(modulate(self.norm(h), shift, scale))
        y: Tensor = F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (rows, columns)), self.patch)
        return y
