"""What holds on a GPU: every family trains, pauses and resumes there, and draws what it draws on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kartina.generators.base import generate
from kartina.training.loop import Trainer, train
from tests import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
each = pytest.mark.parametrize("name", sorted(tiny.TINY))


@each
def test_trains_and_resumes_on_the_gpu(name: str, home: Path) -> None:
    run = tiny.run(name, home, n=8 * 6)
    config = run.config.model_copy(update={"device": "cuda"})
    trainer = Trainer(config, run.data())
    before = {k: p.detach().clone() for k, p in trainer.family.named_parameters()}
    for _ in range(3):
        trainer.step()
    assert all(p.device.type == "cuda" and bool(torch.isfinite(p).all()) for p in trainer.family.parameters())
    assert any(not torch.equal(p, before[k]) for k, p in trainer.family.named_parameters())
    kept = trainer.save(run.path / "checkpoints")
    again = Trainer(config, run.data())
    again.load(kept)
    assert again.steps == 3
    for (k, p), q in zip(trainer.family.named_parameters(), again.family.parameters(), strict=True):
        assert torch.equal(p, q), k
    again.step()  # the optimisers' state lies where the parameters do


def test_a_run_of_the_gpu_is_trained_through(home: Path) -> None:
    run = tiny.run("flow", home, n=8 * 4, optimizer="muon")
    (run.path / "config.json").write_text(run.config.model_copy(update={"device": "cuda"}).model_dump_json())
    assert train(type(run).open(run.id)) == "finished"


@each
def test_draws_the_same_pictures_as_the_cpu(name: str) -> None:
    here, there = tiny.sampler(name), tiny.sampler(name).to("cuda")
    labels = [0, 1, 2]
    on_cpu = generate(here, tiny.rows(here, labels, 3, seed=5)).images
    on_gpu = generate(there, tiny.rows(there, labels, 3, seed=5)).images
    assert on_gpu.device.type == "cpu"
    assert (on_cpu.int() - on_gpu.int()).abs().max() <= 2
