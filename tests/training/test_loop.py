"""The loop: optimisers, lazy phases, moving average, schedule, budget, guard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from kartina import registry
from kartina.config import FamilyConfig, TrainConfig
from kartina.errors import ConfigError, DivergedError, NotFoundError
from kartina.generators.base import At, Batch, Family, Loss, Phase
from kartina.generators.vae import VAE
from kartina.training import budget, diagnosis
from kartina.training.loop import Trainer, derive, pick_device, plan, schedule, train
from tests import tiny


class Nothing(FamilyConfig):
    pass


class Probe(Family):
    """Two phases on one optimiser, the second lazy; D repeats on fresh batches. Notes what it is given."""

    Config = Nothing
    seen: list[tuple[str, list[int], float]]

    def __init__(self, config: Nothing, spec: object):
        super().__init__(config, spec)
        self.generator = nn.Linear(1, 1)
        self.generator.register_buffer("count", torch.zeros(()))
        self.discriminator = nn.Linear(1, 1)
        self.seen = []

    def phases(self) -> Sequence[Phase]:
        d = list(self.discriminator.parameters())
        return [
            Phase("D", d, opt="D", repeat=3),
            Phase("R1", d, opt="D", every=16, batch=0.5),
            Phase("G", list(self.generator.parameters()), opt="G"),
        ]

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        self.seen.append((phase, batch.ids.tolist(), float(at.randn(1))))
        net = self.generator if phase == "G" else self.discriminator
        self.generator.count += 1
        total = net(batch.images.mean().reshape(1, 1)).square().sum()
        return Loss(total, {"loss": total.detach()})


@pytest.fixture
def probe() -> Trainer:
    registry.register("probe")(Probe)
    tiny.TINY["probe"] = {}
    try:
        yield Trainer(tiny.run_config("probe", tiny.images(), 10_000, ema=0), tiny.images())
    finally:
        registry.unregister("probe")
        del tiny.TINY["probe"]


def test_lazy_phase_shares_the_optimiser(probe: Trainer) -> None:
    """After 16 D steps (here x3 repeats) and one R1, the shared step count says so: R1 has no Adam of its own."""
    for _ in range(16):
        probe.step()
    state = probe.optimisers["D"].state[next(iter(probe.family.discriminator.parameters()))]
    assert int(state["step"]) == 16 * 3 + 1
    assert set(probe.optimisers) == {"D", "G"}
    group = probe.optimisers["D"].param_groups[0]
    assert group["betas"] == pytest.approx((0.9 ** (48 / 49), 0.999 ** (48 / 49)))
    assert group["lr"] == pytest.approx(1e-3 * 48 / 49)
    assert probe.optimisers["G"].param_groups[0]["betas"] == (0.9, 0.999)


def test_every_repeat_draws_a_fresh_batch(probe: Trainer) -> None:
    probe.step()
    phases = [(name, ids) for name, ids, _ in probe.family.seen]
    assert [p for p, _ in phases] == ["D", "D", "D", "R1", "G"]
    drawn = [i for p, ids in phases if p == "D" for i in ids]
    assert len(drawn) == 24 == len(set(drawn)), "3 repeats consume 3 x 8 different ids of the epoch"
    assert len(phases[3][1]) == 4, "half a batch"
    assert probe.images == 24 and probe.position == 24 + 4 + 8
    assert len({x for _, _, x in probe.family.seen}) == 5, "fresh noise in every update"


def test_average_follows_by_half_life_and_carries_buffers(probe: Trainer) -> None:
    probe.train = TrainConfig(batch=8, ema=24, ema_ramp=0.0)
    probe.ema.generator.weight.data.fill_(0.0)
    probe.family.generator.weight.data.fill_(1.0)
    probe.images = 24
    probe.average()  # one step of 24 images = one half-life
    assert float(probe.ema.generator.weight) == pytest.approx(0.5)
    probe.step()
    assert float(probe.ema.generator.count) == float(probe.family.generator.count) > 0


def test_ema_of_batch_norm_moves(home: Path) -> None:
    """EMA that drops buffers: its running means differ from their initial values."""
    data = tiny.images()
    trainer = Trainer(tiny.run_config("dcgan", data, 1000), data)
    before = {k: v.clone() for k, v in trainer.ema.named_buffers() if "running_mean" in k}
    for _ in range(3):
        trainer.step()
    after = dict(trainer.ema.named_buffers())
    assert before and all(not torch.equal(v, after[k]) for k, v in before.items())


def test_only_the_phase_trains(home: Path) -> None:
    data = tiny.images()
    trainer = Trainer(tiny.run_config("dcgan", data, 1000), data)
    g = [p.clone() for p in trainer.family.generator.parameters()]
    d = [p.clone() for p in trainer.family.discriminator.parameters()]
    trainer.update(0, trainer.phases[0], 0)
    assert all(torch.equal(a, b) for a, b in zip(g, trainer.family.generator.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(d, trainer.family.discriminator.parameters(), strict=True))


class Poisoned(Probe):
    """Says NaN at step 9."""

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        found = super().loss(phase, batch, at)
        return Loss(found.total * float("nan")) if at.step == 9 else found


@pytest.fixture
def poisoned() -> Iterator[None]:
    registry.register("poisoned")(Poisoned)
    tiny.TINY["poisoned"] = {}
    try:
        yield
    finally:
        registry.unregister("poisoned")
        del tiny.TINY["poisoned"]


def test_nan_stops_with_the_checkpoint_kept(poisoned: None, home: Path) -> None:
    run = tiny.run("poisoned", home, n=24 * 50)
    calls = iter([False, False, True])
    train(run, stop=lambda: next(calls))
    kept = run.checkpoint()
    with pytest.raises(DivergedError, match=r"loss of nan.*step 9.*lr="):
        train(run)
    assert run.checkpoint() == kept
    assert run.status()["status"] == "failed" and "nan" in run.status()["error"]


def test_broken_weights_are_never_saved(home: Path) -> None:
    data = tiny.images()
    trainer = Trainer(tiny.run_config("vae", data, 1000), data)
    trainer.family.encoder.inp.bias.data[0] = float("inf")
    with pytest.raises(DivergedError, match="not finite"):
        trainer.save(home)
    assert not list(home.glob("*"))


def test_resuming_elsewhere_is_said(home: Path) -> None:
    run = tiny.run("vae", home, n=64)
    calls = iter([False, True])
    train(run, stop=lambda: next(calls))
    state = run.checkpoint() / "state.json"
    state.write_text(state.read_text().replace('"threads": 1', '"threads": 7'))
    train(run)
    assert "threads was 7 and is 1" in run.status()["warnings"][0]


@pytest.mark.parametrize(
    ("settings", "fraction", "expected"),
    [
        ({}, 0.5, 1.0),
        ({"warmup": 1000, "batch": 100}, 0.004, 0.5),
        ({"decay": "linear"}, 0.25, 0.75),
        ({"decay": "linear", "decay_to": 0.5}, 1.0, 0.5),
        ({"decay": "cosine"}, 0.5, 0.5),
        ({"decay": "cosine", "decay_from": 0.5}, 0.5, 1.0),
        ({"decay": "cosine", "decay_from": 0.5}, 0.75, 0.5),
    ],
)
def test_schedule_by_hand(settings: dict[str, object], fraction: float, expected: float) -> None:
    assert schedule(TrainConfig(**settings), round(fraction * 100_000), 100_000) == pytest.approx(expected)


def test_a_time_budget_becomes_images_once(home: Path) -> None:
    tiny.store(tiny.images(shape=tiny.spec(32)), home)
    config = plan("vae-32-cpu", "blobs", budget=4.0, settings=["width=8", "width_max=8", "threads=1", "batch=8"])
    assert config.budget == 4.0 and 64 < config.images < 10**6
    assert config.train.batch == 8 and config.config["width"] == 8


@pytest.mark.parametrize(
    ("preset", "data", "settings", "error", "says"),
    [
        ("vae-32-cpu", "blobs", [], ConfigError, r"16x16.*32x32.*--size 32"),
        ("vae-32-gpu", "blobs", [], NotFoundError, r"preset called 'vae-32-gpu'.*Did you mean 'vae-32-cpu'"),
        ("vae-32-cpu", "blob", [], NotFoundError, r"data set called 'blob'.*Did you mean 'blobs'"),
        ("vae-32-cpu", "blobs", ["widht=3"], ConfigError, r"key called 'widht'.*Did you mean 'width'"),
        ("vae-32-cpu", "blobs", ["width"], ConfigError, r"--set 'width'; expected key=value"),
        ("vae-32-cpu", "blobs", ["width=wide"], ConfigError, r"width: .*found 'wide'"),
        ("vae-32-cpu", "blobs", ["batch=0"], ConfigError, r"batch: .*found 0"),
        ("vae-32-cpu", "blobs", ["lr=Infinity"], ConfigError, r"lr: "),
        ("vae-32-cpu", "blobs", ["lr=NaN"], ConfigError, r"lr: "),
        ("vae-32-cpu", "./blobs", [], NotFoundError, r"data set called './blobs'"),
        ("flow-32-cpu", "big", ["widths=[]"], ConfigError, r"widths: "),
        ("flow-32-cpu", "big", ["attention=[7]"], ConfigError, r"attention at level 7"),
    ],
)
def test_bad_plans_are_refused_in_words(
    preset: str, data: str, settings: list[str], error: type[Exception], says: str, home: Path
) -> None:
    tiny.store(tiny.images(), home)
    tiny.store(replace(tiny.images(shape=tiny.spec(32)), name="big"), home)
    with pytest.raises(error, match=says):
        plan(preset, data, images=100, settings=settings)
    assert not (home / "runs").exists()


def test_budget_texts() -> None:
    assert [budget.seconds(t) for t in ("90s", "10m", "1h30m", "1.5h")] == [90, 600, 5400, 5400]
    assert [budget.images(t) for t in ("5000", "200k", "2M", "1.5k", "5_000")] == [5000, 200_000, 2_000_000, 1500, 5000]
    for bad in ("", "10", "m", "10 minutes", "-5m", "0s"):
        with pytest.raises(ConfigError, match="expected"):
            budget.seconds(bad)
    for bad in ("", "0", "many", "-1", "2G"):
        with pytest.raises(ConfigError, match="expected"):
            budget.images(bad)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--device cuda; this machine has: .*cpu"):
        pick_device("cuda" if not torch.cuda.is_available() else "mps")


def test_derived_seeds_differ() -> None:
    assert (
        len({derive(0, step, phase, repeat) for step in range(50) for phase in range(3) for repeat in range(3)}) == 450
    )


def test_diagnosis_names_a_collapsed_class() -> None:
    data = tiny.images(90)
    real = diagnosis.real_spread(data)
    labels = np.repeat(np.arange(3), 8)
    varied = np.concatenate([data.images[data.labels == k][:8] for k in range(3)])
    assert not diagnosis.findings(diagnosis.diversity(varied, labels, real), data.spec.classes, {}, 0.5)
    stuck = varied.copy()
    stuck[8:16] = stuck[8]
    nobody = diagnosis.real_spread(replace(data, bounds={}, images=data.images[:2], labels=data.labels[:2]))
    assert nobody[2] == 0, "a class without images"
    found = diagnosis.findings(diagnosis.diversity(stuck, labels, real), data.spec.classes, {}, 0.5)
    assert [f.kind for f in found] == ["collapse"] and "b 0.00" in found[0].message and "gamma" in found[0].message
    assert not diagnosis.findings(diagnosis.diversity(stuck, labels, real), data.spec.classes, {}, 0.1), "too early"
    assert [f.kind for f in diagnosis.findings({}, (), {"sign_real": 0.99}, 0.5)] == ["saturation"]


def test_a_loss_on_val_that_rises_is_named() -> None:
    """Twice in turn a tenth above its lowest: the model knows its images by heart."""

    def kinds(*losses: float) -> list[str]:
        seen = {100 * (i + 1): loss for i, loss in enumerate(losses)}
        return [f.kind for f in diagnosis.findings({}, (), {}, 0.5, seen)]

    assert kinds(3.0, 2.0, 1.0) == kinds(1.0, 1.2) == kinds(1.0, 1.2, 1.0) == kinds(1.0, 1.05, 1.2) == kinds() == []
    assert kinds(2.0, 1.0, 1.12, 1.11) == ["by_heart"]
    (found,) = diagnosis.by_heart({100: 2.0, 200: 1.0, 300: 1.2, 400: 1.5})
    assert "lowest, 1, after 200 images and is 1.5 after 400" in found.message and "--images 200" in found.message


class Rising(VAE):
    """Whose loss on val falls for a quarter of the budget, and rises from there."""

    presets: ClassVar = {}

    def validate(self, batch: Batch, at: At, trained: Family) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(1.0 + abs(at.images - at.total / 4) / at.total)}


def test_a_run_warns_of_it_and_so_does_a_resumed_one(home: Path) -> None:
    registry.register("rising")(Rising)
    tiny.TINY["rising"] = tiny.TINY["vae"]
    try:
        run = tiny.run("rising", home, n=64, grids=8)
        calls = iter([False] * 5 + [True])
        assert train(run, stop=lambda: next(calls)) == "paused" and "by heart" in str(run.status()["warnings"])
        train(run)
    finally:
        registry.unregister("rising")
        del tiny.TINY["rising"]
    (warning,) = [text for text in run.status()["warnings"] if "by heart" in text]
    assert "lowest, 1, after 16 images and is 1.75 after 64" in warning


def test_spread_by_hand() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert diagnosis.spread(points) == pytest.approx((5 + 0 + 5) / 3)
    assert diagnosis.coarse(np.full((2, 1, 32, 32), 7, np.uint8)).shape == (2, 64)
    assert math.isclose(diagnosis.spread(points[:1]), 0.0)


def test_a_step_is_timed_as_it_will_be_and_ada_opens_later() -> None:
    """ADA transforms nothing at first; a budget that counted such steps would be overrun."""
    for name, settings in (("dcgan", {"augment": "ada", "ada_images": 8}), ("r3gan", {"augment": "ada"})):
        trainer = Trainer(tiny.run_config(name, tiny.images(), 10**9, settings), tiny.images())
        assert trainer.family.ada.p == 0
        trainer.family.rehearse()
        for _ in range(6):
            trainer.step()
        assert trainer.family.ada.p == 0.5, name
