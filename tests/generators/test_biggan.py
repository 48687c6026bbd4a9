"""BigGAN: each detail of the paper against hand-computed or independent values."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from kartina import registry
from kartina.errors import ConfigError
from kartina.generators import biggan
from kartina.generators.base import At, Batch, Loss, generate, noise, rows_for
from kartina.generators.biggan import LEVELS, Attention, BigGAN, ConditionalNorm, mixture, orthogonal_penalty
from kartina.nets.norm import StandingBatchNorm
from kartina.training.loop import Trainer
from tests import tiny


def at(seed: int = 0) -> At:
    return At(0, 0, 100, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 4) -> Batch:
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def eye(*labels: int) -> torch.Tensor:
    return torch.eye(3)[list(labels)]


def normalised(net: nn.Module) -> dict[str, nn.Module]:
    return {k: m for k, m in net.named_modules() if hasattr(m, "parametrizations")}


def raw(layer: nn.Module) -> torch.Tensor:
    return layer.parametrizations.weight.original.detach()


# -- nets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3)])
def test_depth_follows_from_the_size(size: int, channels: int) -> None:
    with torch.device("meta"):
        model = BigGAN(BigGAN.Config(), tiny.spec(size, channels, 10))
        image = model.generator(torch.zeros(2, 80), torch.zeros(2, 10))
        assert image.shape == (2, channels, size, size)
        assert model.discriminator(image, torch.zeros(2, 10)).shape == (2,)
    depth = int(math.log2(size)) - 2
    assert len(model.generator.blocks) == depth and len(model.discriminator.blocks) == depth + 1
    assert [b.down for b in model.discriminator.blocks] == [True] * depth + [False]


def test_both_players_attend_at_half_the_size() -> None:
    model, seen = tiny.family("biggan"), []
    for net in (model.generator, model.discriminator):
        net.attention.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[2:])))
    model.discriminator(model.generator(torch.randn(2, 8), eye(0, 1)), eye(0, 1))
    assert seen == [(8, 8), (8, 8)]
    assert tiny.family("biggan", attention=0).generator.attention is None


def test_ds_layers_are_in_the_order_of_the_image() -> None:
    model = tiny.family("biggan", freeze_d=1)
    d, layers = model.discriminator, model.d_layers()
    at = d.attended + 1
    assert layers[:at] == list(d.blocks[:at]) and layers[at] is d.attention and d.head in layers[at + 1 :]
    assert len(layers) == len({id(layer) for layer in layers})


def test_shared_embedding_and_a_chunk_of_z_condition_every_block() -> None:
    model = tiny.family("biggan", z=8, embed=4)
    g = model.generator
    assert g.chunks == [3, 3, 2], "one for the 4x4 map, one for each block"
    assert g.project.in_features == 3, "the first chunk alone makes the map; no label there"
    for block, chunk in zip(g.blocks, g.chunks[1:], strict=True):
        for norm in (block.norm1, block.norm2):
            assert norm.gain.in_features == norm.bias.in_features == 4 + chunk
            assert norm.gain.bias is None and norm.bias.bias is None
    seen: list[list[torch.Tensor]] = []
    for block in g.blocks:
        block.norm1.register_forward_hook(lambda m, args, out: seen[-1].append(args[1].detach()))
    z = torch.randn(2, 8)
    for y in (eye(0, 1), eye(0, 2)):
        seen.append([])
        g(z, y)
    for i, part in enumerate(((3, 6), (6, 8))):
        assert torch.equal(seen[0][i][:, 4:], z[:, slice(*part)])
        assert torch.equal(seen[0][i][:, :4], eye(0, 1) @ g.shared.weight.T), "the same embedding in every block"
        assert torch.equal(seen[0][i][0], seen[1][i][0]) and not torch.equal(seen[0][i][1], seen[1][i][1])


def test_gain_is_one_plus_a_linear_map_of_the_condition() -> None:
    norm, x, c = ConditionalNorm(3, 5), torch.randn(6, 3, 4, 4), torch.randn(6, 5)
    plain = F.batch_norm(x, None, None, training=True)
    gain = 1 + torch.einsum("ne,ce->nc", c, norm.gain.weight)
    bias = torch.einsum("ne,ce->nc", c, norm.bias.weight)
    expected = plain * gain[..., None, None] + bias[..., None, None]
    assert torch.allclose(norm(x, c, None), expected, atol=1e-5)


def test_spectral_norm_of_every_layer_but_gs_embedding_against_svd() -> None:
    model = tiny.family("biggan").train()
    linear = {k for k, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(normalised(model)) == linear - {"generator.shared"} and "discriminator.label" in linear
    for m in normalised(model).values():  # as training would leave them
        m.parametrizations.weight.original.data += torch.randn_like(raw(m)) * 0.3
    with torch.no_grad():
        for _ in range(150):
            model.discriminator(model.generator(torch.randn(4, 8), eye(0, 1, 2, 0)), eye(0, 1, 2, 0))
    model.eval()
    for k, m in normalised(model).items():
        sigma = torch.linalg.svdvals(raw(m).flatten(1))[0]
        assert torch.allclose(m.weight.flatten(1), raw(m).flatten(1) / sigma, rtol=0.02, atol=1e-4), k


def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    net, x = Attention(16), torch.randn(2, 16, 4, 4)
    assert torch.equal(net(x), x) and net.gamma.item() == 0, "it begins as the identity"
    assert net.theta.out_channels == net.phi.out_channels == 2 and net.g.out_channels == 8
    net.gamma.data.fill_(0.7)
    theta, phi, g = (np.einsum("oc,nchw->nohw", m.weight.detach()[:, :, 0, 0], x) for m in (net.theta, net.phi, net.g))
    phi, g = (a.reshape(2, -1, 2, 2, 2, 2).max(axis=(3, 5)).reshape(2, -1, 4) for a in (phi, g))
    expected = x.numpy().copy()
    for n in range(2):
        for i in range(4):
            for j in range(4):
                logits = theta[n, :, i, j] @ phi[n]
                share = np.exp(logits) / np.exp(logits).sum()
                expected[n, :, i, j] += 0.7 * net.out.weight.detach()[:, :, 0, 0].numpy() @ (g[n] @ share)
    assert net(x).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_discriminator_sums_over_positions_and_projects() -> None:
    model = tiny.family("biggan").eval()
    d, seen = model.discriminator, []
    d.blocks[-1].register_forward_hook(lambda m, args, out: seen.append(out.detach()))
    y = torch.tensor([[1.0, 0, 0], [0, 0.25, 0.75], [0, 1, 0], [0.2, 0.3, 0.5]])
    logit = d(batch().images, y).detach()
    h = seen[0].clamp(min=0).numpy().sum(axis=(2, 3))
    expected = h @ d.head.weight.detach().numpy()[0] + d.head.bias.item()
    expected += np.einsum("nk,ck,nc->n", y.numpy(), d.label.weight.detach().numpy(), h)
    assert logit.numpy() == pytest.approx(expected, rel=1e-4)
    alone = tiny.family("biggan", conditional=False)
    assert alone.discriminator.label is None and alone.discriminator(batch().images, y).shape == (4,)


def test_initialisation_is_orthogonal() -> None:
    model = tiny.family("biggan")
    for k, m in model.named_modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            w = (m.weight if k == "generator.shared" else raw(m)).detach().flatten(1)
            product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
            assert torch.allclose(product, torch.eye(len(product)), atol=1e-5), k


@pytest.mark.parametrize("size", [8, 24, 512])
def test_sizes_it_cannot_make_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}x{size}; BigGAN needs square"):
        tiny.family("biggan", shape=tiny.spec(size))
    with pytest.raises(ConfigError, match=r"Found z=2; .* splits it in 3"):
        tiny.family("biggan", z=2)


# -- training ----------------------------------------------------------------------------------------------------------


def test_hinge_loss_on_logits() -> None:
    model = tiny.family("biggan", d_steps=1)
    model.discriminator.head.bias.data += 0.4
    loss = model.loss("D", batch(), at())
    y = eye(0, 1, 2, 0)
    model = tiny.family("biggan", d_steps=1)  # the same weights, batch statistics and power iterations
    model.discriminator.head.bias.data += 0.4
    fake = model.generator(torch.randn(4, 8, generator=at().rng), y)
    real_logit, fake_logit = model.discriminator(batch().images, y), model.discriminator(fake, y)
    expected = np.maximum(0, 1 - real_logit.detach().numpy()).mean()
    expected += np.maximum(0, 1 + fake_logit.detach().numpy()).mean()
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_orthogonal_penalty_by_hand() -> None:
    wide = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])  # filters' product: 3
    assert orthogonal_penalty([wide]).item() == pytest.approx(2 * 3.0**2)
    tall = torch.tensor([[1.0], [2.0], [-1.0]])  # products 2, -1, -2
    assert orthogonal_penalty([tall]).item() == pytest.approx(2 * (4 + 1 + 4))
    conv = torch.randn(5, 3, 2, 2)
    gram = conv.flatten(1) @ conv.flatten(1).T
    off = (gram * (1 - torch.eye(5))).square().sum()
    assert orthogonal_penalty([wide, conv]).item() == pytest.approx(18 + off.item(), rel=1e-5)
    weight = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: orthogonal_penalty([w]), (weight,))


def test_orthogonal_regularisation_is_in_gs_loss_and_skips_shared() -> None:
    def total(ortho: float) -> Loss:
        model = tiny.family("biggan", ortho=ortho)
        for p in model.generator.parameters():
            p.data *= 2  # spectral norm undoes this for the image, but not for the penalty; shared is not normalised
        model.generator.shared.weight.data /= 2
        loss: Loss = model.loss("G", batch(), at())
        return loss

    with_it, without = total(1e-4), total(0.0)
    named = tiny.family("biggan").generator.named_parameters()
    weights = [2 * p.detach() for k, p in named if p.dim() > 1 and "shared" not in k]
    expected = 0.0
    for w in weights:
        gram = w.flatten(1) @ w.flatten(1).T
        expected += (gram - gram.diag().diag()).square().sum().item()
    assert expected > 1 and len(weights) == 2 + 2 * (3 + 4) + 4 + 1 - 1
    assert with_it.total.item() - without.total.item() == pytest.approx(1e-4 * expected, rel=1e-3)
    assert "ortho" not in without.stats


class Recorder(BigGAN):
    """Remembers which images each update saw."""

    seen: list[tuple[str, list[int]]]

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        self.seen = [*getattr(self, "seen", []), (phase, batch.ids.tolist())]
        return super().loss(phase, batch, at)


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.presets = {}
    registry.register("recorder")(Recorder)
    yield "recorder"
    registry.unregister("recorder")


def trainer(family: str = "biggan", steps: int = 0, **config: object) -> Trainer:
    data = tiny.images()
    found = tiny.run_config("biggan", data, 8 * 100)
    made = Trainer(found.model_copy(update={"family": family, "config": {**found.config, **config}}), data)
    for _ in range(steps):
        made.step()
    return made


def test_repeated_d_steps_on_fresh_images_k_repeats_consume_k_times_b_ids(recorder: str) -> None:
    made = trainer(recorder, steps=1, d_steps=3)
    seen = made.family.seen
    assert [phase for phase, _ in seen] == ["D", "D", "D", "G"]
    ids = [i for phase, found in seen if phase == "D" for i in found]
    assert len(ids) == len(set(ids)) == 3 * 8 == made.images
    assert made.position == 4 * 8, "G takes its own"


def test_switches_of_every_gan_work_with_spectral_norm() -> None:
    """R1 differentiates twice through the normalised weights."""
    model = tiny.family("biggan", gamma=1.0, penalty_every=1, augment="diffaugment", loss="relativistic")
    loss = model.loss("D", batch(), at())
    loss.total.backward()
    assert loss.stats["penalty"] > 0
    weight = model.discriminator.blocks[0].conv1.parametrizations.weight.original
    assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0


def test_adam_of_both_players() -> None:
    made = trainer(g_lr=0.25, beta1=0.0)
    assert made.peak["G"] == made.peak["D"] / 4
    assert made.optimisers["G"].param_groups[0]["betas"] == (0.0, 0.999)


def test_ema_that_drops_buffers_emas_bn_means_differ_from_their_initial_values() -> None:
    made = trainer(steps=2)
    norms = [m for m in made.ema.modules() if isinstance(m, StandingBatchNorm)]
    assert len(norms) == 5
    for m in norms:
        assert m.bn.running_mean.abs().min() > 0 and torch.equal(m.means, m.bn.running_mean.expand(len(LEVELS), -1))
    live = [m for m in made.family.modules() if isinstance(m, StandingBatchNorm)]
    assert all(torch.equal(a.means, b.means) for a, b in zip(norms, live, strict=True))


def test_the_emas_sigma_is_that_of_its_own_weights() -> None:
    made = trainer(steps=0)
    made.peak = {k: 0.02 for k in made.peak}
    for _ in range(6):
        made.step()
    settled = made.settled()
    live, moved = normalised(made.family), 0
    for k, m in normalised(settled).items():
        sigma = torch.linalg.svdvals(raw(m).flatten(1))[0].item()
        found = (raw(m).norm() / m.weight.norm()).item()
        assert found == pytest.approx(sigma, rel=0.02), k
        moved += abs((raw(live[k]).norm() / live[k].eval().weight.norm()).item() - sigma) > 0.02 * sigma
    assert moved > 3, "the trained weights' own sigmas are others"


def test_batch_norm_can_be_made_cross_replica() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny.family("biggan"))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) == 5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_truncation_redraws_what_is_beyond() -> None:
    z, first, second = biggan.truncated(7, 50, 1.0), noise(7, "z", 0, (50,)), noise(7, "z", 1, (50,))
    assert z.abs().max() <= 1
    inside = first.abs() <= 1
    assert 25 < inside.sum() < 45 and torch.equal(z[inside], first[inside])
    again = ~inside & (second.abs() <= 1)
    assert again.any() and torch.equal(z[again], second[again])
    assert torch.equal(z, biggan.truncated(7, 50, 1.0)) and not torch.equal(z, biggan.truncated(8, 50, 1.0))
    assert torch.equal(biggan.truncated(7, 50, 4.0), first)


@pytest.mark.parametrize("threshold", [0.25, 1.0, 4.0])
def test_truncated_latents_are_truncated_normal(threshold: float) -> None:
    law = stats.truncnorm(-threshold, threshold)
    for z in (
        biggan.truncated(1, 4000, threshold),
        biggan.truncated_normal(40, 100, threshold, torch.Generator().manual_seed(1)).flatten(),
    ):
        assert stats.kstest(z.numpy(), law.cdf).pvalue > 0.01


def test_levels_are_mixed_linearly() -> None:
    mix = mixture(torch.tensor([0.25, 0.5, 0.625, 1.75, 4.0, 9.0]))
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0, 0.25, 0.75, 0], [0, 0, 0, 0, 1]]
    assert mix.numpy() == pytest.approx(np.array([*expected, expected[-1]]), abs=1e-6)


def settled() -> BigGAN:
    torch.manual_seed(0)
    model: BigGAN = tiny.sampler("biggan", attention=0, z=24, width=16)
    model.settle(tiny.images().part("train"), torch.Generator().manual_seed(0))
    return model


def test_standing_statistics_are_those_of_each_truncation() -> None:
    """At every threshold, also between levels, what enters a BatchNorm has the statistics that are kept for it."""
    model = settled()
    norms = [m for m in model.modules() if isinstance(m, StandingBatchNorm)]
    seen: dict[int, torch.Tensor] = {}
    for i, m in enumerate(norms):
        m.register_forward_hook(lambda m, args, out, i=i: seen.update({i: args[0]}))

    def misfit(threshold: float, level: int | None = None) -> float:
        rng = torch.Generator().manual_seed(9)
        z = biggan.truncated_normal(255, 24, threshold, rng)
        mix = mixture(torch.full((255,), threshold if level is None else LEVELS[level]))
        model.generator(z, eye(0, 1, 2).repeat(85, 1), mix @ torch.tensor(LEVELS))
        off = [
            (x.var(dim=(0, 2, 3)) / (mix[0] @ m.variances)).log().abs().mean().item()
            for m, x in zip(norms, seen.values(), strict=True)
        ]
        return max(off)

    with torch.inference_mode():
        for threshold in (0.25, 0.7, 1.0, 4.0):
            assert misfit(threshold) < 0.15, threshold
        assert misfit(0.25, level=-1) > 0.3 and misfit(4.0, level=0) > 0.3, "of another level they are not"
    means = torch.stack([m.means for m in norms[:1]])
    assert all(not torch.allclose(means[:, i], means[:, i + 1]) for i in range(len(LEVELS) - 1))


def test_rows_with_different_truncation_share_a_batch() -> None:
    model = settled()
    rows = [
        rows_for(model, [i % 3], 1, 5 + i, BigGAN.capabilities(model)["generate"].controls(truncation=t))[0]
        for i, t in enumerate((0.25, 4.0, 0.7, 1.0))
    ]
    together = generate(model, rows).images
    alone = torch.cat([generate(model, [row]).images for row in rows])
    assert (together.int() - alone.int()).abs().max() <= 1
    assert len({model.group(row) for row in rows}) == 1
    less, more = (
        generate(model, rows_for(model, [0], 32, 0, biggan.BigGANControls(truncation=t))).images.float()
        for t in (0.25, 4.0)
    )
    assert less.std(dim=0).mean() < 0.9 * more.std(dim=0).mean(), "less is more typical"


def test_settling_is_a_function_of_weights_and_seed() -> None:
    made = trainer(steps=2)
    a, b = made.settled().state_dict(), made.settled().state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    before = dict(made.ema.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in made.settled().named_parameters()), "weights are left alone"
