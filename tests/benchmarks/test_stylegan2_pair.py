"""The StyleGAN2 pair: as large as the one it is compared with, lazy phases counted by their share."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import stylegan2_pair
from kartina import registry
from kartina.config import Preset
from kartina.training.catalogue import on_meta, usual
from kartina.training.loop import Trainer
from tests import tiny


def test_the_pair_has_the_size_that_it_is_compared_at() -> None:
    family_name, preset = registry.preset(stylegan2_pair.PRESET)
    family = registry.family(family_name)
    sized = Preset(preset.size, "", {**preset.config, **stylegan2_pair.PAIR})
    made = on_meta(family, sized, usual(family, sized, 3))
    for part, millions in ((made.generator, 5.5), (made.discriminator, 5.0)):
        assert sum(p.numel() for p in part.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_shares_add_up_to_a_whole_cycle_of_steps() -> None:
    """D and G in every step, R1 in every third, path lengths in every second: six steps are a cycle."""
    trainer = Trainer(tiny.run_config("stylegan2_ada", tiny.images(), 10**6), tiny.images())
    by_share = stylegan2_pair.flops(trainer)
    with FlopCounterMode(display=False) as counter:
        for _ in range(6):
            trainer.step()
    assert by_share == pytest.approx(counter.get_total_flops() / (6 * trainer.images_per_step), rel=1e-9)
