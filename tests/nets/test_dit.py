"""DiT: positions and attention by hand, the identity at initialisation, patches in their place, the paper's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kartina.config import FamilyConfig
from kartina.errors import ConfigError
from kartina.nets.dit import DiT, DiTBlock, modulate, positions
from tests import tiny


def opened(net: torch.nn.Module) -> torch.nn.Module:
    """With zero-initialised gates opened."""
    torch.manual_seed(1)
    for p in net.parameters():
        p.data += torch.randn_like(p) * 0.1
    return net.eval()


def test_positions_by_hand() -> None:
    found = positions(2, 3, 8, torch.device("cpu"))
    assert found.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            expected = [f(p * w) for p in (row, column) for f in (np.cos, np.sin) for w in (1.0, 0.01)]
            assert found[3 * row + column].numpy() == pytest.approx(expected, abs=1e-6)


def test_modulate_by_hand() -> None:
    x = torch.randn(2, 5, 3)
    shift, scale = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(modulate(x, shift, scale)[1, 4], x[1, 4] * (1 + scale[1]) + shift[1])


def test_attention_by_hand() -> None:
    block, x = opened(DiTBlock(8, 2)), torch.randn(1, 5, 8)
    q, k, v = block.qkv(x)[0].chunk(3, dim=1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[:, h] @ k[:, h].T / 2, dim=1)  # sqrt of the head's 4 channels
        heads.append(weights @ v[:, h])
    assert torch.allclose(block.attention(x)[0], block.out(torch.cat(heads, dim=1)), atol=1e-5)


def test_block_by_hand() -> None:
    block, x, c = opened(DiTBlock(8, 2)), torch.randn(2, 5, 8), torch.randn(2, 8)

    def norm(h: torch.Tensor) -> torch.Tensor:
        return (h - h.mean(dim=2, keepdim=True)) / (h.var(dim=2, unbiased=False, keepdim=True) + 1e-6).sqrt()

    s1, g1, a1, s2, g2, a2 = (part[:, None] for part in block.cond(c).chunk(6, dim=1))
    h = x + a1 * block.attention(norm(x) * (1 + g1) + s1)
    expected = h + a2 * block.mlp(norm(h) * (1 + g2) + s2)
    assert torch.allclose(block(x, c), expected, atol=1e-5)


def test_it_starts_as_the_identity_and_says_0() -> None:
    """adaLN-Zero."""
    net = DiT(3, 3, labels=4, patch=2, depth=2, width=16, heads=2)
    x, c = torch.randn(2, 64, 16), torch.randn(2, 16)
    for block in net.blocks:
        assert torch.equal(block(x, c), x)
    assert net(torch.randn(2, 3, 16, 16), torch.rand(2), torch.eye(4)[:2]).abs().max() == 0


def test_a_patch_goes_out_where_it_came_in() -> None:
    """With no blocks a token only knows itself: a changed pixel changes its own patch and nothing else."""
    net = opened(DiT(2, 3, labels=4, patch=4, depth=1, width=16, heads=2))
    net.blocks = torch.nn.ModuleList()
    x = torch.randn(1, 2, 8, 16)
    moved = x.clone()
    moved[0, 1, 5, 9] += 1
    t, y = torch.tensor([0.5]), torch.eye(4)[:1]
    changed = (net(moved, t, y) != net(x, t, y))[0].any(dim=0)
    expected = torch.zeros(8, 16, dtype=torch.bool)
    expected[4:8, 8:12] = True
    assert torch.equal(changed, expected)


def test_time_label_and_place_matter() -> None:
    net, x = opened(DiT(1, 1, labels=4, patch=2, depth=2, width=16, heads=2)), torch.randn(1, 1, 8, 8)
    out = net(x, torch.tensor([0.5]), torch.eye(4)[:1])
    assert not torch.allclose(out, net(x, torch.tensor([0.6]), torch.eye(4)[:1]))
    assert not torch.allclose(out, net(x, torch.tensor([0.5]), torch.eye(4)[3:]))
    turned = net(x.roll(4, dims=3), torch.tensor([0.5]), torch.eye(4)[:1])
    assert not torch.allclose(out.roll(4, dims=3), turned, atol=1e-4)


def test_the_papers_small_model_has_33_million_parameters() -> None:
    """DiT-S/2 (Peebles & Xie 2023, table 1 and 4): 12 blocks, 384 channels, 6 heads, on 4 channels of latents."""
    with torch.device("meta"):
        net = DiT(4, 8, labels=1001, patch=2, depth=12, width=384, heads=6)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(33e6, rel=0.02)


def test_sizes_that_do_not_fit_are_refused_in_words() -> None:
    def flow(**config: object) -> FamilyConfig:
        return tiny.family("flow", backbone="dit", **{"depth": 1, "width": 16, "heads": 2, **config}).config

    with pytest.raises(ConfigError, match=r"16x16.*multiples of 3 \(patch 3\).*--size"):
        flow(patch=3)
    with pytest.raises(ConfigError, match="width=16 and heads=3"):
        flow(heads=3)
    assert flow().backbone == "dit"
