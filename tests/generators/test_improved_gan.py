"""Improved GAN: each of the five techniques by hand on small tensors, alone, and all together."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kartina import registry
from kartina.errors import ConfigError
from kartina.generators.base import At, Batch, generate, rows_for
from kartina.generators.improved_gan import (
    ImprovedGAN,
    MinibatchDiscrimination,
    MinibatchDiscriminator,
    VirtualBatchNorm,
    smoothed_d_loss,
)
from kartina.nets.losses import feature_matching
from tests import tiny

TECHNIQUES = (
    "feature_matching",
    "minibatch_discrimination",
    "historical_averaging",
    "label_smoothing",
    "virtual_batch_norm",
)


def model(*on: str, **config: object) -> ImprovedGAN:
    """A tiny Improved GAN with the techniques in `on`, and no augmentation unless asked for."""
    switches = {name: name in on for name in TECHNIQUES}
    return tiny.family("improved_gan", **{**switches, "translate": 0.0, **config}).train()


def at(seed: int = 0) -> At:
    return At(0, 0, 100, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 6) -> Batch:
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def eye(n: int) -> Tensor:
    return torch.eye(3)[torch.arange(n) % 3]


# -- feature matching ------------------------------------------------------------------------------------------------


def test_feature_matching_by_hand() -> None:
    """Means (2, 1) and (0, 4): 4 + 9."""
    real, fake = torch.tensor([[1.0, 0], [3, 2]]), torch.tensor([[0.0, 3], [0, 5]])
    assert feature_matching(real, fake).item() == 13


def test_feature_matching_within_classes_by_hand() -> None:
    """Pairs of one class: (0, 1) with d = (1, 0), (2, 1): 2; and (2, 3) with d = (-1, 2), (3, 1): -1. Mean 1/2."""
    d = torch.tensor([[1.0, 0], [2, 1], [-1, 2], [3, 1]])
    y = torch.eye(2)[[0, 0, 1, 1]]
    assert feature_matching(d + 7, torch.full_like(d, 7.0), y).item() == pytest.approx(0.5)
    alone = feature_matching(d[:3], torch.zeros(3, 2), torch.eye(3))  # one image a class: all pairs, 2, -1 and 0
    assert alone.item() == pytest.approx(1 / 3)
    assert feature_matching(d[:1], torch.zeros(1, 2), torch.eye(1)).item() == 0, "of one image nothing can be said"


def test_feature_matching_within_classes_has_no_bias() -> None:
    """Batches of 3 from two equal distributions: the plain square of the means' difference averages 2 Var / 3."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(800, 3, 2, generator=rng), torch.randn(800, 3, 2, generator=rng)
    within = torch.stack([feature_matching(r, f, torch.ones(3, 1)) for r, f in zip(real, fake, strict=True)])
    plain = torch.stack([feature_matching(r, f) for r, f in zip(real, fake, strict=True)])
    assert within.mean().item() == pytest.approx(0, abs=0.25)
    assert plain.mean().item() == pytest.approx(2 * 2 / 3, abs=0.25)
    shifted = torch.stack([feature_matching(r, f + 1, torch.ones(3, 1)) for r, f in zip(real, fake, strict=True)])
    assert shifted.mean().item() == pytest.approx(2, abs=0.35), "|(1, 1)|^2"


def test_feature_matching_replaces_the_generators_loss() -> None:
    family = model("feature_matching", conditional=False)
    found = family.loss("G", batch(), at()).total.item()
    fake = family.fake(family.label(batch(), at()), at())
    f = family.discriminator.features
    real, made = (f(x).detach().numpy() for x in (batch().images, fake))
    assert found == pytest.approx(((real.mean(axis=0) - made.mean(axis=0)) ** 2).sum(), rel=1e-4)
    family.discriminator.head.weight.data.mul_(3)  # D's verdict does not matter to G any more
    assert family.loss("G", batch(), at()).total.item() == pytest.approx(found, rel=1e-6)


# -- minibatch discrimination ----------------------------------------------------------------------------------------


def test_minibatch_discrimination_by_hand() -> None:
    """A = 2 features, B = 2 kernels, C = 2 dims, 3 rows: o in NumPy, with loops, itself excluded."""
    layer = MinibatchDiscrimination(2, kernels=2, dims=2)
    layer.T.data.copy_(torch.tensor([[[1.0, 0], [0.5, -1]], [[0, 2], [1, 1]]]))
    f = np.array([[1.0, 0], [0.5, 0.25], [-1, 2]])
    m = np.einsum("na,abc->nbc", f, layer.T.detach().numpy())
    expected = np.zeros((3, 2))
    for i, b in itertools.product(range(3), range(2)):
        for j in range(3):
            if j != i:
                expected[i, b] += math.exp(-np.abs(m[i, b] - m[j, b]).sum())
    assert expected[0, 0] == pytest.approx(math.exp(-0.5 - 0.5) + math.exp(-2 - 4)), "one of them in the head"
    assert layer(torch.tensor(f).float()).detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_minibatch_discrimination_of_one_and_of_copies() -> None:
    layer = MinibatchDiscrimination(5, kernels=3, dims=2)
    assert layer(torch.randn(1, 5)).tolist() == [[0, 0, 0]], "alone"
    assert layer(torch.ones(4, 5)).tolist() == [[3, 3, 3]] * 4, "a collapsed batch: 1 for each of the others"


def test_minibatch_discrimination_is_concatenated_to_the_features() -> None:
    """100 kernels of 5 dims by default; D judges f(x) and o(x) together."""
    assert (ImprovedGAN.Config().kernels, ImprovedGAN.Config().kernel_dims) == (100, 5)
    d = model("minibatch_discrimination").discriminator
    x, y = batch().images, eye(6)
    f = d.features(x)
    assert d.minibatch.T.shape == (f.shape[1], 4, 5) and d.head.in_features == f.shape[1] + 4
    o = d.minibatch(f) / 5
    expected = torch.cat([f, o], dim=1) @ d.head.weight[0] + d.head.bias + (d.label(y) * f).sum(dim=1)
    assert d(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert not torch.allclose(d(x, y)[:3], d(x[:3], y[:3])), "a row's logit depends on its batch"
    assert not any("std" in k for k in d.state_dict()), "MinibatchStd is not there as well"


def test_minibatch_discrimination_keeps_real_and_generated_apart() -> None:
    """D's step sees what it would see of the real batch alone."""
    family = model("minibatch_discrimination")
    y = family.one_hot(batch().labels)
    alone = family.discriminator(batch().images, y).mean().item()
    assert family.loss("D", batch(), at()).stats["real"].item() == pytest.approx(alone, rel=1e-5)


# -- historical averaging --------------------------------------------------------------------------------------------


def test_historical_averaging_by_hand() -> None:
    """theta = a, then b, then c everywhere: the mean of the first two is kept, and c pays n (c - (a + b) / 2)^2."""
    family = model("historical_averaging", history_weight=0.5)
    n = sum(p.numel() for p in family.generator.parameters())

    def everywhere(value: float) -> None:
        for p in family.generator.parameters():
            p.data.fill_(value)

    assert family.history_square("G").item() == 0, "no past yet"
    for value in (0.1, 0.4):
        everywhere(value)
        family.after("G", {}, at())
    assert family.history_G.tolist() == pytest.approx([0.25] * n)
    everywhere(0.35)
    square = family.history_square("G")
    assert square.item() == pytest.approx(n * 0.1**2, rel=1e-4)
    square.backward()
    assert all(torch.allclose(p.grad, torch.tensor(0.2), atol=1e-5) for p in family.generator.parameters()), "2 (c - m)"
    assert family.history_updates_D == 0 and family.history_D.abs().sum() == 0, "the other player's is its own"

    # In the loss it has its weight.
    found = family.loss("G", batch(), at())
    family.history_updates_G.zero_()
    without = family.loss("G", batch(), at())
    assert (found.total - without.total).item() == pytest.approx(0.5 * n * 0.1**2, rel=1e-3)
    assert found.stats["away_G"].item() == pytest.approx(n * 0.1**2, rel=1e-4)


def test_historical_averaging_is_in_both_players_and_resumes() -> None:
    family = model("historical_averaging")
    for phase in ("D", "G"):
        family.after(phase, {"sign_real": torch.tensor(0.0)}, at())
        assert f"away_{phase}" in family.loss(phase, batch(), at()).stats
    kept = {k: v for k, v in family.state_dict().items() if k.startswith("history")}
    assert sorted(kept) == ["history_D", "history_G", "history_updates_D", "history_updates_G"]
    again = model("historical_averaging", reference=6)
    again.load_state_dict(family.state_dict())
    for p, q in zip(family.parameters(), again.parameters(), strict=True):
        p.data.add_(0.1)
        q.data.add_(0.1)
    for each in (family, again):
        each.after("D", {}, at())
    assert torch.equal(family.history_D, again.history_D) and family.history_updates_D == 2
    assert not any(k.startswith("history") for k in family.sampler().state_dict()), "sampling has no use for it"


# -- one-sided label smoothing ---------------------------------------------------------------------------------------


def test_label_smoothing_by_hand() -> None:
    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    real, fake = [2.0, -0.5], [0.3, -1.5]
    expected = sum(-0.9 * math.log(sigmoid(r)) - 0.1 * math.log(1 - sigmoid(r)) for r in real) / 2
    expected += sum(-math.log(1 - sigmoid(f)) for f in fake) / 2
    assert smoothed_d_loss(torch.tensor(real), torch.tensor(fake), 0.9).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_is_one_sided() -> None:
    """Real logits are drawn to log(alpha / (1 - alpha)), generated ones to minus infinity."""
    real = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    fake = torch.tensor([-20.0], requires_grad=True)
    smoothed_d_loss(real, fake, 0.9).backward()
    assert real.grad.item() == pytest.approx(0, abs=1e-7) and fake.grad.item() > 0


def test_label_smoothing_changes_the_discriminators_loss_alone() -> None:
    on, off = model("label_smoothing"), model()
    assert on.config.alpha == 0.9
    d, g = ([m.loss(phase, batch(), at()) for m in (on, off)] for phase in ("D", "G"))
    mean = off.discriminator(batch().images, eye(6)).mean().item()  # softplus(l) - softplus(-l) = l
    assert (d[0].total - d[1].total).item() == pytest.approx(0.1 * mean, abs=1e-6)
    assert torch.equal(g[0].total, g[1].total)
    with pytest.raises(ConfigError, match="loss"):
        model("label_smoothing", loss="hinge")


# -- virtual batch normalisation -------------------------------------------------------------------------------------


def test_virtual_batch_norm_by_hand() -> None:
    """Two reference rows of 1x2 pixels, one channel, 0, 2 and 4, 6, have mean 3 and mean square 14; a row 9, 3 has 6
    and 45. Blended by 2/3 and 1/3: mean 4, mean square 73/3, variance 25/3."""
    layer = VirtualBatchNorm(1, reference=2).train()
    x = torch.tensor([[0.0, 2], [4, 6], [9, 3]]).reshape(3, 1, 1, 2)
    out = layer(x).reshape(3, 2).tolist()
    own = math.sqrt(14 - 9 + 1e-5)
    assert out[0] == pytest.approx([-3 / own, -1 / own]) and out[1] == pytest.approx([1 / own, 3 / own])
    blended = math.sqrt(25 / 3 + 1e-5)
    assert out[2] == pytest.approx([5 / blended, -1 / blended])
    assert layer.mean.item() == 3 and layer.square.item() == 14, "kept"
    assert layer.eval()(x[2:]).flatten().tolist() == pytest.approx(out[2]), "and used where no reference goes along"


def test_virtual_batch_norm_is_batch_norm_over_the_reference_and_one_more() -> None:
    """The blend with weight 1/(n+1) is what torch's BatchNorm computes on n + 1 images, for each image on its own."""
    x = torch.randn(5 + 4, 3, 6, 6) * 2 + 1
    out = VirtualBatchNorm(3, reference=5).train()(x)
    for i in range(5, 9):
        expected = nn.BatchNorm2d(3, affine=False).train()(torch.cat([x[:5], x[i : i + 1]]))[-1]
        assert torch.allclose(out[i], expected, atol=1e-4)


def test_virtual_batch_norm_neighbours_change_nothing() -> None:
    family = model("virtual_batch_norm")
    z, y = torch.randn(4, 8), eye(4)
    for mode in (True, False):
        family.train(mode)
        together = family.generator(z, y)
        alone = torch.cat([family.generator(z[i : i + 1], y[i : i + 1]) for i in range(4)])
        assert torch.allclose(together, alone, atol=1e-5), f"training={mode}"


def test_virtual_batch_norm_settles_on_the_present_weights() -> None:
    family = model("virtual_batch_norm")
    z, y = torch.randn(4, 8), eye(4)
    family.generator(z, y)
    with torch.no_grad():
        for p in family.generator.parameters():
            p.add_(torch.randn_like(p) * 0.05)  # as the moving average differs from what statistics were kept of
    stale = family.eval().generator(z, y)
    family.settle(tiny.images().part("train"), torch.Generator())
    assert not family.generator.training
    settled = family.generator(z, y)
    assert torch.allclose(settled, family.train().generator(z, y), atol=1e-5)
    assert not torch.allclose(settled, stale, atol=1e-3)


def test_virtual_batch_norm_reference_is_fixed_and_has_the_datas_labels() -> None:
    family = model("virtual_batch_norm", reference=600)
    data = tiny.images(90).part("train")
    keep = np.flatnonzero(np.asarray(data.labels) != 1)
    few = type(data)(data.name, data.hash, data.spec, data.images[keep], data.labels[keep], {"train": (0, len(keep))})
    z = family.generator.reference_z.clone()
    family.setup(few.part("train"), torch.Generator().manual_seed(0))
    share = family.generator.reference_y.mean(dim=0).tolist()
    assert share[1] == 0 and share[0] == pytest.approx(0.5, abs=0.08)
    assert torch.equal(family.generator.reference_z, z)
    y = family.generator.reference_y.clone()
    for phase in family.phases():
        family.loss(phase.name, batch(), at())
    assert torch.equal(family.generator.reference_z, z) and torch.equal(family.generator.reference_y, y)


def test_virtual_batch_norm_reference_travels_with_the_generator() -> None:
    """What a package holds is enough: built on the meta device and filled, it makes the same images."""
    family = model("virtual_batch_norm")
    family.setup(tiny.images().part("train"), torch.Generator().manual_seed(3))
    family.settle(None, torch.Generator())
    made = family.sampler()
    with torch.device("meta"):
        empty = registry.family("improved_gan")(made.config, made.spec).sampler()
    empty.load_state_dict(made.state_dict(), assign=True)
    assert not [k for k, v in empty.state_dict().items() if v.is_meta]
    images = [generate(f, rows_for(f, [0, 1, 2], 6, 0)).images for f in (made, empty)]
    assert torch.equal(*images)


# -- together --------------------------------------------------------------------------------------------------------


def test_all_off_is_dcgan() -> None:
    """The same networks, and on the same weights the same losses."""
    plain = tiny.family("dcgan", minibatch_std=False, translate=0.0).train()
    off = model(gamma=plain.config.gamma)
    off.load_state_dict(plain.state_dict())
    for phase in ("D", "penalty", "G"):
        assert torch.equal(off.loss(phase, batch(), at()).total, plain.loss(phase, batch(), at()).total), phase


@pytest.mark.parametrize("on", [c for n in range(6) for c in itertools.combinations(TECHNIQUES, n)])
def test_every_combination_trains(on: tuple[str, ...]) -> None:
    family = model(*on)
    assert isinstance(family.discriminator, MinibatchDiscriminator) == ("minibatch_discrimination" in on)
    assert hasattr(family, "history_G") == ("historical_averaging" in on)
    assert hasattr(family.generator, "reference_z") == ("virtual_batch_norm" in on)
    for phase in family.phases():
        family.zero_grad()
        loss = family.loss(phase.name, batch(), at())
        loss.total.backward()
        family.after(phase.name, loss.stats, at())
        grads = [p.grad for p in phase.params if p.grad is not None]
        assert grads and all(torch.isfinite(g).all() for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)


def test_all_are_on_by_default() -> None:
    config = ImprovedGAN.Config()
    assert all(getattr(config, name) for name in TECHNIQUES)
