"""VAE: KL, bounds and likelihoods against closed forms; warm-up and free bits by hand; each source of latents."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit
from torch import Tensor, nn

from kartina.config import read
from kartina.errors import ConfigError
from kartina.generators.base import At, Batch, Family, Row, build, from_uint8, generate, noise, rows_for, to_uint8
from kartina.generators.vae import LEVER, VAE, Fitted, kl_normal, log_bernoulli, log_logistic, warmup
from kartina.models.model import inherited, load, save
from tests import tiny
from tests.engine import CARD, PROVENANCE


def at(fraction: float = 1.0) -> At:
    return At(0, round(1000 * fraction), 1000, torch.Generator().manual_seed(0), torch.ones(3) / 3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(model: VAE, rows: list[Row]) -> Tensor:
    """The noise of the rows' seeds, N,Z."""
    return torch.stack([noise(row.seed, "z", 0, (model.config.z,)) for row in rows])


def pixels(n: int, *shape: int) -> Tensor:
    """Random images of 256 levels."""
    levels = torch.randint(0, 256, (n, *(shape or (1, 16, 16))), generator=rng(), dtype=torch.uint8)
    return from_uint8(levels)


def test_validation_tells_of_the_same_bound_as_is_measured() -> None:
    model = tiny.sampler("vae", likelihood="logistic")
    assert isinstance(model, VAE)
    x, labels = pixels(6), torch.arange(6) % 3
    found = model.validate(Batch(x, labels, torch.arange(6)), at(0.1), model)
    nats = model.elbo(x, torch.eye(3)[labels], rng()).mean()  # the draws of `at`, and no warm-up
    assert found["elbo"].item() == pytest.approx(nats.item(), rel=1e-5)
    assert found["elbo"].item() == pytest.approx(-(found["nll"] + found["kl"]).item(), rel=1e-5)
    assert found["bits_per_dim"].item() == pytest.approx(model.bits_per_dim(nats).item(), rel=1e-5)

    # The learned Gaussian's noise level stays with training.
    model = tiny.sampler("vae")
    assert isinstance(model, VAE)
    found, y = model.validate(Batch(x, labels, torch.arange(6)), at(), model), model.condition(torch.eye(3)[labels])
    mean, logvar = model.encoder(x, y)
    out = model.decoder(mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=rng()), y)
    assert found["mse"].item() == pytest.approx((model.mean(out) - x).square().mean().item(), rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl_normal(mean, logvar, *model.prior(y)).sum(1).mean().item(), rel=1e-5)


# -- KL and the loss ---------------------------------------------------------------------------------------------------


def test_kl_by_hand_and_against_torch() -> None:
    """KL( N(1, 4) || N(0, 1) ) = (1 + 4 - 1 - ln 4) / 2."""
    one = kl_normal(torch.tensor(1.0), torch.tensor(4.0).log(), torch.tensor(0.0), torch.tensor(0.0))
    assert one.item() == pytest.approx((4 - math.log(4)) / 2)
    mean, logvar, prior_mean, prior_logvar = torch.randn(4, 50, 4)
    q = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    p = torch.distributions.Normal(prior_mean, (0.5 * prior_logvar).exp())
    expected = torch.distributions.kl_divergence(q, p)
    assert torch.allclose(kl_normal(mean, logvar, prior_mean, prior_logvar), expected, rtol=1e-4, atol=1e-5)
    assert kl_normal(*torch.zeros(4, 1)).item() == 0


def test_elbo_by_hand() -> None:
    model = tiny.family("vae", beta=0.5, beta_warmup=0.0)
    torch.nn.init.normal_(model.prior.table, std=0.5 / LEVER)
    x = torch.rand(6, 1, 16, 16) * 2 - 1
    batch = Batch(x, torch.arange(6) % 3, torch.arange(6))
    loss = model.loss("elbo", batch, at())

    y = model.one_hot(batch.labels)
    mean, logvar = model.encoder(x, y)
    z = mean + (0.5 * logvar).exp() * at().randn(*mean.shape)
    sigma = 0.3  # 0.05 + 0.25
    normal = torch.distributions.Normal(model.decoder(z, y).tanh(), sigma)
    nll = -normal.log_prob(x).sum(dim=[1, 2, 3]).mean()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * logvar).exp()),
        torch.distributions.Normal(
            LEVER * model.prior.table[batch.labels, :4], (0.5 * LEVER * model.prior.table[batch.labels, 4:]).exp()
        ),
    )
    assert loss.stats["nll"].item() == pytest.approx(nll.item(), rel=1e-4)
    assert loss.total.item() == pytest.approx((nll + 0.5 * kl.sum(1).mean()).item(), rel=1e-4)
    assert loss.stats["elbo"].item() == pytest.approx(-(nll + kl.sum(1).mean()).item(), rel=1e-4)


def test_beta_warms_up_once_or_in_cycles() -> None:
    linear = [warmup(f, 0.5, 1) for f in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert linear == [0, 0.25, 0.5, 1, 1, 1]
    # Fu 2019: four cycles, in each beta rises over the first half.
    cyclical = [warmup(f / 16, 0.5, 4) for f in (0, 1, 2, 3, 4, 5, 6, 8, 13, 15, 16)]
    assert cyclical == [0, 0.5, 1, 1, 0, 0.5, 1, 0, 0.5, 1, 1]
    assert [warmup(f, 0.0, 4) for f in (0.0, 0.25, 1.0)] == [1, 1, 1]


@pytest.mark.parametrize(("cycles", "expected"), [(1, [0, 1, 2, 2]), (2, [0, 2, 0, 2])])
def test_the_loss_follows_the_warm_up(cycles: int, expected: list[float]) -> None:
    model = tiny.family("vae", beta=2.0, beta_warmup=0.5, beta_cycles=cycles)
    batch = Batch(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    def beta(fraction: float) -> float:
        loss = model.loss("elbo", batch, at(fraction))
        return (loss.total - loss.stats["nll"]).item() / loss.stats["kl"].item()

    assert [beta(f) for f in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(expected, abs=0.02)


def test_free_bits_are_a_floor_for_each_latent_without_gradient_below() -> None:
    """Latents 0 and 1 lie 2 and 1 units off their prior (KL near 2 and 0.5), the others on it."""
    model = tiny.family("vae", beta_warmup=0.0, free_bits=1.0)
    nn.init.zeros_(model.encoder.out.weight)
    nn.init.zeros_(model.encoder.out.bias)  # q = N(0, 1) for every image
    with torch.no_grad():
        model.prior.table[:, :2] = torch.tensor([2.0, 1.0]) / LEVER
    batch = Batch(pixels(6), torch.arange(6) % 3, torch.arange(6))
    loss = model.loss("elbo", batch, at())
    assert loss.stats["kl"].item() == pytest.approx(2 + 0.5, rel=1e-5)
    assert (loss.total - loss.stats["nll"]).item() == pytest.approx(2 + 1 + 1 + 1, abs=2e-3)
    loss.total.backward()
    grad = model.prior.table.grad  # the priors are in the KL alone
    assert grad[:, [1, 2, 3, 5, 6, 7]].abs().max() == 0
    assert grad[:, 0].abs().min() > 0.1 and grad[:, 4].abs().min() > 0.1


def test_the_floor_is_on_the_mean_over_the_batch() -> None:
    """Half of the images at KL 2 and half at 0: the mean, 1, is above 0.8, so all of it pulls; each alone is not."""
    model = tiny.family("vae", beta_warmup=0.0, free_bits=0.8)
    nn.init.zeros_(model.encoder.out.weight)
    nn.init.zeros_(model.encoder.out.bias)
    with torch.no_grad():
        model.prior.table[0, 0] = 2.0 / LEVER
    batch = Batch(pixels(4), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    loss = model.loss("elbo", batch, at())
    assert (loss.total - loss.stats["nll"]).item() == pytest.approx(1 + 3 * 0.8, abs=2e-3)


def test_learned_sigma_becomes_the_root_mean_square_error() -> None:
    """The optimum of the Gaussian likelihood in sigma is the error's RMS (Rybkin 2021)."""
    model = tiny.family("vae")
    x = torch.randn(64, 1, 16, 16).clamp(-1, 1)
    y = model.one_hot(torch.zeros(64, dtype=torch.int64))
    with torch.no_grad():
        out = model.decoder(torch.zeros(64, 4), y)
    optimum = (x - out.tanh()).square().mean().sqrt().item()

    def slope(sigma: float) -> float:
        model.log_sigma.data.fill_(math.log(sigma - 0.05) / LEVER)
        loss = -model.log_likelihood(x, out).mean()
        return torch.autograd.grad(loss, model.log_sigma)[0].item() / (LEVER * x[0].numel())

    assert slope(optimum) == pytest.approx(0, abs=1e-4)
    assert slope(0.9 * optimum) < -0.1 < 0.1 < slope(1.1 * optimum)


@pytest.mark.parametrize(
    "likelihood", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("gaussian", "bernoulli")), "logistic"]
)
def test_it_overfits_what_it_sees(likelihood: str) -> None:
    torch.manual_seed(0)
    model = tiny.family("vae", beta=0.01, likelihood=likelihood)
    data = tiny.images(12)
    x = from_uint8(torch.from_numpy(data.images))
    batch = Batch(x, torch.from_numpy(data.labels), torch.arange(12))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = None
    for _ in range(600 if likelihood == "gaussian" else 120):  # its tanh is slow to leave the black of most pixels
        optimiser.zero_grad()
        loss = model.loss("elbo", batch, at())
        first = first or loss.stats["nll"].item()
        loss.total.backward()
        optimiser.step()
    assert loss.stats["nll"].item() < first - 100
    with torch.no_grad():  # the noise that it saw
        y = model.one_hot(batch.labels)
        mean, logvar = model.encoder(x, y)
        found = model.decode(mean + (0.5 * logvar).exp() * at().randn(*mean.shape), y)
    assert found.shape == x.shape
    assert (found.clamp(-1, 1) - x).square().mean() < 0.5 * (x - x.mean(dim=0)).square().mean()


# -- likelihoods -------------------------------------------------------------------------------------------------------

LEVELS = torch.arange(256).double() / 127.5 - 1


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.37, 0.0, 0.998, 1.5])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
def test_the_discretised_logistic_sums_to_1(mean: float, log_scale: float) -> None:
    log_p = log_logistic(LEVELS, torch.tensor(mean).double(), torch.tensor(log_scale).double())
    assert torch.isfinite(log_p).all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bins_against_scipy_and_open_at_the_ends() -> None:
    mean, s = 0.2, 0.3
    log_p = log_logistic(LEVELS, *torch.tensor([mean, math.log(s)], dtype=torch.float64)).numpy()
    edges = (np.arange(257) - 0.5) / 127.5 - 1
    edges[[0, -1]] = -np.inf, np.inf
    expected = np.diff(stats.logistic.cdf(edges, mean, s))
    np.testing.assert_allclose(np.exp(log_p), expected, rtol=1e-9)
    assert math.exp(log_p[0]) == pytest.approx(expit((-1 + 1 / 255 - mean) / s), rel=1e-12)
    assert math.exp(log_p[255]) == pytest.approx(1 - expit((1 - 1 / 255 - mean) / s), rel=1e-12)
    # All mass beyond an end falls into its bin, and a far tail stays finite with a gradient that pulls back.
    far = torch.tensor(-40.0, dtype=torch.float64, requires_grad=True)
    log_p = log_logistic(LEVELS, far, torch.tensor(-2.0).double())
    assert log_p[0].item() == pytest.approx(0, abs=1e-9)
    (grad,) = torch.autograd.grad(log_p[255], far)
    assert grad.item() == pytest.approx(math.exp(2), rel=1e-6)


def test_bernoulli_by_hand() -> None:
    x, logits = torch.tensor([-1.0, 0.0, 1.0, 0.6]), torch.tensor([0.5, -1.0, 2.0, 0.0])
    p, s = (x.numpy() + 1) / 2, expit(logits.numpy())
    np.testing.assert_allclose(log_bernoulli(x, logits), p * np.log(s) + (1 - p) * np.log(1 - s), rtol=1e-5)
    model = tiny.family("vae", likelihood="bernoulli")
    np.testing.assert_allclose(model.mean(logits), 2 * s - 1, rtol=1e-5)


def test_the_logistic_model_gives_every_image_a_probability() -> None:
    """Of a decoder's output, the probabilities of one pixel's 256 levels, the others fixed, sum to 1."""
    model = tiny.sampler("vae", likelihood="logistic").double()
    out = model.decoder(torch.randn(1, 4).double(), torch.eye(3)[:1].double()).double()
    x = pixels(1).double().repeat(256, 1, 1, 1)
    rest = model.log_likelihood(x[:1], out) - log_logistic(x[:1], *parameters(out))[0, 0, 3, 5]
    x[:, 0, 3, 5] = LEVELS
    log_p = model.log_likelihood(x, out.expand(256, -1, -1, -1)) - rest
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


def parameters(out: Tensor) -> tuple[Tensor, Tensor]:
    mean, s = out.chunk(2, dim=1)
    return mean, (s - 2).clamp(-7, 7)


# -- bounds ------------------------------------------------------------------------------------------------------------


class Linear(VAE):
    """A linear-Gaussian model: x | z ~ N(W z + b, sigma^2) with z ~ N(0, I), and a q that can be set."""

    def mean(self, out: Tensor) -> Tensor:
        return out


class Decode(nn.Module):
    def __init__(self, w: Tensor, b: Tensor):
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (z @ self.w.t() + self.b).reshape(len(z), 1, 4, 4)


class Encode(nn.Module):
    """The exact posterior (W has orthogonal columns, so it is diagonal), or one that is off by a shift and a scale."""

    def __init__(self, decode: Decode, variance: float, shift: float, scale: float):
        super().__init__()
        self.decode, self.variance, self.shift, self.scale = decode, variance, shift, scale

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean N,Z and variance Z of p(z | x)."""
        precision = 1 + self.decode.w.square().sum(dim=0) / self.variance
        return (x.flatten(1) - self.decode.b) @ self.decode.w / self.variance / precision, 1 / precision

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.posterior(x)
        return mean + self.shift, (self.scale * variance).log().expand_as(mean)


def linear_gaussian(shift: float = 0.0, scale: float = 1.0) -> tuple[VAE, Tensor, Tensor]:
    """The model, images N,1,4,4 and their log p(x) N by scipy, in float64."""
    spec = tiny.spec(4)
    model = build(Linear, dict(z=3, width=8, levels=1, prior="standard"), spec).double()
    q, _ = torch.linalg.qr(torch.randn(16, 3, generator=rng(1)).double())
    decode = Decode(q * torch.tensor([0.9, 0.6, 0.3]).double(), torch.linspace(-0.2, 0.2, 16).double())
    variance = model.sigma.item() ** 2
    model.decoder, model.encoder = decode, Encode(decode, variance, shift, scale)
    x = torch.randn(5, 1, 4, 4, generator=rng(2)).double()
    covariance = (decode.w @ decode.w.t()).detach().numpy() + variance * np.eye(16)
    log_p = stats.multivariate_normal(decode.b.detach().numpy(), covariance).logpdf(x.flatten(1).numpy())
    return model, x, torch.from_numpy(log_p)


def many(model: VAE, x: Tensor, k: int, repeats: int) -> tuple[Tensor, Tensor]:
    """Mean and its standard error, each N, of a bound over `repeats` draws: the ELBO for k = 0."""
    n = len(x)
    wide, y = x.repeat(repeats, 1, 1, 1), torch.eye(3).double()[[0] * n * repeats]
    with torch.no_grad():
        found = model.elbo(wide, y, rng(3)) if k == 0 else model.iwae(wide, y, k, rng(3))
    found = found.reshape(repeats, n)
    return found.mean(dim=0), found.std(dim=0) / math.sqrt(repeats)


def test_bounds_are_tight_where_q_is_the_posterior() -> None:
    model, x, log_p = linear_gaussian()
    y = torch.eye(3).double()[[0] * 5]
    with torch.no_grad():
        for k in (1, 7):  # every weight p(x, z) / q(z | x) is p(x)
            assert torch.allclose(model.iwae(x, y, k, rng(k)), log_p, rtol=1e-9)
    mean, error = many(model, x, 0, 4000)
    assert ((mean - log_p).abs() < 4 * error).all() and error.max() < 0.05


def test_the_elbo_lies_below_by_the_kl_to_the_posterior_and_iwae_rises() -> None:
    model, x, log_p = linear_gaussian(shift=0.3, scale=2.0)
    mean, variance = model.encoder.posterior(x)
    q = torch.distributions.Normal(mean + 0.3, (2 * variance).sqrt())
    p = torch.distributions.Normal(mean, variance.sqrt())
    gap = torch.distributions.kl_divergence(q, p).sum(dim=1).detach()
    elbo, error = many(model, x, 0, 4000)
    assert gap.min() > 0.5
    assert ((elbo - (log_p - gap)).abs() < 4 * error).all()

    bounds = {k: many(model, x, k, 2000) for k in (1, 4, 16, 64)}
    assert ((bounds[1][0] - elbo).abs() < 4 * (bounds[1][1] + error)).all(), "one draw is the ELBO"
    for a, b in ((1, 4), (4, 16), (16, 64)):
        assert (bounds[b][0] > bounds[a][0] + 2 * bounds[a][1]).all(), f"K {a} -> {b}"
    assert all((mean < log_p + 4 * error).all() for mean, error in bounds.values())
    assert ((log_p - bounds[64][0]) < 0.1 * gap).all()


def test_bits_per_dim_is_of_the_discretised_logistic_alone() -> None:
    model = tiny.family("vae", likelihood="logistic")
    d = 16 * 16
    nats = torch.tensor([-d * math.log(2), -d * math.log(256), 0.0])
    assert model.bits_per_dim(nats).tolist() == pytest.approx([1, 8, 0])
    x, y = pixels(6), model.one_hot(torch.arange(6) % 3)
    assert torch.equal(model.bits(x, y, 1, rng()), model.bits_per_dim(model.elbo(x, y, rng())))
    assert torch.equal(model.bits(x, y, 3, rng()), model.bits_per_dim(model.iwae(x, y, 3, rng())))
    loss = model.loss("elbo", Batch(x, torch.arange(6) % 3, torch.arange(6)), at())
    assert loss.stats["bits_per_dim"].item() == pytest.approx(-loss.stats["elbo"].item() / d / math.log(2))
    with pytest.raises(ConfigError, match="at least 1"):
        model.iwae(x, y, 0, rng())
    for likelihood in ("gaussian", "bernoulli"):
        other = tiny.family("vae", likelihood=likelihood)
        assert not other.measures_bits and torch.isfinite(other.elbo(x, y, rng())).all()
        with pytest.raises(ConfigError, match=f"likelihood={likelihood}.*discretised logistic"):
            other.bits_per_dim(nats)
    with pytest.raises(ConfigError, match="noise level"):
        tiny.sampler("vae").elbo(x, y, rng())


# -- sampling ----------------------------------------------------------------------------------------------------------


def settled(**config: Any) -> tuple[Family, Any]:
    """A tiny sampler that kept posteriors of the blobs' train split, and that split."""
    model, data = tiny.sampler("vae", **config), tiny.images(30).part("train")
    model.settle(data, rng())
    return model, data


def drawn(model: Family, labels: list[int], n: int, task: str = "generate", *images: Any, **controls: Any) -> Any:
    settings = model.capabilities()[task].controls(**controls)
    inputs = dict(zip(model.capabilities()[task].inputs, images, strict=True))
    return generate(model, rows_for(model, labels, n, 0, settings, task, inputs))


@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_sampling_draws_from_the_prior_of_the_class(prior: str) -> None:
    model = tiny.family("vae", prior=prior).eval()
    rows = rows_for(model, [0, 2], 2, 5, model.capabilities()["generate"].controls(source="prior"))
    z, y = latents(model, rows), torch.eye(3)[[0, 2]]
    if prior == "standard":
        assert "prior.table" not in dict(model.named_parameters())
    else:
        torch.nn.init.normal_(model.prior.table, std=1 / LEVER)
        mean, logvar = (LEVER * model.prior.table[[0, 2]]).detach().chunk(2, dim=1)
        z = mean + (logvar / 2).exp() * z
    with torch.inference_mode():
        state = model.step(model.start(rows))
        assert torch.allclose(state["z"], z, atol=1e-6)
        assert torch.allclose(state["x"], model.decoder(z, y).tanh(), atol=1e-6)


def test_the_posterior_mixture_draws_that_class_alone() -> None:
    model, data = settled()
    assert model.encoder.mixture.count.tolist() == [5, 5, 5]  # of 20 training images, 6 or 7 a class
    x = from_uint8(torch.from_numpy(data.images))
    for label in range(3):
        of_class = data.labels == label
        y = model.one_hot(torch.from_numpy(data.labels[of_class]))
        posteriors, _ = model.encoder(x[torch.from_numpy(of_class)], y)
        z = drawn(model, [label], 60, source="posterior", spread=0.0).extras["z"]
        nearest = (z[:, None] - posteriors).norm(dim=2).min(dim=1)
        assert nearest.values.max() < 1e-3, "with no spread, the mean of one of the class's own posteriors"
        assert len(set(nearest.indices.tolist())) == 5, "every component is drawn"
        others = torch.cdist(z, model.encoder.mixture.mean[[k for k in range(3) if k != label]].flatten(0, 1))
        assert others.min() > 1e-2


def test_spread_scales_the_posteriors_own_deviation() -> None:
    model, _ = settled()
    z = {s: drawn(model, [1], 40, source="posterior", spread=s).extras["z"] for s in (0.0, 1.0, 2.0)}
    assert torch.allclose(z[2.0] - z[0.0], 2 * (z[1.0] - z[0.0]), atol=1e-5)
    mixture, index = model.encoder.mixture, []
    for row in z[0.0]:
        index.append(int((mixture.mean[1] - row).abs().sum(dim=1).argmin()))
    e = (z[1.0] - z[0.0]) / (0.5 * mixture.logvar[1, index]).exp()
    assert torch.allclose(e, latents(model, rows_for(model, [1], 40, 0)), atol=1e-4)


def test_gaussians_are_those_that_the_latents_come_from() -> None:
    """Two groups of a class's images, each along a line of its own, and what every posterior adds to them."""
    along = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    at_, share, std = torch.tensor([[4.0, 0.0], [-4.0, 0.0]]), (0.25, 0.75), 0.5
    parts = [at_[i] + torch.randn(round(s * 4000), 1, generator=rng(i)) * along[i] for i, s in enumerate(share)]
    mean = torch.cat(parts)
    fitted = Fitted(2, 3, 2)
    fitted.fit(1, mean, torch.full_like(mean, 2 * math.log(std)), rng())
    shares = torch.diff(fitted.below[1], prepend=torch.zeros(1))
    assert fitted.mean.shape == (2, 3, 2) and (fitted.scale[1].triu(1) == 0).all()
    # Three Gaussians for two groups: together they have each group's share, mean and covariance.
    for i, own in ((0, fitted.mean[1, :, 0] > 0), (1, fitted.mean[1, :, 0] < 0)):
        of = shares[own] / shares[own].sum()
        mean_ = (of[:, None] * fitted.mean[1, own]).sum(0)
        apart = fitted.mean[1, own] - mean_
        second = fitted.scale[1, own] @ fitted.scale[1, own].mT + apart[:, :, None] * apart[:, None]
        expected = torch.outer(along[i], along[i]) + std**2 * torch.eye(2)
        assert shares[own].sum().item() == pytest.approx(share[i], abs=0.02)
        assert torch.allclose(mean_, at_[i], atol=0.1)
        assert torch.allclose((of[:, None, None] * second).sum(0), expected, atol=0.1)
    assert torch.equal(fitted.mean[0], torch.zeros(3, 2)) and torch.equal(fitted.scale[0], torch.eye(2).repeat(3, 1, 1))


def test_every_gaussian_is_drawn_as_often_as_its_share() -> None:
    fitted = Fitted(1, 3, 2)
    fitted.keep(0, torch.tensor([0.2, 0.8]), torch.tensor([[1.0, 0], [2.0, 0]]), torch.eye(2).repeat(2, 1, 1))
    mean, _ = fitted(torch.ones(1000, 1), (torch.arange(1000) + 0.5) / 1000)
    assert mean[:, 0].unique(return_counts=True)[1].tolist() == [200, 800]
    edge, _ = fitted(torch.ones(2, 1), torch.tensor([0.0, 1.0]))
    assert edge[:, 0].tolist() == [1, 2]


def test_latents_are_of_the_fitted_gaussians_unless_asked_otherwise() -> None:
    model, _ = settled()
    kept = model.encoder.fitted
    assert kept.mean.shape == (3, 2, 4) and not torch.equal(kept.mean[0, 0], kept.mean[1, 0])
    rows = rows_for(model, [0, 2], 6, 3)
    e, labels = latents(model, rows), [0, 2, 0, 2, 0, 2]
    z = generate(model, rows).extras["z"]
    for i, label in enumerate(labels):  # of 6 or 7 images one Gaussian each
        assert torch.allclose(z[i], kept.mean[label, 0] + kept.scale[label, 0] @ e[i], atol=1e-5)
    asked = drawn(model, [0, 2], 6, source="fitted")
    assert torch.equal(generate(model, rows_for(model, [0, 2], 6, 0)).images, asked.images)
    assert drawn(model, [1], 1, spread=0.0).extras["z"][0].tolist() == pytest.approx(kept.mean[1, 0].tolist())


@pytest.mark.parametrize(
    ("settings", "sources"),
    [
        ({"components": 0, "gaussians": 0}, None),
        ({"components": 5, "gaussians": 0}, ["prior", "posterior"]),
        ({"components": 0, "gaussians": 2}, ["fitted", "prior"]),
        ({"components": 5, "gaussians": 2}, ["fitted", "prior", "posterior"]),
    ],
)
def test_a_model_offers_the_sources_that_it_has(settings: dict[str, int], sources: list[str] | None) -> None:
    controls = tiny.sampler("vae", **settings).capabilities()["generate"].controls
    found = controls.model_json_schema()["properties"].get("source")
    assert (found and (found["enum"], found["default"])) == (sources and (sources, sources[0]))


def test_few_images_or_none_of_a_class() -> None:
    model, data = tiny.sampler("vae"), tiny.images(30).part("train")
    keep = np.flatnonzero((data.labels == 0) | (np.cumsum(data.labels == 1) * (data.labels == 1) == 1))
    few = replace(data, images=data.images[keep], labels=data.labels[keep], bounds={"train": (0, len(keep))})
    model.settle(few, rng())
    mixture = model.encoder.mixture
    assert mixture.count.tolist() == [5, 1, 1]
    assert torch.allclose(mixture.mean[2, 0], model.prior(torch.eye(3)[2:])[0][0])
    # One image: its posterior, but for the draws. None: the prior.
    own, mean, logvar = model.encoder.fitted, mixture.mean[1, 0], mixture.logvar[1, 0]
    std = (0.5 * logvar).exp()
    assert torch.allclose(own.mean[1, 0], mean, atol=0.1 * float(std.max()))
    assert torch.allclose(own.scale[1, 0], std.diag(), atol=0.1 * float(std.max()))
    mean, logvar = (part[0] for part in model.prior(torch.eye(3)[2:]))
    assert torch.allclose(own.mean[2, 0], mean) and torch.allclose(own.scale[2, 0], (0.5 * logvar).exp().diag())
    assert len({z.numpy().tobytes() for z in drawn(model, [1], 8, source="posterior", spread=0.0).extras["z"]}) == 1


def test_settling_is_a_function_of_its_generator() -> None:
    a, b = settled()[0].state_dict(), settled()[0].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_rows_of_every_source_share_a_batch_and_mix_classes() -> None:
    model, _ = settled()
    controls = model.capabilities()["generate"].controls
    rows = tiny.rows(model, [0, 1, 2], 9, seed=4)
    rows = [replace(r, controls=controls(source=("prior", "posterior", "fitted")[i % 3])) for i, r in enumerate(rows)]
    for i in (3, 5):
        rows[i] = replace(rows[i], weights=torch.tensor([0.5, 0.5, 0.0]))
    together = generate(model, rows)
    alone = [generate(model, [row]) for row in rows]
    for i, one in enumerate(alone):
        assert (together.images[i].int() - one.images[0].int()).abs().max() <= 1
        assert torch.allclose(together.extras["z"][i], one.extras["z"][0], atol=1e-5)
    for source in ("posterior", "fitted"):
        flat = replace(rows[3], controls=controls(source=source, spread=0.0))
        ends = [generate(model, [replace(flat, weights=w)]).extras["z"] for w in torch.eye(3)[:2]]
        assert torch.allclose(generate(model, [flat]).extras["z"], (ends[0] + ends[1]) / 2, atol=1e-5)


def test_inversion_is_the_reconstruction_as_the_asked_class() -> None:
    model, data = settled()
    images = list(from_uint8(torch.from_numpy(data.images[:2])))
    out = drawn(model, [0, 1], 2, "invert", images)
    y = torch.eye(3)[:2]
    mean, logvar = model.encoder(torch.stack(images), y)
    assert torch.allclose(out.extras["z"], mean, atol=1e-5)
    expected = ((model.decoder(mean, y).tanh() + 1) * 127.5).round()
    assert (out.images.float() - expected).abs().max() <= 1
    other = drawn(model, [2], 2, "invert", images)
    assert not torch.equal(other.images, out.images)
    noisy = drawn(model, [0, 1], 2, "invert", images, spread=1.0)
    e = (noisy.extras["z"] - mean) / (0.5 * logvar).exp()
    assert torch.allclose(e, latents(model, rows_for(model, [0], 2, 0)), atol=1e-3)


def test_interpolation_leads_from_one_seed_to_the_other_at_unit_variance() -> None:
    model = tiny.sampler("vae", prior="standard", z=64, gaussians=0)
    own, other = (generate(model, rows_for(model, [1], 1, seed)) for seed in (0, 9))
    paths = {s: drawn(model, [1], 1, "interpolate", to_seed=9, share=s) for s in (0.0, 0.5, 1.0)}
    assert torch.equal(paths[0.0].images, own.images) and torch.equal(paths[1.0].images, other.images)
    half = (own.extras["z"] + other.extras["z"]) / math.sqrt(2)
    assert torch.allclose(paths[0.5].extras["z"], half, atol=1e-5)
    same = drawn(model, [1], 1, "interpolate", to_seed=0, share=0.5)
    assert torch.equal(same.images, own.images)


@pytest.mark.parametrize("gaussians", [0, 2])
def test_interpolation_leads_from_one_class_to_another(gaussians: int) -> None:
    """Its ends are the plain images of both, byte for byte; between, all go by label weights between."""
    model, _ = settled(gaussians=gaussians)
    with torch.no_grad():
        model.get_parameter("prior.table").normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    own, other = (generate(model, rows_for(model, [k], 1, seed)) for k, seed in ((0, 0), (2, 9)))
    way = [drawn(model, [0], 1, "interpolate", to_seed=9, to_class="c", share=s) for s in (0.0, 0.5, 1.0)]
    assert torch.equal(way[0].images, own.images) and torch.equal(way[2].images, other.images)
    y, e = torch.tensor([[0.5, 0.0, 0.5]]), (noise(0, "z", 0, (1, 4)) + noise(9, "z", 0, (1, 4))) / math.sqrt(2)
    with torch.inference_mode():
        mean, logvar = model.prior(y)
        z = mean + (0.5 * logvar).exp() * e
        if gaussians:
            kept = model.encoder.fitted
            z = kept.mean[[0, 2], 0].mean(0) + e @ kept.scale[[0, 2], 0].mean(0).mT
        assert torch.allclose(way[1].extras["z"], z, atol=1e-5)
        assert (to_uint8(model.decode(z, y)).int() - way[1].images.int()).abs().max() <= 1
    for plain in (tiny.sampler("vae", shape=tiny.spec(classes=0)), tiny.sampler("vae", conditional=False)):
        assert "to_class" not in plain.capabilities()["interpolate"].controls.model_fields


def test_interpolation_has_the_latents_and_the_spread_that_are_asked_for() -> None:
    """Of every source, each end by the component of its own seed; a model's defaults of `generate` hold here, too."""
    model, _ = settled()
    model.encoder.fitted.keep(
        1, torch.tensor([0.5, 0.5]), torch.tensor([[-9.0] * 4, [9.0] * 4]), torch.eye(4).repeat(2, 1, 1)
    )
    seeds = range(20)
    signs = [float(generate(model, rows_for(model, [1], 1, seed)).extras["z"].sum()) > 0 for seed in seeds]
    one, other = signs.index(False), signs.index(True)
    for source in ("fitted", "prior", "posterior"):
        given = {"source": source, "spread": 0.5}
        plain = model.capabilities()["generate"].controls(**given)
        ends = [generate(model, rows_for(model, [1], 1, seed, plain)) for seed in (one, other)]
        settings = [
            model.capabilities()["interpolate"].controls(**given, to_seed=other, share=share) for share in (0.0, 1.0)
        ]
        way = [generate(model, rows_for(model, [1], 1, one, asked, "interpolate")) for asked in settings]
        assert all(torch.equal(a.images, b.images) for a, b in zip(way, ends, strict=True))
    defaults = {"generate": {"source": "prior", "spread": 0.7}}
    assert inherited(model, "interpolate", defaults) == defaults["generate"]
    chosen = {"generate": {"spread": 0.7, "candidates": 4}}  # an SGAN's way has no candidates
    assert inherited(tiny.sampler("sgan"), "interpolate", chosen) == {"spread": 0.7}
    assert inherited(tiny.sampler("flow"), "invert", {"generate": {"steps": 4}}) == {}  # other steps


def test_a_morph_goes_from_one_posterior_mean_to_the_other() -> None:
    model, data = settled()
    a, b = from_uint8(torch.from_numpy(data.images[:2].copy()))
    ends = [drawn(model, [k], 1, "invert", [x]) for k, x in ((0, a), (2, b))]
    way = [drawn(model, [0], 1, "morph", [a], [b], share=s, to_class="c") for s in (0.0, 0.5, 1.0)]
    assert torch.equal(way[0].images, ends[0].images) and torch.equal(way[2].images, ends[1].images)
    middle = (ends[0].extras["z"] + ends[1].extras["z"]) / 2
    assert torch.allclose(way[1].extras["z"], middle, atol=1e-5)
    y = torch.tensor([[0.5, 0.0, 0.5]])
    with torch.inference_mode():
        assert torch.equal(to_uint8(model.decode(middle, y)), way[1].images)


def test_the_unconditional_original_is_one_switch() -> None:
    model, _ = settled(conditional=False, prior="standard")
    assert model.encoder.mixture.mean.shape == (1, 5, 4), "one mixture, of all images"
    assert model.encoder.fitted.mean.shape == (1, 2, 4)
    for controls in ({}, {"source": "posterior"}, {"source": "prior"}):
        a, b = (drawn(model, [k], 4, **controls).images for k in (0, 2))
        assert torch.equal(a, b)
        assert len({image.numpy().tobytes() for image in a}) > 1
    x, y = pixels(2), torch.eye(3)[[0, 2]]
    assert not torch.equal(model.encoder(x, y)[0], model.encoder(x, y[[1, 0]])[0])  # the nets could tell them apart
    assert torch.equal(model.condition(y), torch.full((2, 3), 1 / 3))


def test_components_are_bounded_whatever_the_number_of_classes() -> None:
    spec = tiny.spec().model_copy(update={"classes": tuple(f"c{i}" for i in range(300))})
    with torch.device("meta"):
        model = VAE(read(VAE.Config, {**tiny.TINY["vae"], "components": 64}, "settings"), spec)
    assert model.encoder.mixture.mean.shape == (300, 13, 4)  # 4096 in all
    with torch.device("meta"):
        wide = {**tiny.TINY["vae"], "z": 64, "gaussians": 4}
        few = VAE(read(VAE.Config, wide, "settings"), spec.model_copy(update={"classes": spec.classes[:100]}))
        many = VAE(read(VAE.Config, wide, "settings"), spec)
    assert few.encoder.fitted.mean.shape == (100, 2, 64)  # 2 x 100 x 64 x 64 of 2^20
    assert many.encoder.fitted is None and many.sources == ("prior", "posterior")


def test_a_package_keeps_the_mixture_and_the_scale(home: Path) -> None:
    model, _ = settled(likelihood="logistic")
    made = load(str(save(model, "bits", PROVENANCE, CARD)))
    x, y = pixels(3), torch.eye(3)
    with torch.inference_mode():
        assert torch.equal(made.family.bits(x, y, 4, rng()), model.bits(x, y, 4, rng()))
    for source in ("posterior", "fitted"):
        again = made.run("generate", [0, 1, 2], 6, source=source).images
        assert np.array_equal(again, drawn(model, [0, 1, 2], 6, source=source).images.numpy())


def test_a_model_of_earlier_settings_has_the_tensors_and_controls_it_had(home: Path) -> None:
    """A package written before the mixture, the Gaussians, the likelihoods and the cycles names none of them."""
    earlier = {"z": 4, "width": 8, "width_max": 16, "levels": 2, "stem": 2, "blocks": 1, "conditional": True,
               "prior": "learned", "beta": 1.0, "beta_warmup": 0.1, "sigma_min": 0.05}  # fmt: skip
    model = build(VAE, earlier, tiny.spec())
    assert list(model.capabilities()["generate"].controls.model_fields) == ["spread"]
    assert not [k for k in model.state_dict() if "mixture" in k or "fitted" in k] and model.log_sigma.shape == ()
    assert model.decoder.last.out_channels == 1
    with pytest.raises(ConfigError, match="source"):
        load(str(save(model.sampler(), "old", PROVENANCE, CARD))).controls("generate", source="posterior")
