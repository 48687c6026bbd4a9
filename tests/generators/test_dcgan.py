"""DCGAN: the paper's architecture, its losses by hand, the gradient penalty against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kartina.errors import ConfigError
from kartina.generators.base import At, Batch
from kartina.generators.dcgan import DCGAN
from kartina.nets.norm import ConditionalBatchNorm
from tests import tiny


def at(seed: int = 0) -> At:
    return At(0, 0, 100, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 4) -> Batch:
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3), (256, 3)])
def test_depth_follows_from_the_size(size: int, channels: int) -> None:
    with torch.device("meta"):
        model = DCGAN(DCGAN.Config(), tiny.spec(size, channels, 10))
        image = model.generator(torch.zeros(2, 100), torch.zeros(2, 10))
        assert image.shape == (2, channels, size, size)
        assert model.discriminator(image, torch.zeros(2, 10)).shape == (2,)
    assert len(model.generator.ups) == int(math.log2(size)) - 2


def test_the_papers_guidelines() -> None:
    model = tiny.family("dcgan", norm="batch", minibatch_std=False)
    g, d = model.generator, model.discriminator
    assert not any(isinstance(m, nn.MaxPool2d | nn.AvgPool2d) for m in model.modules())
    linear = [k for k, m in model.named_modules() if isinstance(m, nn.Linear) and not k.endswith(("gain", "bias"))]
    assert sorted(linear) == ["discriminator.head", "discriminator.label"], "no fully connected hidden layer"
    assert all(isinstance(up, nn.ConvTranspose2d) and up.stride == (2, 2) for up in g.ups)
    assert all(conv.stride == (2, 2) for conv in d.convs)
    assert len(g.norms) == len(g.ups), "BatchNorm before every up-convolution, none on the output"
    assert isinstance(d.norms[0], nn.Identity) and isinstance(d.norms[1], nn.BatchNorm2d)
    hidden = [m for m in d.modules() if isinstance(m, nn.Conv2d)]
    assert hidden == list(d.convs), "BatchNorm after every convolution but the first, and no other convolution"
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.weight.numel() > 500:
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.15)
    image = g(torch.randn(8, 8) * 100, torch.eye(3)[torch.arange(8) % 3])
    assert image.abs().max() <= 1
    assert model.optimiser("G", None).betas[0] == 0.5


def test_penalty_against_finite_differences() -> None:
    model = tiny.family("dcgan", loss="softplus", translate=0.0, gamma=3.0, penalty_every=5, minibatch_std=False)
    model.double()
    real = Batch(batch(2).images.double(), batch(2).labels, batch(2).ids)
    y = model.one_hot(real.labels).double()
    h, square = 1e-5, torch.zeros(2, dtype=torch.float64)
    model.one_hot = lambda labels: nn.functional.one_hot(labels, 3).double()  # type: ignore[method-assign]
    # D's logit is float32 by design; take its float64 twin for the differences.
    loss = model.loss("penalty", real, at())
    with torch.no_grad():
        flat = real.images.flatten(1)
        for i in range(flat.shape[1]):
            step = torch.zeros_like(flat)
            step[:, i] = h

            def logit(shift: torch.Tensor) -> torch.Tensor:
                return exact(model, (flat + shift).reshape_as(real.images), y)

            square += ((logit(step) - logit(-step)) / (2 * h)) ** 2
    assert loss.stats["penalty"].item() == pytest.approx(square.mean().item(), rel=1e-4)
    assert loss.total.item() == pytest.approx(3.0 / 2 * square.mean().item() * 5, rel=1e-4)
    often = tiny.family(
        "dcgan", loss="softplus", translate=0.0, gamma=3.0, penalty_every=5, d_steps=4, minibatch_std=False
    )
    often.load_state_dict(model.state_dict())
    often.one_hot = model.one_hot  # type: ignore[method-assign]
    weight = often.double().loss("penalty", Batch(real.images.double(), real.labels, real.ids), at())
    ratio = weight.total / weight.stats["penalty"] / (loss.total / loss.stats["penalty"])
    assert ratio.item() == pytest.approx(4, rel=1e-5), "four updates of D for each step, five steps for each penalty"


def test_frozen_layers_take_their_normalisation_with_them() -> None:
    model = tiny.family("dcgan", norm="batch", freeze_d=2)
    d = model.discriminator
    frozen = {id(p) for p in d.parameters()} - {id(p) for p in model.d_params()}
    assert frozen == {id(p) for m in (d.convs[0], d.convs[1], d.norms[1]) for p in m.parameters()}
    assert isinstance(d.norms[1], nn.BatchNorm2d)


def exact(model: DCGAN, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The discriminator's logit in float64."""
    d = model.discriminator
    for conv, norm in zip(d.convs, d.norms, strict=True):
        x = F.leaky_relu(norm(conv(x)), 0.2)
    h = F.leaky_relu(d.join(d.std(x)), 0.2).flatten(1)
    return d.head(h).squeeze(1) + (d.label(y) * h).sum(1)


def test_relativistic_penalty_is_on_both_sides() -> None:
    one = tiny.family("dcgan", loss="softplus").loss("penalty", batch(), at())
    two = tiny.family("dcgan", loss="relativistic").loss("penalty", batch(), at())
    assert two.stats["penalty"] > one.stats["penalty"]


def test_unconditional_ignores_the_label() -> None:
    model = tiny.sampler("dcgan", conditional=False)
    z = torch.randn(2, 8)
    a, b = (model.decode(z, model.condition(torch.eye(3)[[k, k]])) for k in (0, 1))
    assert torch.equal(a, b) and tiny.family("dcgan", conditional=False).discriminator.label is None


def test_settling_gathers_statistics_of_the_averaged_weights() -> None:
    model = tiny.sampler("dcgan")
    data = tiny.images().part("train")
    model.settle(data, torch.Generator().manual_seed(0))
    first = [m.bn.running_mean.clone() for m in model.modules() if isinstance(m, ConditionalBatchNorm)]
    model.settle(data, torch.Generator().manual_seed(0))
    again = [m.bn.running_mean for m in model.modules() if isinstance(m, ConditionalBatchNorm)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), "a function of weights and seed"
    assert all(m.abs().sum() > 0 for m in first) and not model.training
    # By the labels that training drew, where a policy draws others than the data have.
    model.settle(data, torch.Generator().manual_seed(0), torch.tensor([0.0, 0.0, 1.0]))
    other = [m.bn.running_mean for m in model.modules() if isinstance(m, ConditionalBatchNorm)]
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_spectral_norm_bounds_every_layer() -> None:
    model = tiny.family("dcgan", norm="spectral").train()
    for _ in range(60):  # power iterations
        model.discriminator(batch().images, torch.eye(3)[[0, 1, 2, 0]])
    model.eval()
    for m in model.discriminator.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            top = torch.linalg.svdvals(m.weight.flatten(1))[0].item()
            assert top == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [24, 4, 512])
def test_sizes_it_cannot_make_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}x{size}; DCGAN needs square"):
        tiny.family("dcgan", shape=tiny.spec(size))


def test_saturation_is_seen_through_a_shift_of_all_logits() -> None:
    """The relativistic loss does not fix D's zero, so the warning must not depend on it."""
    model = tiny.family("dcgan", loss="relativistic")
    before = model.loss("D", batch(), at()).stats["sign_real"]
    model.discriminator.head.bias.data += 100
    assert torch.equal(model.loss("D", batch(), at()).stats["sign_real"], before)


def test_every_augmentation_can_be_switched_on() -> None:
    plain = tiny.family("dcgan", translate=0.0).loss("D", batch(), at()).total
    for switch in ("translate", "cutout", "colour"):
        changed = tiny.family("dcgan", **{"translate": 0.0, switch: 0.4}).loss("D", batch(), at()).total
        assert torch.isfinite(changed) and not torch.equal(changed, plain), switch
