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
from PIL import Image
from torch import Tensor

from kartina.config import read
from kartina.errors import ConfigError, DataError
from kartina.generators.base import Batch, Family, Row, State, from_uint8, generate, noise, rows_for, to_uint8
from kartina.generators.diffusive import DiffusiveFamily, slerp
from kartina.handlers.publish import pictures
from kartina.models.model import Model, load, save
from kartina.training.loop import train
from kartina.training.run import Run
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
    {"solver": "deis", "steps": 5, "spacing": 1.5},
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


def row(
    model: Family,
    task: str,
    seed: int = 0,
    label: int = 0,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    to_image: Tensor | None = None,
    **controls: Any,
) -> Row:
    settings = read(model.capabilities()[task].controls, controls, "test")
    usual = {"image": from_uint8(picture()), "to_image": from_uint8(picture(1)), "mask": hole()}
    given = {"image": image, "to_image": to_image, "mask": mask}
    inputs = {kind: usual[kind] if given[kind] is None else given[kind] for kind in model.capabilities()[task].inputs}
    return Row(torch.eye(3)[label], seed, settings, task, inputs)


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
        asked = row(
            model, "transform", image=image, strength=strength, steps=10, solver="euler", guidance=1.0, spacing=1.0
        )
        states = through(model, model.start([asked]))
        assert len(model.calls) == evaluations
        apart.append((states[-1]["x"] - image).abs().mean().item())
    assert all(a < b + 1e-6 for a, b in pairwise(apart)) and apart[0] < 0.6 * apart[-1], apart


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++", "deis"])
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
        asked = row(
            model, "transform", image=image, strength=0.5, steps=steps, solver="heun", guidance=1.0, spacing=1.0
        )
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
    # The cosine schedule starts at t = 20,000, where float32 rounds x to a thousandth.
    model = tiny.sampler(name, **({"schedule": "linear"} if name == "ddpm" else {}))
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


@pytest.mark.parametrize("task", ["transform", "inpaint", "interpolate", "invert", "morph"])
@each
def test_rows_of_every_kind_joining_late_equal_their_solo_runs(name: str, task: str) -> None:
    model = tiny.sampler(name)
    more: dict[str, list[dict[str, Any]]] = {
        "transform": [{"strength": s} for s in (0.8, 0.3, 1.0, 0.0, 0.55)],
        "inpaint": [{}] * 5,
        "interpolate": [{"to_seed": 5 * i, "share": i / 4, "to_class": "abc"[i % 3]} for i in range(5)],
        "invert": [{"solver": "euler", "steps": 3}, {"steps": 4}, {"steps": 1}, {"steps": 3}, {"steps": 6}],
    }
    more["morph"] = [{**own, "share": i / 4, "to_class": "abc"[-i % 3]} for i, own in enumerate(more["invert"])]
    rows = []
    for i, own in enumerate(more[task]):
        mask = torch.roll(hole(), i, dims=2)
        controls = own if task in ("invert", "morph") else {**SOLVERS[i], **own}
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
@pytest.mark.parametrize(("solver", "low"), [("euler", 1.5), ("heun", 2.5)])
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
    # DDPM's is small from the start, and does not fall evenly.
    assert noises[-1] < 0.1 and (name == "ddpm" or all(a > b for a, b in pairwise(noises))), noises
    assert errors[-1] < 0.02


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "config"), [("flow", {}), ("ddpm", {"states": "image"}), ("ddpm", {"states": "image", "snr_max": 5.0})]
)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_more_steps_of_an_inversion_are_closer_where_the_network_states_a_wrong_image(
    name: str, config: dict[str, Any], solver: str
) -> None:
    """One that errs by as much near the image as elsewhere: (x - D) / t is as wrong as t is small."""
    model = gaussian(name, **config)
    exact = model.denoise
    model.denoise = lambda x, t, y, **more: exact(x, t, y, **more) + 0.05 * torch.sin(7 * x)
    x0 = MU + SIGMA * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (25, 100, 400):
        done = through(model, model.start([row(model, "invert", image=x0, solver=solver, steps=steps)]))[-1]
        errors.append((done["x"] - x0).square().mean().sqrt().item())
    assert errors[2] < 0.01 and (solver == "heun" or errors[2] < errors[1] < errors[0]), errors


@each
def test_the_noise_found_makes_the_picture(name: str) -> None:
    model = tiny.sampler(name)
    with torch.inference_mode():
        done = through(model, model.start([row(model, "invert", label=1, steps=5, solver="euler")]))[-1]
        found = model.finish(done)
        state = model.start([row(model, "generate", label=1, steps=5, solver="euler", guidance=1.0, spacing=1.0)])
        state = state.replace(x=state["t"][:, None, None, None] * found.extras["noise"])
        again = model.finish(through(model, state)[-1]).images
    assert (again.int() - found.images.int()).abs().max() <= 1


# -- morph ------------------------------------------------------------------------------------------------------------


@each
def test_a_morph_ends_where_the_inversions_of_both_images_end(name: str) -> None:
    """And halfway it is made from the noise that lies halfway between, with half of each class."""
    model = tiny.sampler(name)
    a, b, plain = from_uint8(picture(3)), from_uint8(picture(4)), {"steps": 4, "solver": "euler"}
    with torch.inference_mode():
        one, other = (generate(model, [row(model, "invert", label=k, image=x, **plain)]) for x, k in ((a, 0), (b, 2)))
        asked = [row(model, "morph", image=a, to_image=b, share=s, to_class="c", **plain) for s in (0, 0.5, 1)]
        start, half, end = (generate(model, [one]) for one in asked)
        state = model.start([row(model, "generate", label=0, guidance=1.0, spacing=1.0, **plain)])
        between = slerp(one.extras["noise"], other.extras["noise"], torch.tensor([0.5]))
        y = torch.tensor([[0.5, 0, 0.5, 0]])
        made_of = model.finish(through(model, state.replace(x=state["t"][:, None, None, None] * between, y=y))[-1])
    for found, expected in ((start, one), (end, other)):
        assert (found.images.int() - expected.images.int()).abs().max() <= 1
    assert (half.images.int() - made_of.images.int()).abs().max() <= 1
    assert torch.allclose(half.extras["noise"], between, atol=1e-4)
    assert not torch.equal(half.images, start.images) and not torch.equal(half.images, end.images)


def test_slerp_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    found = slerp(a, b, torch.tensor([1 / 3, 0.5, 0.5]))
    assert torch.allclose(found[0], torch.tensor([math.sqrt(3) / 2, 0.5])), "a third of a right angle"
    assert torch.equal(found[1], a[1]), "no way between equals"
    assert torch.allclose(found[2], torch.tensor([math.sqrt(2), 3 / math.sqrt(2)])), "lengths are not made equal"


def test_slerp_of_neighbours_and_of_opposites_is_a_number() -> None:
    """Float32 tells no angle between them, or no plane: the arc is its chord."""
    a = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for moved in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        b = a.clone()
        b[0, 0, 3, 3] += moved
        for share in (0.0, 0.3, 1.0):
            assert torch.allclose(slerp(a, b, torch.tensor([share])), torch.lerp(a, b, share), rtol=0, atol=1e-6)
    assert torch.equal(slerp(a, -a, torch.tensor([0.25])), a / 2)


@each
def test_a_morph_of_neighbours_ends_as_both(name: str) -> None:
    model = tiny.sampler(name)
    a = from_uint8(picture(3))
    b = a.clone()
    b[0, 3, 3] += 1e-5
    asked = [row(model, "morph", image=a, to_image=b, share=s, steps=4, solver="euler") for s in (0, 0.5, 1)]
    with torch.inference_mode():
        done = through(model, model.start(asked))[-1]
    assert bool(done["x"].isfinite().all()) and bool(done["noise"].isfinite().all())
    assert (done["x"][1] - done["x"][0]).abs().max() < 0.05


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
    assert list(model.manifest.tasks) == ["generate", "transform", "inpaint", "interpolate", "invert", "morph"]
    assert model.manifest.tasks["transform"].defaults == {"steps": 3, "guidance": 2.5}
    assert model.controls("inpaint").steps == 3 and model.controls("invert").steps == 25

    large = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    mask[:40] = 200
    given = model.transform(large, ["a"], strength=0)
    assert (given.images[0] == given.given[0].pixels).all() and "40x40" in given.given[0].note
    out = model.inpaint([large, large], mask, ["a", "b"], seed=4)
    assert (out.images[:, :, 8:] == given.images[:, :, 8:]).all() and (
        out.images[:, :, :8] != given.images[:, :, :8]
    ).any()
    assert out.inputs["mask"][0].pixels[0, :, 0].tolist() == [255] * 8 + [0] * 8, "white from the half on"
    assert out.recipe_of(1)["mask"] == out.inputs["mask"][0].sha256 and out.seeds == (4, 5)
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
    rows = rows_for(model, [0], 4, 0, task="inpaint", inputs={"image": [from_uint8(picture())], "mask": masks})
    assert [row.inputs["mask"] is masks[i % 2] for i, row in enumerate(rows)] == [True] * 4


# -- an image beside x -------------------------------------------------------------------------------------------------


def colour(n: int, seed: int = 0, size: int = 16) -> Tensor:
    """float32 n,3,size,size of 256 levels."""
    rng = torch.Generator().manual_seed(seed)
    return from_uint8(torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8))


def test_the_source_is_the_pairs_the_small_or_the_grey_image() -> None:
    images = colour(4)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.rand(4, 1, 16, 16) * 2 - 1)
    files = [Image.fromarray(to_uint8(one[None])[0].permute(1, 2, 0).numpy()) for one in images]
    shape = tiny.spec(16, 3)
    pairs = tiny.family("flow-pairs", shape=shape)
    assert pairs.source(batch) is batch.sources

    grey = to_uint8(tiny.family("flow", shape=shape, source="colorize").source(batch))
    luma = np.stack([np.asarray(file.convert("L"))[None] for file in files])
    assert np.abs(grey.numpy().astype(int) - luma).max() <= 1, "as PIL makes an image grey"

    small = torch.stack([torch.from_numpy(np.asarray(file.reduce(4)).copy()).permute(2, 0, 1) for file in files])
    large = tiny.family("flow", shape=shape, source="upscale").source(batch)
    assert large.shape == images.shape
    expected = torch.nn.functional.interpolate(from_uint8(small), size=(16, 16), mode="bicubic").clamp(-1, 1)
    assert (large - expected).abs().max() < 0.05, "as PIL averages squares"
    assert tiny.family("flow", shape=shape).source(batch) is None


@pytest.mark.parametrize(("source", "task"), [("pairs", "translate"), ("upscale", "upscale"), ("colorize", "colorize")])
@each
def test_the_source_is_seen_and_by_every_evaluation(name: str, source: str, task: str) -> None:
    """Also by the one without the label, and by the weak network's."""
    shape = tiny.fitted("flow-pairs", tiny.spec(16, 3))
    model = tiny.sampler(name, shape=shape, source=source, weak_share=0.5)
    assert list(model.capabilities()) == [task]
    given = tiny.inputs(model, task, 2)
    for controls in ({"guidance": 1.0}, {"guidance": 3.0}, {"guidance": 2.0, "guide": "weak"}):
        one, other = (made(model, row(model, task, 5, 1, image, steps=3, **controls)) for image in given["image"])
        assert (one != other).any()
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.8]), torch.eye(4)[[0, 1]]
    beside = torch.randn(2, model.source_channels, 16, 16)
    weak, w = torch.tensor([True, False]), torch.tensor([2.0, 3.0])
    with torch.inference_mode():
        strong, null = model.denoise(x, t, y, None, beside), model.denoise(x, t, torch.eye(4)[[3, 3]], None, beside)
        poor = model.denoise(x, t, y, model.weak, beside)
        found = DiffusiveFamily.guided(model, x, t, y, w, weak, beside)
    assert torch.allclose(found[0], poor[0] + 2 * (strong[0] - poor[0]), atol=1e-3, rtol=1e-3)
    assert torch.allclose(found[1], null[1] + 3 * (strong[1] - null[1]), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_network_learns_to_look_at_its_source() -> None:
    """On pairs where the target is the source's negative, the loss falls below what no source allows."""
    torch.manual_seed(0)
    model = tiny.family("flow-pairs", widths=(16, 32), stem=2, dropout=0.0).train()
    optimiser = torch.optim.Adam(model.generator.parameters(), lr=4e-3)
    losses = []
    for step in range(120):
        rng = torch.Generator().manual_seed(step)
        target = torch.rand(8, 1, 1, 1, generator=rng).expand(-1, -1, 16, 16) * 2 - 1
        batch = Batch(target, torch.zeros(8, dtype=torch.int64), torch.arange(8), -target.expand(-1, 3, -1, -1))
        z = torch.full((8,), 3.0)  # nearly all noise: the image can only come from the source
        optimiser.zero_grad()
        loss = model.error(target, torch.randn(target.shape, generator=rng), z, batch.labels, model.source(batch))
        loss.total.backward()
        optimiser.step()
        losses.append(loss.total.item())
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:3]), losses[::12]


def test_what_has_no_source_is_refused_in_words() -> None:
    for config, shape, words in (
        ({"source": "pairs"}, tiny.spec(16, 3), "without pairs.*SPLIT/A"),
        ({"source": "upscale", "factor": 3}, tiny.spec(16, 3), "16x16.*multiples of 3.*--size"),
        ({"source": "colorize"}, tiny.spec(16, 1), "1 channels.*--channels 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny.family("flow", shape=shape, **config)


def test_a_small_image_is_taken_as_it_is_and_a_large_one_made_small(tmp_path: Path) -> None:
    model = load(save(tiny.sampler("edm-upscale", shape=tiny.spec(16, 3)), "up", PROVENANCE, CARD, root=tmp_path))
    large = to_uint8(colour(1))[0].permute(1, 2, 0).numpy()
    small = np.asarray(Image.fromarray(large).reduce(4))
    one, other = model.upscale(large, ["a"], seed=3), model.upscale(small, ["a"], seed=3)
    assert one.images.shape == (1, 3, 16, 16) and (one.images == other.images).all()
    assert other.given[0].note == "" and one.given[0].note == "16x16 made 4 times smaller"
    assert model.upscale(np.zeros((9, 9, 3), np.uint8), ["a"]).given[0].note == "9x9 scaled to 4x4"
    assert "40x64 cut to its middle 40x40 and scaled to 16x16, made 4 times smaller" in (
        model.upscale(np.zeros((64, 40, 3), np.uint8), ["a"]).given[0].note
    )
    sheet = one.grid(scale=1)
    assert sheet.size == (2 * 18 + 2, 18 + 2), "the small image as squares beside the large one"


def test_colours_of_the_input_are_not_looked_at() -> None:
    model = Model(tiny.sampler("flow", shape=tiny.spec(16, 3), source="colorize"), "colours")
    image = to_uint8(colour(1))[0].permute(1, 2, 0).numpy()
    plain = np.asarray(Image.fromarray(image).convert("L"))
    assert (model.colorize(image, ["a"]).images == model.colorize(plain, ["a"]).images).all()


@pytest.mark.parametrize("source", ["pairs", "upscale", "colorize"])
def test_grids_and_sheets_show_what_the_model_starts_from(source: str, home: Path) -> None:
    """Data with pairs, of which only source=pairs takes the sources."""
    data = tiny.store(tiny.images(30, tiny.fitted("flow-pairs", tiny.spec(16, 3))), home)
    config = tiny.run_config("flow", data, 16, grids=1)
    run = Run.create(config.model_copy(update={"config": {**tiny.TINY["flow"], "source": source}}))
    train(run)
    val = data.part("val")
    (grid,) = (run.path / "grids").glob("*.png")
    sheet = np.asarray(Image.open(grid)).transpose(2, 0, 1)
    first = val.images[0]
    colours = np.repeat(np.asarray(Image.fromarray(first.transpose(1, 2, 0)).convert("L"))[None], 3, axis=0)
    squares = np.asarray(Image.fromarray(first.transpose(1, 2, 0)).reduce(4)).transpose(2, 0, 1)
    wanted = {
        "pairs": np.repeat(val.sources[0], 3, axis=0),
        "upscale": squares.repeat(4, axis=1).repeat(4, axis=2),
        "colorize": colours,
    }[source]
    shown = sheet[:, 2:66:4, 2:66:4] if sheet.shape[2] > 150 else sheet[:, 2:18, 2:18]
    assert np.abs(shown.astype(int) - wanted).max() <= 1
    files = pictures(Model(run.ema("cpu"), run.id), data)
    assert "samples.png" in files
