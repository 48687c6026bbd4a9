"""GAN and cGAN: the papers' layers, maxout and the value function by hand, uniform latents in training and sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor, nn

from kartina.errors import ConfigError
from kartina.generators.base import At, Batch, generate, rows_for
from kartina.generators.gan import CGAN, GAN, Maxout
from tests import tiny

FAMILIES = pytest.mark.parametrize("name", ["gan", "cgan"])


def at(seed: int = 0) -> At:
    return At(0, 0, 100, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 6, shape: tuple[int, int, int] = (1, 16, 16)) -> Batch:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def layers(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {k: (m.in_features, m.out_features) for k, m in net.named_modules() if isinstance(m, nn.Linear)}


def test_the_papers_layers() -> None:
    """Mirza & Osindero 2014, section 4.1; without y, Goodfellow's G of two hidden layers of 1200."""
    mnist = tiny.spec(28, 1, 10)
    with torch.device("meta"):
        c, u = CGAN(CGAN.Config(), mnist), GAN(GAN.Config(), mnist)
    assert layers(c.generator) == {
        "z": (100, 200),
        "y": (10, 1000),
        "joined.0": (1200, 1200),
        "out": (1200, 784),
    }
    assert layers(c.discriminator) == {
        "x.linear": (784, 240 * 5),
        "y.linear": (10, 50 * 5),
        "joined.linear": (290, 240 * 4),
        "out": (240, 1),
    }
    assert layers(u.generator) == {"z": (100, 1200), "joined.0": (1200, 1200), "out": (1200, 784)}
    assert layers(u.discriminator) == {"x.linear": (784, 1200), "joined.linear": (240, 960), "out": (240, 1)}
    assert c.discriminator.drop.p == 0.5 and not any(isinstance(m, nn.Dropout) for m in c.generator.modules())


def test_the_two_families_differ_by_one_switch() -> None:
    keys = [set(tiny.family(name, conditional=True).state_dict()) for name in ("gan", "cgan")]
    assert keys[0] == keys[1] and "generator.y.weight" in keys[0]
    keys = [set(tiny.family(name, conditional=False).state_dict()) for name in ("gan", "cgan")]
    assert keys[0] == keys[1] and not any(".y." in k for k in keys[0])


def test_maxout_by_hand() -> None:
    layer = Maxout(2, units=2, pieces=3)
    weight = torch.tensor([[1.0, 0], [0, 1], [-1, -1], [2, 0], [0, -3], [0.5, 0.5]])
    layer.linear.weight.data.copy_(weight)
    layer.linear.bias.data.copy_(torch.tensor([0.0, 0, 0, 1, 0, 0]))
    # Unit 0: max(a, b, -a-b); unit 1: max(2a+1, -3b, (a+b)/2).
    assert layer(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])).tolist() == [[2, 3], [3, 6]]


def test_generator_by_hand() -> None:
    """Own ReLU layers for z and y, a joined one, a sigmoid mapped to [-1, 1]: in NumPy."""
    g = tiny.family("cgan").generator
    p = {k: v.numpy() for k, v in g.state_dict().items()}
    rng = np.random.default_rng(0)
    z, y = rng.random((5, 4)), np.eye(3)[[0, 1, 2, 0, 1]]
    h = np.concatenate([(2 * z - 1) @ p["z.weight"].T + p["z.bias"], y @ p["y.weight"].T + p["y.bias"]], axis=1)
    h = np.maximum(np.maximum(h, 0) @ p["joined.0.weight"].T + p["joined.0.bias"], 0)
    expected = 2 / (1 + np.exp(-(h @ p["out.weight"].T + p["out.bias"]))) - 1
    found = g(torch.tensor(z).float(), torch.tensor(y).float())
    assert found.detach().numpy().reshape(5, -1) == pytest.approx(expected, abs=1e-5)


class Listening(nn.Module):
    """In the generator's place: keeps the latents that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.heard.append(z)
        return torch.zeros(len(z), 1, 16, 16) + self.anchor


def latents(name: str, **controls: Any) -> Tensor:
    family = tiny.sampler(name)
    family.generator = Listening()
    settings = family.capabilities()["generate"].controls(**controls)
    generate(family, rows_for(family, [0], 500, 1, settings))
    return torch.cat(family.generator.heard)


@FAMILIES
def test_latents_are_uniform_in_training_and_in_sampling(name: str) -> None:
    family = tiny.family(name)
    family.generator = Listening()
    family.fake(torch.eye(3)[torch.arange(600) % 3], at())
    trained, sampled = family.generator.heard[0], latents(name)
    assert torch.equal(trained, torch.rand(600, 4, generator=torch.Generator().manual_seed(0)))
    for z in (trained, sampled):
        assert z.min() >= 0 and z.max() <= 1
        for column in z.T:
            assert kstest(column.numpy(), "uniform").pvalue > 1e-3


def test_spread_acts_before_the_normal_cdf() -> None:
    full, half = latents("cgan").double().numpy(), latents("cgan", spread=0.5).double().numpy()
    assert half == pytest.approx(norm.cdf(norm.ppf(full) / 2), abs=1e-5)
    assert torch.equal(latents("cgan", spread=0.0), torch.full((500, 4), 0.5))


def test_value_function_at_its_equilibrium_is_minus_log_4() -> None:
    """Goodfellow 2014, theorem 1: where D says 1/2 everywhere, V = -log 4; D minimises -V."""
    family = tiny.family("gan", loss="minimax")
    for p in family.discriminator.parameters():
        p.data.zero_()
    assert family.loss("D", batch(), at()).total.item() == pytest.approx(math.log(4), rel=1e-6)
    assert family.loss("G", batch(), at()).total.item() == pytest.approx(math.log(1 / 2), rel=1e-6)


def test_minimax_saturates_where_softplus_does_not() -> None:
    """Section 3: early on D rejects G's images with confidence (logits of -8), and log(1 - D) is flat there."""
    norms = {}
    for loss in ("minimax", "softplus"):
        family = tiny.family("gan", loss=loss, x_dropout=0.0, d_dropout=0.0)
        family.discriminator.out.bias.data.fill_(-8.0)
        family.discriminator.out.weight.data.mul_(0.01)
        family.loss("G", batch(), at()).total.backward()
        norms[loss] = math.sqrt(sum(p.grad.square().sum().item() for p in family.generator.parameters()))
    assert norms["minimax"] / norms["softplus"] == pytest.approx(math.exp(-8), rel=0.05)


def test_k_discriminator_steps() -> None:
    phases = tiny.family("gan", d_steps=3, gamma=0.0).phases()
    assert [(p.name, p.repeat, p.opt) for p in phases] == [("D", 3, "D"), ("G", 1, "G")]


@FAMILIES
def test_dropout_is_in_the_discriminator_and_in_training_alone(name: str) -> None:
    family = tiny.family(name).train()
    x, y = batch().images, torch.eye(3)[batch().labels]
    assert not torch.equal(family.discriminator(x, y), family.discriminator(x, y))
    z = torch.rand(6, 4)
    assert torch.equal(family.generator(z, y), family.generator(z, y))
    family.eval()
    assert torch.equal(family.discriminator(x, y), family.discriminator(x, y))


def test_the_discriminator_looks_at_the_class() -> None:
    x, first, second = batch(4).images, torch.eye(3)[[0] * 4], torch.eye(3)[[1] * 4]
    c, u = tiny.family("cgan").eval().discriminator, tiny.family("gan").eval().discriminator
    assert not torch.equal(c(x, first), c(x, second)) and torch.equal(u(x, first), u(x, second))


@FAMILIES
def test_any_shape_of_image(name: str) -> None:
    shape = tiny.spec(16, 3).model_copy(update={"height": 11, "width": 20})
    family = tiny.family(name, shape=shape).train()
    for phase in family.phases():
        family.loss(phase.name, batch(shape=(3, 11, 20)), at()).total.backward()
    assert generate(family.eval(), rows_for(family, [1], 2, 0)).images.shape == (2, 3, 11, 20)
    with pytest.raises(ConfigError, match=r"256x257, 65,792 numbers each; .* at most 65,536.*--size"):
        tiny.family(name, shape=tiny.spec(257).model_copy(update={"height": 256}))
