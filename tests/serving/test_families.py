"""Every family through the batcher: rows that differ in everything, joining late, equal their solo runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from kartina.generators.base import from_uint8, generate, rows_for, to_uint8
from kartina.models import package, png
from kartina.models.model import load, save
from kartina.serving.batching import Batcher
from kartina.serving.protocol import Event, Finished, RequestSpec, RowSpec
from kartina.serving.residency import Residency
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.serving.images import assert_equals_solo

CONTROLS: dict[str, list[dict[str, Any]]] = {
    "flow": [
        {"solver": "euler", "steps": 5, "guidance": 1.0},
        {"solver": "heun", "steps": 9, "guidance": 3.0},
        {"solver": "heun", "steps": 4, "guidance": 1.0},
    ],
    "vae": [{"source": "posterior"}, {"spread": 0.5}, {"source": "prior", "spread": 0.5}],
    "edm": [
        {"solver": "euler", "steps": 5, "guidance": 1.0},
        {"solver": "heun", "steps": 9, "guidance": 3.0, "churn": 4.0},
        {"solver": "dpm++", "steps": 4, "guidance": 2.0, "guide": "weak"},
    ],
    "ddpm": [
        {"solver": "ddim", "steps": 5, "eta": 1.0},
        {"solver": "heun", "steps": 9, "guidance": 3.0, "guide_from": 0.3},
        {"solver": "dpm++", "steps": 4, "guidance": 1.0},
    ],
    "edm-upscale": [
        {"solver": "euler", "steps": 5},
        {"solver": "heun", "steps": 9, "guidance": 3.0},
        {"solver": "dpm++", "steps": 4, "guidance": 2.0, "guide": "weak"},
    ],
    "transform": [
        {"strength": 0.7, "solver": "euler", "steps": 6},
        {"strength": 0.0, "solver": "dpm++", "steps": 5},
        {"strength": 0.3, "solver": "heun", "steps": 9},
    ],
    "inpaint": [{"solver": "euler", "steps": 6}, {"solver": "heun", "steps": 9, "guidance": 3.0}, {"solver": "dpm++"}],
    "invert": [{"steps": 3}, {"steps": 5, "solver": "euler"}, {"steps": 1}],
    "interpolate": [{"to_seed": 4, "share": 0.3}, {"to_seed": 9, "to_class": "c"}, {"to_seed": 1, "steps": 3}],
    **{
        f"{name}-interpolate": [{"to_seed": 4, "share": 0.3}, {"to_seed": 9, "to_class": "c"}, {"to_seed": 1}]
        for name in ("vae", "stylegan2_ada", "meanflow", "dcgan", "biggan", "sgan")
    },
    "flow-morph": [{"steps": 3, "share": 0.3}, {"steps": 5}, {"steps": 2, "solver": "euler"}],
    "meanflow": [{"steps": 1}, {"steps": 4}, {"steps": 2}],
}


OTHERS = [
    ("flow", "transform"),
    ("edm", "inpaint"),
    ("ddpm", "invert"),
    ("flow", "interpolate"),
    ("flow", "morph"),
    ("vae", "morph"),
    ("vae", "interpolate"),
    ("stylegan2_ada", "interpolate"),
    ("meanflow", "interpolate"),
    ("dcgan", "interpolate"),
    ("biggan", "interpolate"),
    ("sgan", "interpolate"),
]


@pytest.mark.parametrize(("name", "task"), [*((name, "") for name in sorted(tiny.TINY)), *OTHERS])
def test_mixed_rows_equal_their_solo_runs(name: str, task: str, tmp_path: Path) -> None:
    """For each family's first task, and others of the denoising families."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    family = tiny.sampler(name)
    wanted = CONTROLS.get(f"{name}-{task}") or CONTROLS.get(task or name, [{}, {}, {}])
    task = task or next(iter(family.capabilities()))
    pixels = {  # uint8, as they come back from a PNG
        kind: [(one * 255).byte() if kind == "mask" else to_uint8(one[None])[0] for one in found]
        for kind, found in tiny.inputs(family, task).items()
    }
    files = {kind: tuple(png.encode(one.numpy()) for one in found) for kind, found in pixels.items()}
    ref = save(family, name, PROVENANCE, CARD, root=tmp_path)
    hash = package.read_manifest(ref.path).hash
    told: dict[str, list[Event]] = {}
    woken = threading.Event()
    batcher = Batcher(Residency("cpu", woken.set), batch=6)
    asked: list[RequestSpec] = []
    for i, controls in enumerate(wanted):
        rows = tuple(RowSpec(index=j, label=(i + j) % 3, seed=100 * i + j) for j in range(3 + i))
        asked.append(
            RequestSpec(
                id=str(i),
                model=str(ref.path),
                hash=hash,
                task=task,
                rows=rows,
                controls=controls,
                inputs={kind: found[i:] for kind, found in files.items()},
            )
        )

    with torch.inference_mode():
        for i, spec in enumerate(asked):
            told[spec.id] = []
            batcher.submit(spec, told[spec.id].append)
            for _ in range(2 * i + 3 if spec is not asked[-1] else 10_000):
                if not batcher.requests:
                    break
                if not batcher.step():
                    assert woken.wait(60)
                    woken.clear()
        model = load(ref)
        for i, spec in enumerate(asked):
            assert isinstance(told[spec.id][-1], Finished), told[spec.id][-1]
            settings = model.controls(task, **spec.controls)
            given = {
                kind: [one.float() / 255 if kind == "mask" else from_uint8(one) for one in found[i:]]
                for kind, found in pixels.items()
            }
            alone = {}
            for row in spec.rows:
                own = {kind: [found[row.index % len(found)]] for kind, found in given.items()}
                solo = rows_for(model.family, [row.label or 0], 1, row.seed, settings, task, own)
                alone[row.index] = generate(model.family, solo).images[0].numpy()
            assert_equals_solo(told[spec.id], alone)
            assert len({image.tobytes() for image in alone.values()}) > 1  # they are not all one image
    torch.set_num_threads(threads)
