"""Images and noise as conditions of the denoising families: transform, inpaint, interpolate, invert."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kartina.config import read
from kartina.errors import ConfigError, DataError
from kartina.generators.base import Family, Row, State, from_uint8, generate, noise, rows_for
from kartina.models.model import load, save
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.generators.test_diffusive import FAMILIES, MU, SIGMA, gaussian

each = pytest.mark.parametrize("name", FAMILIES)
SOLVERS: list[dict[str, Any]] = [
    {"solver": "euler", "steps": 5},
    {"solver": "heun", "steps": 4, "guidance": 3.0},
    {"solver": "heun", "steps": 6, "churn": 4.0},
    {"solver": "ddim", "steps": 5, "eta": 0.8},
    {"solver": "dpm++", "steps": 6},
]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def picture(seed: int = 0, size: int = 16) -> Tensor:
    """uint8 1,size,size."""
    return torch.randint(0, 256, (1, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def hole() -> Tensor:
    """A mask 1,16,16: the middle is made anew."""
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:11, 5:13] = 1
    return mask


def row(model: Family, task: str, seed: int = 0, label: int = 0, image: Tensor | None = None, mask: Tensor | None = None,
        **controls: Any) -> Row:  # fmt: skip
    settings = read(model.capabilities()[task].controls, controls, "test")
    takes = model.capabilities()[task].inputs
    if "image" in takes and image is None:
        image = from_uint8(picture())
    if "mask" in takes and mask is None:
        mask = hole()
    return Row(torch.eye(3)[label], seed, settings, task, image, mask)


def made(model: Family, *rows: Row) -> Tensor:
    return generate(model, rows).images


def through(model: Any, state: State) -> list[State]:
    """Every state from the first to the last."""
    states = [state]
    with torch.inference_mode():
        while not bool(states[-1].done.all()):
            states.append(model.step(states[-1]))
    return states


# -- transform ---------------------------------------------------------------------------------------------------------


@each
def test_inpaint_and_transform_strength_0_returns_the_input(name: str) -> None:
    """Byte for byte, alone and beside rows that are worked on; and it costs no evaluation."""
    model = tiny.sampler(name)
    images = [picture(i) for i in range(3)]
    rows = [
        row(model, "transform", i, i, from_uint8(image), strength=s)
        for i, (image, s) in enumerate(zip(images, (0.0, 0.7, 0.0), strict=True))
    ]
    out = made(model, *rows)
    assert torch.equal(out[0], images[0]) and torch.equal(out[2], images[2]) and not torch.equal(out[1], images[1])
    assert bool(model.start(rows[:1]).done.all())


@pytest.mark.parametrize("controls", SOLVERS, ids=str)
@each
def test_strength_1_is_a_plain_generation(name: str, controls: dict[str, Any]) -> None:
    """Also on a path that starts at x0 + 80 e, where a trace of the image would be left."""
    model = tiny.sampler(name)
    plain = made(model, row(model, "generate", 3, 1, **controls))
    assert torch.equal(made(model, row(model, "transform", 3, 1, strength=1.0, **controls)), plain)


@each
def test_a_transformation_enters_the_way_by_the_strength_alone(name: str) -> None:
    model = tiny.sampler(name, **({"schedule": "linear"} if name == "ddpm" else {}))
    s, image = 0.6, from_uint8(picture())
    root, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    if name == "ddpm":  # training step 599 of 1000, Ho's beta
        abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[599]
        t = math.sqrt((1 - abar) / abar)
    else:
        t = s if name == "flow" else (root + 400 / 999 * (last - root)) ** 7
    a = 1 - t if name == "flow" else 1.0
    for steps in (4, 10, 50):
        state = model.start([row(model, "transform", 9, image=image, strength=s, steps=steps, solver="euler")])
        assert float(state["t"]) == pytest.approx(t, rel=1e-4)
        expected = a * image + t * noise(9, name, 0, (1, 16, 16))
        assert torch.allclose(state["x"][0], expected, rtol=1e-3, atol=1e-4)


@each
def test_less_strength_costs_less_and_stays_nearer(name: str) -> None:
    model = gaussian(name)
    image = torch.full((1, 16, 16), MU + 2 * SIGMA)
    apart = []
    for strength, evaluations in ((0.1, 1), (0.3, 3), (0.6, 6), (0.9, 9), (1.0, 10)):
        model.calls = []
        asked = row(model, "transform", image=image, strength=strength, steps=10, solver="euler", guidance=1.0)
        states = through(model, model.start([asked]))
        assert len(model.calls) == evaluations
        apart.append((states[-1]["x"] - image).abs().mean().item())
    assert all(a < b + 1e-6 for a, b in pairwise(apart)) and apart[0] < 0.5 * apart[-1], apart


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++"])
@each
def test_no_step_is_so_small_that_it_breaks(name: str, solver: str) -> None:
    model = gaussian(name)
    for steps in (1, 2, 3, 7):
        rows = [
            row(model, "transform", strength=s, steps=steps, solver=solver, guidance=1.0)
            for s in (1e-9, 1e-3, 0.01, 0.15, 0.4, 0.5, 0.6, 2 / 3, 0.9999999)
        ]
        states = through(model, model.start(rows))
        assert all(bool(torch.isfinite(s["x"]).all()) for s in states)
        for before, after in pairwise(states):
            assert bool((after["t"] <= before["t"]).all())


@pytest.mark.usefixtures("float64")
@each
def test_a_transformation_follows_the_ode(name: str) -> None:
    """On a Gaussian its end is known; what is left of the error falls with the steps."""
    model = gaussian(name)
    image = MU + SIGMA * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (20, 40, 80):
        asked = row(model, "transform", image=image, strength=0.5, steps=steps, solver="heun", guidance=1.0)
        state = model.start([asked])
        a, t = float(model.alpha(state["t"])), float(state["t"])
        exact = MU + SIGMA * (state["x"] - a * MU) / math.sqrt(a**2 * SIGMA**2 + t**2)
        errors.append((through(model, state)[-1]["x"] - exact).abs().mean().item())
    assert all(a > 2 * b for a, b in pairwise(errors)), errors


# -- inpaint -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controls", SOLVERS, ids=str)
@each
def test_inpaint_and_transform_pixels_outside_the_mask_byte_equal(name: str, controls: dict[str, Any]) -> None:
    model = tiny.sampler(name)
    image, mask = picture(1), hole()
    rows = [row(model, "inpaint", seed, seed % 3, from_uint8(image), mask, **controls) for seed in range(3)]
    out = made(model, *rows)
    keep = mask == 0
    assert all(torch.equal(one[keep], image[keep]) for one in out)
    assert all((one[~keep] != image[~keep]).any() for one in out), "and inside it is made anew"
    assert not torch.equal(out[0], out[1]), "by the seed"
    everything = row(model, "inpaint", 4, 1, from_uint8(image), torch.ones(1, 16, 16), **controls)
    assert torch.equal(made(model, everything), made(model, row(model, "generate", 4, 1, **controls)))
    nothing = row(model, "inpaint", 4, 1, from_uint8(image), torch.zeros(1, 16, 16), **controls)
    assert torch.equal(made(model, nothing)[0], image)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++"])
@each
def test_outside_the_mask_x_is_the_noised_known_image_at_every_step(name: str, solver: str) -> None:
    model = tiny.sampler(name)
    image, keep = from_uint8(picture(1)), hole() == 0
    state = model.start([row(model, "inpaint", 7, 1, image, steps=6, solver=solver)])
    e = noise(7, name, 0, (1, 16, 16))
    for now in through(model, state):
        expected = model.alpha(now["t"]) * image + now["t"] * e
        scale = 1 + float(now["t"])
        assert ((now["x"][0] - expected)[keep].abs() / scale).max() < 1e-4


@each
def test_the_inside_depends_on_the_outside(name: str) -> None:
    model = tiny.sampler(name)
    a, b = (made(model, row(model, "inpaint", 1, 0, from_uint8(picture(i)))) for i in (1, 2))
    inside = hole()[None] == 1
    assert (a[inside] != b[inside]).any()


# -- mixed batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["transform", "inpaint", "interpolate", "invert"])
@each
def test_rows_of_every_kind_joining_late_equal_their_solo_runs(name: str, task: str) -> None:
    model = tiny.sampler(name)
    more: dict[str, list[dict[str, Any]]] = {
        "transform": [{"strength": s} for s in (0.8, 0.3, 1.0, 0.0, 0.55)],
        "inpaint": [{}] * 5,
        "interpolate": [{"to_seed": 5 * i, "share": i / 4, "to_class": "abc"[i % 3]} for i in range(5)],
        "invert": [{"solver": "euler", "steps": 3}, {"steps": 4}, {"steps": 1}, {"steps": 3}, {"steps": 6}],
    }
    rows = []
    for i, own in enumerate(more[task]):
        mask = torch.roll(hole(), i, dims=2)
        controls = own if task == "invert" else {**SOLVERS[i], **own}
        rows.append(row(model, task, i, i % 3, from_uint8(picture(i)), mask, **controls))
    with torch.inference_mode():
        state = model.start(rows[:3])
        for _ in range(2):
            state = model.step(state)
        state = State.cat([state, model.start(rows[3:])])
        while not bool(state.done.all()):
            state = model.step(state)
        out = model.finish(state)
    solo = [generate(model, [one]) for one in rows]
    assert (out.images.int() - torch.cat([one.images for one in solo]).int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in out.images}) == len(rows)
    for key, found in out.extras.items():
        assert torch.allclose(found, torch.cat([one.extras[key] for one in solo]), atol=1e-2)


# -- invert ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("solver", "low"), [("euler", 1.6), ("heun", 2.5)])
@each
def test_inversion_round_trip_error_falls_with_steps(name: str, solver: str, low: float) -> None:
    model = gaussian(name)
    x0 = MU + SIGMA * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    errors, noises = [], []
    for steps in (25, 50, 100):
        state = model.start([row(model, "invert", image=x0, solver=solver, steps=steps)])
        assert float(state["t"]) == 0 and torch.equal(state["x"][0], x0) and state["steps"].item() == 2 * steps
        states = through(model, state)
        top = model.times(torch.tensor([0]), torch.tensor([steps]))
        a, t = float(model.alpha(top)), float(top)
        exact = (a * MU + math.sqrt(a**2 * SIGMA**2 + t**2) / SIGMA * (x0 - MU)) / t
        noises.append((model.finish(states[-1]).extras["noise"][0] - exact).abs().mean().item())
        errors.append((states[-1]["x"] - x0).abs().mean().item())
    assert all(a > low * b for a, b in pairwise(errors)), errors
    assert all(a > b for a, b in pairwise(noises)) and noises[-1] < 0.1, noises
    assert errors[-1] < 0.02


@each
def test_the_noise_found_makes_the_picture(name: str) -> None:
    model = tiny.sampler(name)
    with torch.inference_mode():
        done = through(model, model.start([row(model, "invert", label=1, steps=5, solver="euler")]))[-1]
        found = model.finish(done)
        state = model.start([row(model, "generate", label=1, steps=5, solver="euler", guidance=1.0)])
        state = state.replace(x=state["t"][:, None, None, None] * found.extras["noise"])
        again = model.finish(through(model, state)[-1]).images
    assert (again.int() - found.images.int()).abs().max() <= 1


# -- interpolate -------------------------------------------------------------------------------------------------------


@each
def test_interpolation_ends_at_both_seeds_and_classes(name: str) -> None:
    model = tiny.sampler(name)
    controls: dict[str, Any] = {"to_seed": 8, "to_class": "c", "solver": "heun", "steps": 4}
    plain = {"solver": "heun", "steps": 4}
    here, there = (made(model, row(model, "generate", seed, label, **plain)) for seed, label in ((2, 0), (8, 2)))
    assert torch.equal(made(model, row(model, "interpolate", 2, 0, share=0.0, **controls)), here)
    assert torch.equal(made(model, row(model, "interpolate", 2, 0, share=1.0, **controls)), there)
    between = made(model, row(model, "interpolate", 2, 0, share=0.5, **controls))
    assert not torch.equal(between, here) and not torch.equal(between, there)
    own = made(model, row(model, "interpolate", 2, 0, to_seed=2, share=0.5, **plain))
    assert torch.equal(own, here), "from a seed to itself is no way at all"


def test_noise_is_slerped_and_labels_are_lerped() -> None:
    model = tiny.sampler("flow")
    a, b = (noise(seed, "flow", 0, (1, 16, 16)).double().flatten() for seed in (2, 8))
    angle = math.acos(float(a @ b / a.norm() / b.norm()))
    state = model.start([row(model, "interpolate", 2, 0, to_seed=8, to_class="c", share=0.25)])
    expected = (math.sin(0.75 * angle) * a + math.sin(0.25 * angle) * b) / math.sin(angle)
    assert torch.allclose(state["x"].flatten().double(), expected, atol=1e-5)
    assert state["y"].tolist() == [[0.75, 0.0, 0.25, 0.0]]
    assert abs(state["x"].std().item() - 1) < 0.1, "a straight line would lose a fifth of the deviation here"


def test_the_class_to_go_to_is_one_of_the_models() -> None:
    shape = tiny.spec().model_copy(update={"classes": ("0", "1", "2")})
    model = tiny.sampler("flow", shape=shape)
    assert row(model, "interpolate", to_class=1).controls.to_class == "1", "--set to_class=1 is read as a number"
    with pytest.raises(ConfigError, match="to_class"):
        row(model, "interpolate", to_class="boot")
    plain = tiny.sampler("flow", shape=tiny.spec(classes=0)).capabilities()["interpolate"].controls
    assert "to_class" not in plain.model_fields


# -- the model ---------------------------------------------------------------------------------------------------------


def test_python_takes_images_and_masks_of_any_size(tmp_path: Path) -> None:
    model = load(save(tiny.sampler("flow"), "f", PROVENANCE, CARD, root=tmp_path,
                      defaults={"generate": {"steps": 3, "guidance": 2.5}}))  # fmt: skip
    assert list(model.manifest.tasks) == ["generate", "transform", "inpaint", "interpolate", "invert"]
    assert model.manifest.tasks["transform"].defaults == {"steps": 3, "guidance": 2.5}
    assert model.controls("inpaint").steps == 3 and model.controls("invert").steps == 25

    large = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    mask[:40] = 200
    given = model.transform(large, ["a"], strength=0)
    assert (given.images[0] == given.inputs[0].pixels).all() and "40x40" in given.inputs[0].note
    out = model.inpaint([large, large], mask, ["a", "b"], seed=4)
    assert (out.images[:, :, 8:] == given.images[:, :, 8:]).all() and (
        out.images[:, :, :8] != given.images[:, :, :8]
    ).any()
    assert out.masks[0].pixels[0, :, 0].tolist() == [255] * 8 + [0] * 8, "white from the half on"
    assert out.recipe_of(1)["mask"] == out.masks[0].sha256 and out.seeds == (4, 5)
    assert (model.interpolate(["a"], seed=1, to_seed=1).images == model.sample(["a"], 1, 1).images).all()
    with pytest.raises(DataError, match="mask of 80x40 pixels for an image of 40x40"):
        model.inpaint(large, mask[:40], ["a"])
    with pytest.raises(ConfigError, match="no mask for the task 'inpaint'"):
        model.run("inpaint", ["a"], images=large)
    with pytest.raises(ConfigError, match="masks for the task 'transform', which takes none"):
        model.run("transform", ["a"], images=large, masks=mask)
    with pytest.raises(ConfigError, match="no class for the task 'transform'"):
        model.transform(large)


def test_rows_take_masks_in_turn() -> None:
    model = tiny.sampler("flow")
    masks = [hole(), 1 - hole()]
    rows = rows_for(model, [0], 4, 0, task="inpaint", images=[from_uint8(picture())], masks=masks)
    assert [row.mask is masks[i % 2] for i, row in enumerate(rows)] == [True] * 4
