"""VAE: KL and ELBO against closed forms; sigma finds the reconstruction error."""

from __future__ import annotations

import math

import pytest
import torch

from kartina.generators.base import At, Batch
from kartina.generators.vae import LEVER, kl_normal
from tests import tiny


def at(fraction: float = 1.0) -> At:
    return At(0, round(1000 * fraction), 1000, torch.Generator().manual_seed(0), torch.ones(3) / 3)


def test_kl_is_the_closed_form() -> None:
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
    normal = torch.distributions.Normal(model.decoder(z, y), sigma)
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


def test_beta_rises_linearly() -> None:
    model = tiny.family("vae", beta=2.0, beta_warmup=0.5)
    batch = Batch(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4))

    def beta(fraction: float) -> float:
        loss = model.loss("elbo", batch, at(fraction))
        return (loss.total - loss.stats["nll"]).item() / loss.stats["kl"].item()

    assert [beta(f) for f in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 1, 2, 2], abs=0.02)


def test_learned_sigma_becomes_the_root_mean_square_error() -> None:
    """The optimum of the Gaussian likelihood in sigma is the error's RMS (Rybkin 2021)."""
    model = tiny.family("vae")
    x = torch.randn(64, 1, 16, 16).clamp(-1, 1)
    y = model.one_hot(torch.zeros(64, dtype=torch.int64))
    with torch.no_grad():
        recon = model.decoder(torch.zeros(64, 4), y)
    optimum = (x - recon).square().mean().sqrt()
    log_sigma = torch.tensor(math.log(0.3), requires_grad=True)
    nll = (0.5 * ((x - recon) / log_sigma.exp()) ** 2 + log_sigma).mean()
    assert torch.autograd.grad(nll, log_sigma)[0].item() < 0, "0.3 is too small, so it grows"
    log_sigma = optimum.log().detach().requires_grad_()
    nll = (0.5 * ((x - recon) / log_sigma.exp()) ** 2 + log_sigma).mean()
    assert torch.autograd.grad(nll, log_sigma)[0].item() == pytest.approx(0, abs=1e-5)


def test_it_overfits_what_it_sees() -> None:
    torch.manual_seed(0)
    model = tiny.family("vae", beta=0.01)
    data = tiny.images(12)
    x = torch.from_numpy(data.images).float() / 127.5 - 1
    batch = Batch(x, torch.from_numpy(data.labels), torch.arange(12))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = None
    for _ in range(200):
        optimiser.zero_grad()
        loss = model.loss("elbo", batch, at())
        first = first or loss.stats["nll"].item()
        loss.total.backward()
        optimiser.step()
    assert loss.stats["nll"].item() < first - 100


@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_sampling_draws_from_the_prior_of_the_class(prior: str) -> None:
    model = tiny.family("vae", prior=prior)
    z, y = torch.randn(2, 4), torch.eye(3)[[0, 2]]
    if prior == "standard":
        assert torch.equal(model.decode(z, y), model.decoder(z, y))
        assert "prior.table" not in dict(model.named_parameters())
        return
    torch.nn.init.normal_(model.prior.table, std=1 / LEVER)
    mean, logvar = (LEVER * model.prior.table[[0, 2]]).chunk(2, dim=1)
    assert torch.allclose(model.decode(z, y), model.decoder(mean + (logvar / 2).exp() * z, y), atol=1e-5)
