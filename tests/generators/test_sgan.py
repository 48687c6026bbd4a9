"""SGAN: the K + 1 softmax, its losses by hand, the labelled images, and selection by the classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor, nn

from kartina.data.subset import stratified
from kartina.errors import ConfigError
from kartina.generators.base import At, Batch, Row, generate, noise, rows_for, to_uint8
from kartina.generators.sgan import SGAN, SGANConfig, information_loss, labelled_loss, log_p
from kartina.models.model import load, save
from kartina.training import checkpoint
from kartina.training.loop import train
from tests import tiny
from tests.engine import CARD, PROVENANCE

REAL = [[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]]  # logits of two real images, labels 0 and 2
FAKE = [[0.3, -0.2, 0.1], [-1.0, 0.4, 0.0]]  # of two generated ones


def at(images: int = 0, seed: int = 0) -> At:
    return At(0, images, 10_000, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 4) -> Batch:
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


# -- the K + 1 softmax -------------------------------------------------------------------------------------------------


def test_the_k_plus_1_identity() -> None:
    """K logits beside a fixed 0 say all that an explicit softmax over K + 1 free logits says."""
    free = np.random.default_rng(0).normal(size=(7, 5)) * 4  # K = 4, the last is "generated"
    explicit = log_softmax(free, axis=1)
    l_ = torch.from_numpy(free[:, :4] - free[:, 4:])
    z = l_.logsumexp(1)
    np.testing.assert_allclose(log_p(l_), explicit[:, :4], rtol=1e-12)
    np.testing.assert_allclose(-nn.functional.softplus(z), explicit[:, 4], rtol=1e-12)
    np.testing.assert_allclose(-nn.functional.softplus(-z), np.log1p(-np.exp(explicit[:, 4])), rtol=1e-9)
    given_real = explicit[:, :4] - logsumexp(explicit[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(l_.log_softmax(1), given_real, rtol=1e-12)


class Fixed(nn.Module):
    """A discriminator whose logits are the first three pixels."""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]

    def classes(self, f: Tensor) -> Tensor:
        return f

    together = classes


class Drawn(nn.Module):
    """A generator of images with the given logits."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return pictures(FAKE)


def pictures(logits: Sequence[Sequence[float]]) -> Tensor:
    x = torch.zeros(len(logits), 1, 16, 16)
    x.view(len(logits), -1)[:, :3] = torch.tensor(logits)
    return x


def fixed(**config: object) -> SGAN:
    model = tiny.family("sgan", **{"labels_used": 0, **config})
    model.discriminator, model.generator = Fixed(), Drawn()
    return model


def softmax(logits: Sequence[float]) -> list[float]:
    total = sum(math.exp(v) for v in logits)
    return [math.exp(v) / total for v in logits]


def test_losses_by_hand() -> None:
    real = Batch(pictures(REAL), torch.tensor([0, 2]), torch.arange(2))
    labelled = -(math.log(softmax(REAL[0])[0]) + math.log(softmax(REAL[1])[2])) / 2
    unlabelled = -sum(math.log(1 - softmax([*row, 0.0])[3]) for row in REAL) / 2
    generated = -sum(math.log(softmax([*row, 0.0])[3]) for row in FAKE) / 2
    plain = fixed(information=0.0, unlabelled=0.7).loss("D", real, at()).total.item()
    assert plain == pytest.approx(labelled + 0.7 * (unlabelled + generated), rel=1e-5)

    p = [softmax(row) for row in REAL]
    sure = -sum(v * math.log(v) for row in p for v in row) / 2
    mean = [(a + b) / 2 for a, b in zip(*p, strict=True)]
    prior = [0.5, 0.3, 0.2]
    balance = sum(m * math.log(m / q) for m, q in zip(mean, prior, strict=True))
    assert information_loss(torch.tensor(REAL), torch.tensor(prior)).item() == pytest.approx(sure + balance, rel=1e-5)
    then = replace(at(images=1000), class_weights=torch.tensor(prior))  # half of the ramp
    with_it = fixed(information=2.0, unlabelled=0.7).loss("D", real, then).total.item()
    assert with_it == pytest.approx(plain + 2.0 * 0.5 * (sure + balance), rel=1e-5)


def test_the_generators_own_losses_by_hand() -> None:
    real = Batch(pictures(REAL), torch.tensor([0, 2]), torch.arange(2))
    model = fixed()
    asked = model.label(real, at()).argmax(1).tolist()
    expected = -sum(math.log(softmax([*row, 0.0])[k]) for row, k in zip(FAKE, asked, strict=True)) / 2
    assert model.loss("G", real, at()).total.item() == pytest.approx(expected, rel=1e-5)

    gap = [(r0 + r1) / 2 - (f0 + f1) / 2 for r0, r1, f0, f1 in zip(*REAL, *FAKE, strict=True)]
    matched = fixed(conditional=False).loss("G", real, at()).total.item()
    assert matched == pytest.approx(sum(g * g for g in gap), rel=1e-5)


def test_rows_without_a_label_do_not_count() -> None:
    logits, labels = torch.tensor(REAL), torch.tensor([-1, 2])
    assert labelled_loss(logits, labels).item() == pytest.approx(-math.log(softmax(REAL[1])[2]), rel=1e-5)
    assert labelled_loss(logits, torch.tensor([-1, -1])).item() == 0


def test_the_batch_moves_z_alone() -> None:
    """What neighbours add is the same for every class, and nothing outside training."""
    d = tiny.family("sgan").discriminator.eval()
    x = batch(6).images
    alone = torch.cat([d.logits(row[None]) for row in x])
    assert torch.allclose(d.logits(x), alone, atol=1e-6)
    moved = d.together(d.features(x)) - alone
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6)
    twins = d.together(d.features(x[:1].expand(6, -1, -1, -1))) - alone[:1]
    assert not torch.allclose(twins[0], moved[0], atol=1e-4)


# -- the labelled images -----------------------------------------------------------------------------------------------


def test_the_labelled_images_are_chosen_by_the_seed() -> None:
    data = tiny.images().part("train")
    chosen = []
    for seed in (3, 3, 4):
        model = tiny.family("sgan", labels_used=9)
        model.setup(data, torch.Generator().manual_seed(seed))
        ids = model.labelled_ids.numpy()
        assert np.array_equal(ids, stratified(data.labels, 9, seed))
        assert np.bincount(model.labelled_labels.numpy()).tolist() == [3, 3, 3]
        assert np.array_equal(model.labelled_images.numpy(), data.images[ids])
        assert np.array_equal(model.labelled_labels.numpy(), data.labels[ids])
        chosen.append(ids.tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_labels_of_the_stream_are_not_looked_at() -> None:
    data = tiny.images().part("train")
    other = replace(batch(), labels=torch.tensor([2, 2, 0, 1]))

    def losses(labels_used: int, real: Batch) -> list[float]:
        model = tiny.family("sgan", labels_used=labels_used, dropout=0.0)
        model.setup(data, torch.Generator().manual_seed(0))
        return [model.loss(phase.name, real, at()).total.item() for phase in model.phases()]

    assert losses(6, batch()) == losses(6, other)
    assert losses(0, batch())[0] != losses(0, other)[0]


def test_every_update_draws_labelled_images() -> None:
    data = tiny.images().part("train")
    model = tiny.family("sgan", labels_used=6, labelled=2.0)
    model.setup(data, torch.Generator().manual_seed(0))
    images, labels = model.labelled_batch(batch(8), at())
    known = {(x.numpy().tobytes(), int(k)) for x, k in zip(model.labelled_images, model.labelled_labels, strict=True)}
    drawn = [(x.numpy().tobytes(), int(k)) for x, k in zip(to_uint8(images), labels, strict=True)]
    assert len(drawn) == 16 and set(drawn) <= known and len(set(drawn)) > 3


def test_the_choice_is_resumed(home: Path) -> None:
    run = tiny.run("sgan", home, n=32, seed=11)
    calls = iter([False, True])
    assert train(run, stop=lambda: next(calls)) == "paused"
    assert train(run) == "finished"
    data = run.data().part("train")
    tensors = checkpoint.read(run.checkpoint()).tensors
    ids = stratified(np.asarray(data.labels), 6, 11)
    assert tensors["model"]["labelled_ids"].tolist() == ids.tolist()
    assert np.array_equal(tensors["model"]["labelled_images"].numpy(), data.images[ids])
    assert not any("labelled" in key for key in tensors["ema"]), "a model does not carry images of its data"


def test_labels_that_cannot_be_used_are_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match=r"Found 65 labels asked for; expected 3"):
        tiny.family("sgan", labels_used=65).setup(tiny.images().part("train"), rng)
    plain = tiny.images(shape=tiny.spec(classes=0)).part("train")
    with pytest.raises(ConfigError, match=r"data without classes.*labels_used=0"):
        tiny.family("sgan", shape=plain.spec).setup(plain, rng)


# -- the classifier ----------------------------------------------------------------------------------------------------


def test_classify_and_the_package_that_keeps_it(tmp_path: Path) -> None:
    model = tiny.family("sgan", dropout=0.5).train()
    x = batch().images
    first = model.classify(x)
    assert first.shape == (4, 3) and torch.equal(first, model.classify(x)) and model.discriminator.training
    ref = save(model.sampler(), "sgan", PROVENANCE, CARD, root=tmp_path)
    assert torch.equal(load(ref).family.classify(x), first)


# -- selection ---------------------------------------------------------------------------------------------------------


def by_hand(model: SGAN, row: Row) -> Tensor:
    """The row's candidates from its own seed, one by one, and the one with the largest log p_y."""
    z = torch.stack([noise(row.seed, "z", i, (model.config.z,)) for i in range(row.controls.candidates)])
    y = model.condition(row.weights[None])
    images = torch.cat([model.decode(one[None] * row.controls.spread, y) for one in z])
    scores = log_softmax(np.pad(model.discriminator.logits(images).double().numpy(), ((0, 0), (0, 1))), axis=1)
    best = int((scores[:, :3] * row.weights.numpy()).sum(1).argmax())
    return to_uint8(images[best : best + 1])[0]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_row_keeps_the_best_of_its_own_candidates(conditional: bool) -> None:
    model = tiny.sampler("sgan", conditional=conditional)
    controls = model.capabilities()["generate"].controls
    rows = [
        Row(torch.eye(3)[i % 3], seed, controls(candidates=n, spread=s))
        for i, (seed, n, s) in enumerate([(5, 1, 1.0), (6, 9, 1.0), (2**62, 4, 0.5), (5, 12, 1.0), (7, 2, 2.0)])
    ]
    together = generate(model, rows).images
    with torch.inference_mode():
        for image, row in zip(together, rows, strict=True):
            assert (image.int() - by_hand(model, row).int()).abs().max() <= 1


def test_a_generator_without_classes_draws_a_class_by_selection() -> None:
    model = tiny.sampler("sgan", conditional=False)
    assert model.capabilities()["generate"].controls().candidates == 16
    assert tiny.sampler("sgan").capabilities()["generate"].controls().candidates == 1
    assert "interpolate" not in model.capabilities(), "of no class"

    def share(n: int) -> float:
        controls = model.capabilities()["generate"].controls(candidates=n)
        rows = rows_for(model, [0, 1, 2], 60, seed=0, controls=controls)
        images = generate(model, rows).images.float() / 127.5 - 1
        p = model.classify(images).softmax(1)
        return float(p[torch.arange(60), torch.arange(60) % 3].mean())

    assert share(1) == pytest.approx(1 / 3, abs=0.05)
    assert share(32) > share(1) + 0.02


def test_the_loss_is_the_softmaxs() -> None:
    with pytest.raises(ValueError, match="softplus"):
        SGANConfig(loss="hinge")
