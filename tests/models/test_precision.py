"""Half-precision packages: half the bytes, the same pictures, no silent overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kartina.errors import ConfigError
from kartina.handlers.load import load_any
from kartina.handlers.publish import publish
from kartina.models import package
from kartina.models.model import round_to_half
from kartina.training.loop import train
from tests import tiny


def test_half_the_bytes_and_the_same_pictures(home: Path) -> None:
    run = tiny.run("flow", home, n=64)
    train(run)
    whole = publish(run.id, "whole", evaluate=False, precision="fp32")
    half = publish(run.id, "half", evaluate=False)
    sizes = [package.read_manifest(p.path).parts["generator"].bytes for p in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]
    a, b = (load_any(name).sample(n=6, seed=1).images.astype(int) for name in ("whole", "half"))
    assert np.abs(a - b).max() <= 1
    assert all(p.dtype == torch.float32 for p in load_any("half").family.parameters())


def test_defaults_are_stored_and_used(home: Path) -> None:
    run = tiny.run("flow", home, n=8)
    train(run)
    publish(run.id, "plain", evaluate=False, defaults={"generate": {"guidance": 4.0, "steps": 3}})
    model = load_any("plain")
    found = model.controls()
    assert (found.guidance, found.steps, found.solver) == (4.0, 3, "deis")
    assert model.controls(guidance=1.0).guidance == 1.0
    with pytest.raises(ConfigError, match="guidence"):
        publish(run.id, "plain", evaluate=False, defaults={"generate": {"guidence": 4.0}})
    assert [p.version for p in package.list_packages() if p.name == "plain"] == [1]


def test_a_weight_beyond_float16_is_refused() -> None:
    model = tiny.sampler("vae")
    next(model.parameters()).data[:] = 1e6
    with pytest.raises(ConfigError, match="precision fp32"):
        round_to_half(model)
