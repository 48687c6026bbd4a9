"""What every registered family promises, on a tiny instance of each. A family is tested by being registered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kartina import registry
from kartina.config import TrainConfig, read
from kartina.generators.base import At, Batch, State, from_uint8, generate, rows_for
from tests import tiny

FAMILIES = registry.names()
each = pytest.mark.parametrize("name", sorted(tiny.TINY))
RUSSIAN = Path(__file__).parents[2] / "web" / "src" / "lib" / "i18n" / "controls.ru.json"  # what the page calls them


def at(step: int = 0, classes: int = 3, seed: int = 0) -> At:
    return At(step, step * 8, 1000, torch.Generator().manual_seed(seed), torch.ones(classes) / classes)


def batch(n: int = 8, shape: tuple[int, int, int] = (1, 16, 16), classes: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(n, *shape, generator=rng) * 2 - 1
    sources = torch.rand(n, tiny.source_channels(shape[0]), *shape[1:], generator=rng) * 2 - 1  # for pairs
    return Batch(x, torch.arange(n) % classes, torch.arange(n), sources)


def train_steps(family: torch.nn.Module, steps: int, bf16: bool = False, **kwargs: object) -> None:
    phases = family.phases()
    optimisers = {p.name: torch.optim.Adam(p.params, lr=1e-2) for p in phases}
    for step in range(steps):
        for phase in phases:
            optimisers[phase.name].zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = family.loss(phase.name, batch(**kwargs), at(step, seed=step))
            assert loss.total.shape == () and torch.isfinite(loss.total)
            assert all(v.dim() == 0 and not v.requires_grad for v in loss.stats.values())
            loss.total.backward()
            optimisers[phase.name].step()


def test_tiny_covers_every_family() -> None:
    assert {tiny.kind(name).name for name in tiny.TINY} == set(FAMILIES) <= set(tiny.TINY)


def test_every_preset_is_valid() -> None:
    for name, (family, preset) in registry.presets().items():
        cls = registry.family(family)
        config = read(cls.Config, preset.config, name)
        read(TrainConfig, preset.train, name)
        assert not set(cls.Config.model_fields) & set(TrainConfig.model_fields), "--set would be ambiguous"
        with torch.device("meta"):
            cls(config, tiny.fitted(family, tiny.spec(preset.size, 3, 10), preset.config))
        assert name.startswith(family.replace("_", "-")) or name.startswith(family)
        assert str(preset.size) in name.split("-")


@each
def test_parts_exist_and_cover_sampling(name: str) -> None:
    family = tiny.family(name)
    assert set(family.parts) <= {n for n, _ in family.named_children()}
    state = family.sampler().state_dict()
    assert {k.split(".")[0] for k in state} == set(family.parts)


@each
def test_same_seed_same_weights(name: str) -> None:
    a, b, c = tiny.family(name, 3), tiny.family(name, 3), tiny.family(name, 4)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


@each
@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_reaches_every_parameter(name: str, bf16: bool) -> None:
    """After three steps, because zero-initialised gates hold gradients back at first."""
    family = tiny.family(name).train()
    train_steps(family, 3, bf16)
    for phase in family.phases():
        family.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = family.loss(phase.name, batch(), at(3))
        loss.total.backward()
        if phase.every == 1:
            named = [(k, p) for k, p in family.named_parameters() if any(p is q for q in phase.params)]
            # In bfloat16 the terms of a single number may cancel to 0.
            one = 1 if bf16 else 0
            silent = [k for k, p in named if p.grad is None or not (p.grad.any() or p.numel() == one)]
            assert not silent, f"{phase.name}: no gradient for {silent}"
    asking = {id(p) for p in family.parameters() if p.requires_grad}  # a copy that the family keeps asks for none
    assert {id(p) for phase in family.phases() for p in phase.params} == asking


@each
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 3])
def test_trains_and_samples_grey_and_colour_with_and_without_classes(name: str, channels: int, classes: int) -> None:
    shape = tiny.spec(16, channels, classes)
    family = tiny.family(name, shape=shape).train()
    train_steps(family, 1, shape=(channels, 16, 16), classes=max(1, classes))
    out = generate(family.eval(), tiny.rows(family, [0], 2, 0)).images
    assert out.shape == (2, channels, 16, 16) and out.dtype == torch.uint8


@each
def test_an_image_is_a_function_of_its_own_row(name: str) -> None:
    family = tiny.sampler(name)
    rows = tiny.rows(family, [0, 1, 2], 8, seed=7)
    together = generate(family, rows, batch=8).images
    alone = torch.cat([generate(family, [row]).images for row in rows])
    assert (together.int() - alone.int()).abs().max() <= 1
    shuffled = generate(family, rows[::-1], batch=3).images.flip(0)
    assert (together.int() - shuffled.int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in together}) > 4, "seeds should matter"


@each
def test_same_request_same_bytes(name: str) -> None:
    family = tiny.sampler(name)
    rows = tiny.rows(family, [1], 4, seed=5)
    assert torch.equal(generate(family, rows).images, generate(family, rows).images)


@each
def test_the_label_matters_and_mixes(name: str) -> None:
    family = tiny.sampler(name)
    a, b = (generate(family, tiny.rows(family, [k], 1, seed=3)).images for k in (0, 1))
    if not getattr(family.config, "conditional", True):  # a family that is unconditional by definition
        assert torch.equal(a, b)
        return
    assert not torch.equal(a, b)
    row = tiny.rows(family, [0], 1, 3)[0]
    half = replace(row, weights=torch.tensor([0.5, 0.5, 0.0]))
    mixed = generate(family, [half]).images
    assert not torch.equal(mixed, a) and not torch.equal(mixed, b)


@each
def test_sampling_ignores_the_global_generator_and_gradients(name: str) -> None:
    family = tiny.sampler(name)
    torch.manual_seed(1)
    first = generate(family, tiny.rows(family, [0], 2, 0)).images
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(first, generate(family, tiny.rows(family, [0], 2, 0)).images)
    assert torch.equal(before, torch.random.get_rng_state())


@each
def test_rows_at_different_steps_join_and_leave(name: str) -> None:
    family = tiny.sampler(name)
    rows = tiny.rows(family, [0, 1, 2], 3, seed=11)
    with torch.inference_mode():
        state = family.start(rows[:2])
        state = family.step(state)
        state = State.cat([state, family.start(rows[2:])])
        while not bool(state.done.all()):
            state = family.step(state)
        order = state.take(torch.tensor([2, 0, 1]))
        out = family.finish(order).images
    solo = torch.cat([generate(family, [row]).images for row in rows])[[2, 0, 1]]
    assert (out.int() - solo.int()).abs().max() <= 1


@each
def test_a_finished_row_is_left_alone(name: str) -> None:
    family = tiny.sampler(name)
    with torch.inference_mode():
        state = family.start(tiny.rows(family, [0], 1, 0))
        while not bool(state.done.all()):
            state = family.step(state)
        once = family.finish(state).images
        again = family.finish(family.step(state)).images
    assert torch.equal(once, again)


@each
def test_interpolation_ends_at_both_seeds_and_classes_and_stays_where_none_is_named(name: str) -> None:
    family = tiny.sampler(name)
    tasks = family.capabilities()
    if "generate" not in tasks:
        assert "interpolate" not in tasks, "it starts from an image"
        return

    def made(seed: int, label: int, task: str = "generate", **controls: object) -> torch.Tensor:
        asked = tasks[task].controls(**controls)
        return generate(family, rows_for(family, [label], 1, seed, asked, task)).images

    to = {"to_class": "c"} if "to_class" in tasks["interpolate"].controls.model_fields else {}
    label = 2 if to else 0
    here, there = made(2, 0), made(8, label)
    assert torch.equal(made(2, 0, "interpolate", to_seed=8, share=0.0, **to), here)
    assert torch.equal(made(2, 0, "interpolate", to_seed=8, share=1.0, **to), there)
    between = made(2, 0, "interpolate", to_seed=8, share=0.5, **to)
    assert not torch.equal(between, here) and not torch.equal(between, there)
    assert torch.equal(made(2, 0, "interpolate", share=0.5), here), "there is nowhere to go"
    assert torch.equal(made(2, 0, "interpolate", share=1.0, **to), made(2, label)), "of the same seed"


@each
def test_controls_are_json_schema_with_defaults_and_descriptions(name: str) -> None:
    family = tiny.sampler(name)
    russian = json.loads(RUSSIAN.read_text())
    for task, capability in family.capabilities().items():
        schema = capability.controls.model_json_schema()
        assert schema["additionalProperties"] is False, task
        for key, field in schema.get("properties", {}).items():
            assert "default" in field and field.get("description"), f"{task}.{key}"
            assert russian[key].keys() == {"title", "description"}, f"{task}.{key}"


@each
def test_a_size_that_does_not_fit_is_refused_in_words(name: str) -> None:
    from kartina.errors import ConfigError

    shape = tiny.spec().model_copy(update={"height": 4095, "width": 4095})  # odd, and too large for a perceptron
    with pytest.raises(ConfigError, match=r"4095x4095.*--size"):
        tiny.family(name, shape=shape)


def test_uint8_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    from kartina.generators.base import to_uint8

    assert torch.equal(to_uint8(from_uint8(every)), every)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
