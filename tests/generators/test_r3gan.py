"""R3GAN: each detail of the paper against hand-computed or independent values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import nn
from torch.nn import functional as F

from kartina.errors import ConfigError
from kartina.generators.base import At, Batch
from kartina.generators.r3gan import R3GAN, TAPS, Block
from kartina.nets.resample import downsample, upsample
from kartina.training.loop import Trainer
from tests import tiny


def at(images: int = 0, seed: int = 0) -> At:
    return At(images // 8, images, 1000, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 4) -> Batch:
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def opened(**config: object) -> R3GAN:
    """A tiny model whose residual branches are not nothing."""
    model: R3GAN = tiny.family("r3gan", **config)
    torch.manual_seed(1)
    for m in model.modules():
        if isinstance(m, Block):
            nn.init.normal_(m.conv3.weight, std=0.2)
    return model


# -- nets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3)])
def test_d_mirrors_g_and_depth_follows_from_the_size(size: int, channels: int) -> None:
    with torch.device("meta"):
        model = R3GAN(R3GAN.Config(), tiny.spec(size, channels, 10))
    g, d = model.generator, model.discriminator
    widths, mirrored = (
        [[block.conv3.out_channels for block in stage if isinstance(block, Block)] for stage in net.stages]
        for net in (g, d)
    )
    assert widths == mirrored[::-1]
    assert len(widths) == int(math.log2(size)) - 1 and all(len(stage) == 2 for stage in widths)
    assert widths[-1] == [96, 96] and widths[0][0] == min(768, 96 * size // 4)
    assert g.last.weight.shape == (channels, 96, 1, 1) and d.first.weight.shape == (96, channels, 1, 1)


def test_a_block_is_1x1_grouped_3x3_1x1_without_normalisation() -> None:
    block = Block(24, expansion=2, group=16, scale=1.0)
    assert [m.kernel_size[0] for m in (block.conv1, block.conv2, block.conv3)] == [1, 3, 1]
    assert [m.groups for m in (block.conv1, block.conv2, block.conv3)] == [1, 3, 1]
    assert block.conv2.weight.shape == (48, 16, 3, 3)
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
    assert not any(isinstance(m, norms) for m in tiny.family("r3gan").modules())
    x = torch.randn(2, 24, 5, 5)
    assert torch.equal(block(x), x), "the last convolution starts at 0"
    nn.init.normal_(block.conv3.weight)
    inner = F.leaky_relu(F.conv2d(x, block.conv1.weight, block.conv1.bias), 0.2)
    inner = F.leaky_relu(F.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1, groups=3), 0.2)
    assert torch.allclose(block(x), x + F.conv2d(inner, block.conv3.weight), atol=1e-5)


def test_initialisation_is_hes_times_the_fourth_root_of_one_over_l() -> None:
    model = R3GAN(R3GAN.Config(width=64, width_max=64, blocks=4), tiny.spec(32, 3, 10))
    for net in (model.generator, model.discriminator):
        blocks = [m for m in net.modules() if isinstance(m, Block)]
        assert len(blocks) == 16
        for block in blocks:
            for conv, fan in ((block.conv1, 64), (block.conv2, 16 * 9)):
                he = math.sqrt(2 / ((1 + 0.2**2) * fan))
                assert conv.weight.std().item() == pytest.approx(he / 2, rel=0.06), "16 ** -0.25 is a half"
                assert conv.bias.abs().max() == 0
            assert block.conv3.weight.abs().max() == 0 and block.conv3.bias is None


def test_the_first_update_is_as_large_in_a_deep_net_as_in_a_shallow_one() -> None:
    """What the scale is for: without it, 64 blocks would move 16 times as far as 4."""

    def moved(count: int, scale: float) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(*(Block(64, 2, 16, scale) for _ in range(count)))
        x, target = torch.randn(4, 64, 4, 4), torch.randn(4, 64, 4, 4)
        before = net(x)
        (before * target).mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 1e-3 * p.grad
            return (net(x) - before).norm().item()

    assert 2 / 3 < moved(64, 64**-0.25) / moved(4, 4**-0.25) < 3 / 2
    assert moved(64, 1.0) > 10 * moved(4, 1.0)


@pytest.mark.parametrize("size", [4, 6])
def test_resampling_is_one_two_one(size: int) -> None:
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    up, down = upsample(x, TAPS), downsample(x, TAPS)
    for n in range(2):
        for c in range(3):
            apart = np.zeros((2 * size, 2 * size))
            apart[::2, ::2] = x[n, c]
            assert up[n, c].numpy() == pytest.approx(convolve2d(apart, 4 * kernel, mode="same"))
            assert down[n, c].numpy() == pytest.approx(convolve2d(x[n, c], kernel, mode="same")[::2, ::2])
    small = torch.randn(2, 3, size // 2, size // 2, dtype=torch.float64)
    assert (upsample(small, TAPS) * x).sum().item() == pytest.approx(4 * (small * down).sum().item()), "adjoint"


def test_g_starts_from_a_learned_basis_modulated_by_z_and_the_label() -> None:
    model, seen = tiny.family("r3gan"), []
    g = model.generator
    g.stages[0].register_forward_hook(lambda m, args, out: seen.append(args[0].detach().numpy()))
    z, y = torch.randn(3, 4), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])
    g(z, y)
    condition = np.concatenate([z, y.numpy() @ g.label.weight.detach().numpy().T], axis=1)
    scale = condition @ g.modulate.weight.detach().numpy().T
    assert seen[0] == pytest.approx(np.einsum("nc,chw->nchw", scale, g.basis.detach().numpy()), abs=1e-5)
    assert g.basis.requires_grad and g.basis.shape == (16, 4, 4)


def test_ds_head_is_its_own_basis_then_a_projection_on_the_label() -> None:
    model, seen = opened(), []
    d = model.discriminator
    d.stages[-1].register_forward_hook(lambda m, args, out: seen.append(out.detach().numpy()))
    y = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.3, 0.5]])
    logit = d(batch().images, y)
    h = np.einsum("nchw,chw->nc", seen[0], d.basis.detach().numpy()) @ d.head.weight.detach().numpy().T
    expected = (h * (y.numpy() @ d.label.weight.detach().numpy().T)).sum(axis=1)
    assert logit.detach().numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    alone = tiny.family("r3gan", conditional=False).discriminator
    assert alone.label is None and alone(batch().images, y).shape == (4,)


def test_ds_label_embeddings_start_around_a_common_one() -> None:
    model = R3GAN(R3GAN.Config(width=8, width_max=8, embed=4096), tiny.spec(16, 1, 3))
    product = model.discriminator.label.weight.T @ model.discriminator.label.weight
    assert product.detach().numpy() == pytest.approx(np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]), abs=0.1)


def test_images_are_not_squashed() -> None:
    g = opened().generator
    g.last.weight.data *= 100
    assert g(torch.randn(2, 4), torch.eye(3)[:2]).abs().max() > 1


@pytest.mark.parametrize("size", [4, 24, 512])
def test_sizes_it_cannot_make_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}x{size}; R3GAN needs square"):
        tiny.family("r3gan", shape=tiny.spec(size))


# -- training ----------------------------------------------------------------------------------------------------------


def gradients(model: R3GAN, images: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over images of |grad D|^2, one image at a time."""
    squares = []
    for image, label in zip(images, y, strict=True):
        x = image[None].detach().requires_grad_(True)
        model.discriminator(x, label[None]).sum().backward()
        squares.append(x.grad.square().sum().item())
    return float(np.mean(squares))


def test_every_d_step_pairs_and_penalises_both_sides() -> None:
    assert [p.name for p in tiny.family("r3gan").phases()] == ["D", "G"], "no lazy phase"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ada_target": 0.3}, "ada_target"),
        ({"ada_images": 9}, "ada_images"),
        ({"gamma": 0.0, "gamma_to": 5.0}, "gamma_to"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        R3GAN.Config(**settings)
    plain = R3GAN.Config(gamma=0.0)
    assert R3GAN.Config(**plain.model_dump()) == plain, "also as a run keeps it"
    model, y = opened(gamma=3.0), torch.eye(3)[[0, 1, 2, 0]]
    loss = model.loss("D", batch(), at())
    rng = at().rng  # the loss draws z for the pair, then for the penalty
    with torch.no_grad():
        paired, punished = (model.generator(torch.randn(4, 4, generator=rng), y) for _ in range(2))
        margin = (model.discriminator(batch().images, y) - model.discriminator(paired, y)).numpy()
    pair = np.log1p(np.exp(-margin)).mean()
    both = gradients(model, batch().images, y) + gradients(model, punished, y)
    assert both > 0.01
    assert loss.total.item() == pytest.approx(pair + 3.0 / 2 * both, rel=1e-4)
    g = model.loss("G", batch(), at()).total.item()
    with torch.no_grad():
        fake = model.generator(torch.randn(4, 4, generator=at().rng), y)
        margin = (model.discriminator(batch().images, y) - model.discriminator(fake, y)).numpy()
    assert g == pytest.approx(np.log1p(np.exp(margin)).mean(), rel=1e-5)


def test_gamma_falls_by_a_cosine_over_the_ramp() -> None:
    model = opened(gamma=0.05, gamma_to=0.005, ramp=0.8)
    found = [model.loss("penalty", batch(), at(images)) for images in (0, 200, 400, 800, 1000)]
    expected = [0.05, 0.005 + 0.045 * (1 + math.sqrt(0.5)) / 2, 0.0275, 0.005, 0.005]
    for loss, gamma in zip(found, expected, strict=True):
        assert loss.stats["gamma"].item() == pytest.approx(gamma, rel=1e-5)
        assert loss.total.item() == pytest.approx(gamma / 2 * loss.stats["penalty"].item(), rel=1e-4)
    without = opened(gamma=0.0).loss("D", batch(), at())
    assert "penalty" not in without.stats


def test_p_rises_by_the_same_cosine_and_is_part_of_the_state() -> None:
    model = tiny.family("r3gan", augment="ada", ada_p=0.55, ramp=0.5)
    for images, p in ((0, 0.0), (250, 0.275), (500, 0.55), (900, 0.55)):
        model.after("D", {"sign_real": torch.tensor(1.0)}, at(images))
        assert model.ada.p.item() == pytest.approx(p, abs=1e-6)
    model.after("G", {}, at(0))
    assert model.state_dict()["ada.p"].item() == pytest.approx(0.55)


def test_beta1_is_zero_for_both_players() -> None:
    data = tiny.images()
    made = Trainer(tiny.run_config("r3gan", data, 80), data)
    assert {k: o.param_groups[0]["betas"] for k, o in made.optimisers.items()} == {"D": (0.0, 0.99), "G": (0.0, 0.99)}
    made.step()
    assert all(bool(torch.isfinite(p).all()) for p in made.family.parameters())


def test_freezing_counts_ds_stages_from_the_image_on() -> None:
    model = tiny.family("r3gan", freeze_d=2)
    trained = {id(p) for p in model.d_params()}
    d = model.discriminator
    assert not trained & {id(p) for m in (d.first, d.stages[0]) for p in m.parameters()}
    assert {id(p) for p in d.stages[1].parameters()} <= trained
