"""One real step of every preset at its own size and width; only the batch is small."""

from __future__ import annotations

import pytest
import torch

import kartina
from kartina import registry
from kartina.config import RunConfig, TrainConfig
from kartina.training.catalogue import example
from kartina.training.loop import Trainer

BATCH = 4


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.presets())
def test_a_step_of_every_preset(name: str) -> None:
    family, preset = registry.preset(name)
    data = example(registry.family(family), preset, n=64)
    config = RunConfig(
        kartina=kartina.__version__,
        preset=name,
        family=family,
        config=dict(preset.config),
        train=TrainConfig(**{**preset.train, "batch": BATCH}),
        spec=data.spec,
        data=data.name,
        data_hash="",
        images=10**6,
    )
    trainer = Trainer(config, data)
    if trainer.family.taught:  # one that has learnt nothing says what the student says: 0
        torch.nn.init.normal_(trainer.family.get_parameter("teacher.generator.last.weight"), std=0.1)
    before = {k: v.clone() for k, v in trainer.family.named_parameters()}
    trainer.step()
    after = dict(trainer.family.named_parameters())
    assert trainer.images == BATCH * max(p.repeat for p in trainer.phases)
    assert all(bool(torch.isfinite(v).all()) for v in after.values())
    assert any(not torch.equal(before[k], v) for k, v in after.items())  # zero gates may hold most back at first
