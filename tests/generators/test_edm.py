"""EDM: table 1 and equation 5 of the paper by hand, the loss weight, training noise, the measured deviation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kartina.generators.base import At, Batch
from kartina.generators.edm import EDM
from kartina.models.model import load, save
from kartina.training.loop import Trainer
from tests import tiny
from tests.engine import CARD, PROVENANCE

PAPER = EDM.Config(**{**tiny.TINY["edm"], "sigma_data": 0.5})


def edm() -> EDM:
    return EDM(PAPER, tiny.spec())


def test_coefficients_and_weight_by_hand() -> None:
    """At sigma 1 and 0.5 with sigma_data 0.5."""
    c_skip, c_out, c_in, c_noise = edm().preconditioning(torch.tensor([1.0, 0.5]))
    assert c_skip.tolist() == pytest.approx([0.25 / 1.25, 0.5])
    assert c_out.tolist() == pytest.approx([0.5 / 1.25**0.5, 0.25 / 0.5**0.5])
    assert c_in.tolist() == pytest.approx([1 / 1.25**0.5, 1 / 0.5**0.5])
    assert c_noise.tolist() == pytest.approx([0.0, np.log(0.5) / 4])
    assert edm().weight(torch.tensor([1.0, 0.5])).tolist() == pytest.approx([1.25 / 0.25, 0.5 / 0.0625])


def test_a_network_that_states_the_image_and_a_weight_that_stops_growing() -> None:
    model = EDM(EDM.Config(**{**PAPER.model_dump(), "states": "image", "snr_max": 16.0}), tiny.spec())
    weights = model.weight(torch.tensor([1.0, 0.25, 0.01])).tolist()
    assert weights == pytest.approx([1, 16, 16]) and model.least == 0.25

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(x, 0.75)

    out = model.denoise(torch.randn(2, 1, 16, 16), torch.tensor([1.0, 0.5]), torch.eye(4)[:2], Net())
    assert bool((out == 0.75).all()) and edm().least == 0
    with pytest.raises(ValueError, match="set snr_max as well"):
        EDM.Config(**{**PAPER.model_dump(), "states": "image"})


def test_input_and_target_have_unit_variance_at_every_noise_level() -> None:
    """What the coefficients are for; and the weight makes the network's own loss the plain square."""
    model = edm()
    sigma = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
    c_skip, c_out, c_in, _ = model.preconditioning(sigma)
    rng = torch.Generator().manual_seed(0)
    x, e = torch.randn(5, 200_000, generator=rng) * 0.5, torch.randn(5, 200_000, generator=rng)
    noisy = x + sigma[:, None] * e
    assert (c_in[:, None] * noisy).std(dim=1).tolist() == pytest.approx([1.0] * 5, rel=0.01)
    target = ((x - c_skip[:, None] * noisy) / c_out[:, None]).std(dim=1)
    assert target.tolist() == pytest.approx([1.0] * 5, rel=0.01)
    assert (model.weight(sigma) * c_out.square()).tolist() == pytest.approx([1.0] * 5, rel=1e-5)


def test_the_network_sees_scaled_images_and_its_output_is_scaled() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            self.x, self.t = x, t
            return torch.ones_like(x)

    model, x = edm(), torch.randn(2, 1, 16, 16)
    fresh = model.denoise(x, torch.tensor([1.0, 0.5]), torch.eye(4)[:2])
    assert torch.allclose(fresh, torch.tensor([0.2, 0.5])[:, None, None, None] * x), "an untrained one states c_skip x"
    net = Net()
    out = model.denoise(x, torch.tensor([1.0, 0.5]), torch.eye(4)[:2], net)
    assert torch.allclose(net.x[0], x[0] / 1.25**0.5) and net.t.tolist() == pytest.approx([0, np.log(0.5) / 4])
    assert torch.allclose(out[0], 0.2 * x[0] + 0.5 / 1.25**0.5, atol=1e-6)


def test_training_noise_is_log_normal() -> None:
    sigma = edm().level(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.02)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.02)


def test_the_solver_visits_equation_5() -> None:
    model, n = edm(), 18
    found = [float(model.times(torch.tensor([i]), torch.tensor([n]))) for i in range(n + 1)]
    i = np.arange(n)
    expected = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert found == pytest.approx([*expected, 0.0], rel=1e-4)
    assert found[0] == pytest.approx(80) and found[-2] == pytest.approx(0.002, rel=1e-3) and found[-1] == 0
    assert float(model.times(torch.tensor([0]), torch.tensor([1]))) == pytest.approx(80), "one step starts at the top"


def test_loss_by_hand() -> None:
    class Off(EDM):
        def denoise(self, x: Tensor, t: Tensor, y: Tensor, net: object = None, source: object = None) -> Tensor:
            self.x, self.t = x, t
            return batch.images + 0.5

    model = Off(PAPER, tiny.spec())
    batch = Batch(torch.rand(64, 1, 16, 16) * 2 - 1, torch.arange(64) % 3, torch.arange(64))
    loss = model.loss("denoise", batch, At(0, 0, 1, torch.Generator().manual_seed(0), torch.ones(3) / 3))
    weight = (model.t**2 + 0.25) / (model.t * 0.5) ** 2
    assert loss.total.item() == pytest.approx((weight * 0.25).mean().item(), rel=1e-5)
    noise = (model.x - batch.images) / model.t[:, None, None, None]
    assert noise.std().item() == pytest.approx(1, abs=0.02) and abs(noise.mean().item()) < 0.02


def test_the_deviation_is_measured_and_goes_with_the_package(tmp_path: Path) -> None:
    data = tiny.images()
    trainer = Trainer(tiny.run_config("edm", data, 64), data)
    expected = (data.part("train").images.astype(np.float64) / 127.5 - 1).std()
    assert float(trainer.family.sd) == pytest.approx(expected, rel=1e-6)
    trainer.step()
    ref = save(trainer.settled(), "edm", PROVENANCE, CARD, root=tmp_path)
    assert float(load(ref).family.sd) == pytest.approx(expected, rel=1e-6)
    assert float(edm().sd) == 0.5


def test_the_deviation_is_the_configs_where_it_says_one_whatever_a_start_had() -> None:
    """It is a buffer of the network, which a start brings."""
    family = edm()
    family.sd.fill_(0.33)
    family.setup(None, torch.Generator())
    assert family.sd.item() == 0.5
