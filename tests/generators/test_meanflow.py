"""MeanFlow: the JVP, the identity on a Gaussian with a known average velocity, times, guidance, one-step sampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kartina.config import ImageSpec
from kartina.generators.base import At, Batch, Family, Row, State, generate, noise, to_uint8
from kartina.generators.meanflow import MeanFlow, MeanFlowControls
from tests import tiny

MU, SIGMA = 0.3, 0.25


def at(seed: int = 0) -> At:
    return At(0, 0, 1, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 64) -> Batch:
    images = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(images, torch.arange(n) % 3, torch.arange(n))


def row(seed: int, label: int = 0, steps: int = 1) -> Row:
    return Row(torch.eye(3)[label], seed, MeanFlowControls(steps=steps))


def run(model: MeanFlow, rows: list[Row]) -> Tensor:
    """Float images N,C,H,W at the end of the path."""
    with torch.inference_mode():
        state = model.start(rows)
        while not bool(state.done.all()):
            state = model.step(state)
    return state["z"]


def column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def double() -> tuple[MeanFlow, Tensor, Tensor, Tensor, Tensor]:
    """A tiny float64 network with opened gates; z, r < t (one r is 0) and label weights."""
    model = tiny.sampler("meanflow").double()
    z = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    r = torch.tensor([0.0, 0.1, 0.4, 0.85], dtype=torch.float64)
    t = torch.tensor([1.0, 0.3, 0.9, 0.95], dtype=torch.float64)
    return model, z, r, t, torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_validation_is_the_flow_of_the_map_against_what_training_aims_at(guidance: float) -> None:
    model, given = tiny.sampler("meanflow", guidance=guidance), batch()
    assert isinstance(model, MeanFlow)
    found, rng = model.validate(given, at(), model), torch.Generator().manual_seed(0)
    t = torch.sigmoid(torch.randn(2, 64, generator=rng) * model.config.t_std + model.config.t_mean).amax(dim=0)
    z = torch.lerp(given.images, torch.randn(given.images.shape, generator=rng), column(t))
    made = model.generator(z, t, torch.eye(4)[given.labels], torch.zeros(64))
    assert found["mse"].item() == pytest.approx((made - given.images).square().mean().item(), rel=1e-5)
    null = model.generator(z, t, torch.eye(4)[[3] * 64], torch.zeros(64))
    aim = guidance * given.images + (1 - guidance) * null
    weighted = (made - aim).square().mean(dim=[1, 2, 3]) / t.clamp(min=model.config.t_min) ** 2
    assert found["loss"].item() == pytest.approx(weighted.mean().item(), rel=1e-5)


# -- the identity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("still", [False, True])
def test_jvp_against_central_differences(still: bool) -> None:
    """Through the real network in float64; with `still`, the change with time alone."""
    model, z, r, t, y = double()
    dz, h = torch.zeros_like(z) if still else torch.randn_like(z), 1e-4
    clean, change = model.along(z, r, t, y, dz)
    ahead = model.clean(z + h * dz, r, t + h * (t - r), y)
    behind = model.clean(z - h * dz, r, t - h * (t - r), y)
    expected = (ahead - behind) / (2 * h)
    assert torch.allclose(clean, model.clean(z, r, t, y), rtol=1e-10, atol=1e-10), "the primal is the plain forward"
    for n in range(len(z)):
        assert expected[n].norm() > 1e-3
        assert (change[n] - expected[n]).norm() < 1e-4 * expected[n].norm()


def test_the_identity_for_images_is_the_papers_for_velocities() -> None:
    """z_t - t u_target, with u_target = v - (t-r) du/dt by torch.func on u itself, tangents (v, 0, 1)."""
    model, z, r, t, y = double()
    x = torch.rand_like(z)
    v = (z - x) / column(t)

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return (z - model.clean(z, r, t, y)) / column(t)

    with sdpa_kernel(SDPBackend.MATH):
        _, slope = torch.func.jvp(u, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
    expected = z - column(t) * (v - column(t - r) * slope)
    assert torch.allclose(model.identity(z, r, t, y, x)[1], expected, rtol=1e-9, atol=1e-9)


class Gaussian(MeanFlow):
    """Data ~ N(MU, SIGMA^2) per pixel, for which the path is known: z_r - (1-r) MU is proportional to its deviation."""

    calls: list[int]

    def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.calls.append(len(z))
        r, t = column(r), column(t)
        z_r = (1 - r) * MU + deviation(r) / deviation(t) * (z - (1 - t) * MU)
        return z - t * (z - z_r) / (t - r)


class Instant(MeanFlow):
    """The same data; v in the place of u: right at r = t, wrong elsewhere."""

    def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return posterior_mean(z, t)


def deviation(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * SIGMA**2 + t**2).sqrt()


def posterior_mean(z: Tensor, t: Tensor) -> Tensor:
    """E[x | z_t] = z_t - t v of the marginal velocity v."""
    t = column(t)
    return MU + (1 - t) * SIGMA**2 / deviation(t) ** 2 * (z - (1 - t) * MU)


def closed(kind: type[MeanFlow]) -> Any:
    model = kind(MeanFlow.Config(**tiny.TINY["meanflow"]), tiny.spec()).sampler()
    model.calls = []
    return model


def test_the_identity_holds_on_a_gaussian_and_only_for_the_average_velocity() -> None:
    _, z, r, t, y = double()
    aim = posterior_mean(z, t)
    clean, target = closed(Gaussian).identity(z, r, t, y, aim)
    assert torch.allclose(clean, target, rtol=0, atol=1e-12)
    clean, target = closed(Instant).identity(z, r, t, y, aim)
    assert ((clean - target).flatten(1).abs().mean(dim=1) > 1e-3).all(), "v in u's place is found out"
    clean, target = closed(Instant).identity(z, t, t, y, aim)
    assert torch.allclose(clean, target, rtol=0, atol=1e-12), "but at r = t it is right"


def test_no_gradient_through_the_target() -> None:
    model = tiny.family("meanflow")
    t = torch.tensor([0.7, 0.9])
    clean, target = model.identity(torch.randn(2, 1, 16, 16), t / 2, t, torch.eye(4)[:2], torch.zeros(2, 1, 16, 16))
    assert clean.requires_grad and not target.requires_grad


# -- the loss --------------------------------------------------------------------------------------------------------


class Linear(MeanFlow):
    """X = 0.6 z + 0.3 t - 0.2 r, which notes what it is asked for, and how many rows each JVP has."""

    asked: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    jvps: list[int]

    def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.asked.append((z, r, t, y))
        return 0.6 * z + 0.3 * column(t) - 0.2 * column(r)

    def along(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        self.jvps.append(len(z))
        return super().along(z, r, t, y, dz)


def linear(**config: Any) -> Linear:
    model = Linear(MeanFlow.Config(**{**tiny.TINY["meanflow"], **config}), tiny.spec())
    model.asked, model.jvps = [], []
    return model


def test_the_share_of_r_apart_from_t_as_drawn() -> None:
    """MeanFlow with r = t only is wrong but passes: 3 of 4 images have r < t, and those alone get a JVP."""
    model = linear(guidance=1.0, apart=0.75, t_mean=-0.4, t_std=1.0)
    for seed in range(50):
        model.loss("meanflow", batch(), at(seed))
    assert model.jvps == [48] * 50 and [len(z) for z, *_ in model.asked] == [48, 16] * 50
    r, t = (torch.cat([call[i] for call in model.asked[::2]]) for i in (1, 2))
    assert (r < t).all() and (t - r).mean() > 0.15, "far apart, not by rounding"
    both = torch.logit(torch.cat([r, t]).double())
    assert both.mean().item() == pytest.approx(-0.4, abs=0.05) and both.std().item() == pytest.approx(1, abs=0.05)
    assert all(torch.equal(r, t) for _, r, t, _ in model.asked[1::2])


def test_loss_by_hand() -> None:
    """Images with r = t aim at x, with no share of the JVP; the others at x + a (X - x) - D."""
    model = linear(guidance=1.0, apart=0.5, t_mean=-1.0, power=0.5, t_min=0.2, label_dropout=0.5)
    images = batch().images
    loss = model.loss("meanflow", batch(), at())
    (z, r, t, y), (z2, _, t2, y2) = model.asked
    a = column(1 - r / t)
    clean = 0.6 * z + 0.3 * column(t) - 0.2 * column(r)
    x = images[:32]
    target = x + a * (clean - x) - (0.6 * a * (z - x) + 0.3 * column(t - r))
    apart = (clean - target).square().mean(dim=[1, 2, 3]) / t.clamp(min=0.2) ** 2
    together = (0.6 * z2 + 0.1 * column(t2) - images[32:]).square().mean(dim=[1, 2, 3]) / t2.clamp(min=0.2) ** 2
    error = torch.cat([apart, together])
    assert loss.total.item() == pytest.approx((error / (error + 1e-3).sqrt()).mean().item(), rel=1e-5)
    assert loss.stats["loss"].item() == pytest.approx(error.mean().item(), rel=1e-5)
    assert (t < 0.2).any(), "the clamp is exercised"
    noise = (torch.cat([z, z2]) - (1 - column(torch.cat([t, t2]))) * images) / column(torch.cat([t, t2]))
    assert noise.std().item() == pytest.approx(1, abs=0.02) and abs(noise.mean().item()) < 0.02
    y = torch.cat([y, y2])
    dropped = y[:, -1] == 1
    assert 16 < dropped.sum() < 48 and torch.equal(y[~dropped].argmax(1), batch().labels[~dropped])


def test_guidance_is_trained_in_by_the_guided_velocity() -> None:
    """w v + (1-w) v(z_t | null) for labelled images, v for the others (Geng 2025, section 4.2)."""
    model = tiny.sampler("meanflow", guidance=2.5)
    x, e, t = batch(3).images, torch.randn(3, 1, 16, 16), torch.tensor([0.2, 0.6, 0.9])
    z = torch.lerp(x, e, column(t))
    aim = model.aim(x, z, t, torch.tensor([True, False, True]))
    null = (z - model.clean(z, t, t, torch.eye(4)[[3, 3, 3]])) / column(t)
    guided = 2.5 * (e - x) + (1 - 2.5) * null
    found = (z - aim) / column(t)
    assert torch.allclose(found[[0, 2]], guided[[0, 2]], atol=1e-4)
    assert torch.allclose(found[1], (e - x)[1], atol=1e-5)


def test_guidance_one_is_no_guidance_and_evaluates_no_null_label() -> None:
    model = linear(guidance=1.0, label_dropout=0.0)
    off = model.loss("meanflow", batch(), at()).total
    assert len(model.asked) == 2 and not any((y[:, -1] == 1).any() for *_, y in model.asked)
    guided = linear(guidance=3.0, label_dropout=1e-9)
    assert guided.loss("meanflow", batch(), at()).total != off
    assert len(guided.asked) == 3 and (guided.asked[0][3][:, -1] == 1).all()
    with pytest.raises(ValidationError, match="never trains"):
        MeanFlow.Config(guidance=3.0, label_dropout=0.0)
    nearly = linear(guidance=1.0 + 1e-6, label_dropout=1e-9).loss("meanflow", batch(), at()).total
    assert nearly.item() == pytest.approx(off.item(), rel=1e-4)
    unlabelled = MeanFlow(MeanFlow.Config(**{**tiny.TINY["meanflow"], "guidance": 3.0}), tiny.spec(classes=0))
    x = batch(2).images
    assert unlabelled.aim(x, x, torch.ones(2), torch.ones(2, dtype=torch.bool)) is x


def test_a_teachers_field_is_the_flows_guided_one() -> None:
    """The flow's own guidance at the same noise, label and null label; its weights stay as they are."""
    flow = tiny.sampler("flow")
    model = tiny.family("meanflow", taught=True, guidance=1.75)
    model.teacher.load_state_dict(flow.state_dict())
    x, t, y = torch.randn(3, 1, 16, 16), torch.tensor([0.2, 0.6, 0.9]), torch.eye(4)[:3]
    null = flow.denoise(x, t, torch.eye(4)[[3, 3, 3]])
    expected = null + 1.75 * (flow.denoise(x, t, y) - null)
    assert (expected - null).abs().mean() > 0.01
    assert torch.allclose(model.lesson(x, t, y), expected, atol=1e-5)
    taught = {id(p) for p in model.teacher.parameters()}
    assert not taught & {id(p) for phase in model.phases() for p in phase.params}
    assert "teacher" not in dict(model.sampler().named_children())


def test_validation_of_a_taught_map_is_against_its_teachers_field() -> None:
    """By the averaged weights, which come without a teacher, and the teacher of the training."""
    live, average, given = tiny.family("meanflow", taught=True, guidance=1.75), tiny.sampler("meanflow"), batch()
    live.teacher.load_state_dict(tiny.sampler("flow", seed=1).state_dict())
    model = tiny.sampler("meanflow", taught=True, guidance=1.75)
    model.load_state_dict(average.state_dict())
    assert not hasattr(model, "teacher")
    found, rng = model.validate(given, at(), live), torch.Generator().manual_seed(0)
    t = torch.sigmoid(torch.randn(2, 64, generator=rng) * model.config.t_std + model.config.t_mean).amax(dim=0)
    z = torch.lerp(given.images, torch.randn(given.images.shape, generator=rng), column(t))
    y = torch.eye(4)[given.labels]
    error = (model.generator(z, t, y, torch.zeros(64)) - live.lesson(z, t, y)).square().mean(dim=[1, 2, 3])
    weighted = error / t.clamp(min=model.config.t_min) ** 2
    assert found["loss"].item() == pytest.approx(weighted.mean().item(), rel=1e-5)


def test_with_a_teacher_nothing_is_asked_of_the_image_but_its_place() -> None:
    """A MeanFlow that follows the teacher's field has no loss, whatever image each place came from; without the
    teacher's, the same one has."""

    class Right(MeanFlow):
        def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
            r_, t_ = column(r), column(t)
            z_r = (1 - r_) * MU + deviation(r_) / deviation(t_) * (z - (1 - t_) * MU)
            together = r_ == t_
            apart = torch.where(together, 1.0, t_ - r_)
            return torch.where(together, posterior_mean(z, t), z - t_ * (z - z_r) / apart)

        def lesson(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return posterior_mean(z, t)

    found = {}
    for teacher in (True, False):
        settings = {**tiny.TINY["meanflow"], "taught": teacher, "guidance": 1.0, "label_dropout": 0.0}
        found[teacher] = float(
            Right(MeanFlow.Config(**settings), tiny.spec()).loss("meanflow", batch(), at()).stats["loss"]
        )
    assert found[True] < 1e-6 < 0.1 < found[False]


def of_ends(by: str = "flow", shape: ImageSpec | None = None, **config: Any) -> MeanFlow:
    """A little MeanFlow with a teacher that says something, and room for a few of its images."""
    settings = {"taught": True, "taught_by": by, "ends": 6, "reuse": 8, "guidance": 1.5, "dropout": 0.0}
    model = tiny.family("meanflow", shape=shape, **{**settings, **config})
    model.teacher.load_state_dict(tiny.sampler(by, shape=shape).state_dict())
    return model


@pytest.mark.parametrize("by", ["flow", "meanflow"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("steps", [None, 3])
def test_what_is_kept_is_what_the_teacher_makes(by: str, bf16: bool, steps: int | None) -> None:
    """A flow by its own defaults and the guidance asked for; a MeanFlow in two steps; or in as many as are asked for.
    Same noise, same label; and in float32, whatever the training is in."""
    model = of_ends(by, teacher_steps=steps)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        of = model.renew(batch(32).labels, at())
    assert of[:4].tolist() == [0, 1, 2, 3] and len(of) == 32 and set(of.tolist()) == {0, 1, 2, 3}
    assert model.end_labels[:4].tolist() == batch(32).labels[:4].tolist() and model.end_seeds[:4].unique().numel() == 4
    given = {} if steps is None else {"steps": steps}
    controls = model.teacher.controls(guidance=1.5, **given) if by == "flow" else MeanFlowControls(steps=steps or 2)
    rows = [Row(torch.eye(3)[k], int(s), controls) for k, s in zip(model.end_labels, model.end_seeds, strict=True)]
    made = generate(model.teacher, rows[:4]).images
    assert (to_uint8(model.end_images[:4]).int() - made.int()).abs().max() <= 1
    assert made.float().std() > 10


def test_the_oldest_images_make_room() -> None:
    model = of_ends()
    kept = []
    for step in range(3):
        now = At(step, 0, 1, torch.Generator().manual_seed(step), torch.ones(3) / 3)
        of = model.renew(batch(32).labels, now)
        assert of[:4].tolist() == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]][step]
        assert of.max() == (3, 5, 5)[step]
        kept.append(model.end_seeds.tolist())
    assert kept[1][2:4] == kept[0][2:4] and not set(kept[1][:2]) & set(kept[0])
    assert kept[2][:2] == kept[1][:2] and not set(kept[2][2:]) & set(kept[1])
    once = of_ends(reuse=1, ends=64)
    assert once.renew(batch(32).labels, at()).tolist() == list(range(32)), "each image is seen once, and no other"


def test_the_single_step_is_asked_for_the_teachers_image_of_its_noise() -> None:
    """One that states it has no loss. The images of the batch do not matter, only its labels."""
    given, model = batch(32), of_ends("meanflow", reuse=1, ends=64)
    assert model.loss("ends", given, at()).stats["mse"] > 0.01
    losses = []
    for shade in (0.0, 1.0):
        model = of_ends("meanflow", reuse=1, ends=64)
        blank = Batch(torch.full((32, 1, 16, 16), shade), given.labels, given.ids)
        losses.append(model.loss("ends", blank, at()).total)
    assert torch.equal(*losses)

    class Knows(MeanFlow):
        """States the images that are kept of the noise that it is given."""

        def clean(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
            assert (t == 1).all() and (r == 0).all()
            assert torch.equal(z, torch.stack([noise(int(s), "flow", 0, self.spec.shape) for s in self.end_seeds[:32]]))
            assert torch.equal(y.argmax(dim=1), self.end_labels[:32]) and y.shape[1] == 4
            return self.end_images[:32].float().requires_grad_()

    model.__class__ = Knows
    stats = model.loss("ends", given, at()).stats
    assert stats["mse"] == 0 and stats["features"] == 0


@pytest.mark.parametrize("by", ["flow", "meanflow"])
def test_the_teacher_sees_no_difference_between_equal_images_and_more_between_others(by: str) -> None:
    model = of_ends(by)
    x, y = batch(4).images, torch.eye(4)[batch(4).labels]
    e = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    near, far = (model.distance(x, x + d * e, y, at()) for d in (0.05, 0.5))
    assert near.shape == (4,) and (model.distance(x, x, y, at()) == 0).all()
    assert (near > 0).all() and (near < far).all()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [tiny.spec(), tiny.spec(channels=3), tiny.spec(classes=0)])
def test_gradients_of_the_single_step_reach_the_student_and_no_teacher(shape: ImageSpec, bf16: bool) -> None:
    model = of_ends(shape=shape)
    with torch.no_grad():
        for p in model.generator.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    given = batch(16)
    images = given.images.expand(-1, shape.channels, -1, -1)
    labels = given.labels if shape.classes else torch.zeros_like(given.labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model.loss("ends", Batch(images, labels, given.ids), at())
    loss.total.backward()
    assert not [k for k, p in model.generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [k for k, p in model.teacher.named_parameters() if p.grad is not None]


def test_more_reuse_than_images_and_less_room_than_new_ones() -> None:
    """One new image each time at least; and no more than there is room for."""
    assert of_ends(reuse=1000).renew(batch(32).labels, at()).tolist() == [0] * 32
    of = of_ends(reuse=1).renew(batch(32).labels, at())
    assert of[:6].tolist() == [0, 1, 2, 3, 4, 5] and len(of) == 32 and of.max() == 5
    assert len(of_ends(reuse=4).renew(batch(1).labels, at())) == 1


def test_settings_of_a_teacher_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="set taught=true as well"):
        MeanFlow.Config(**{**tiny.TINY["meanflow"], "ends": 8})
    with pytest.raises(ValueError, match="teaches by its images alone: set taught=true, and ends"):
        MeanFlow.Config(**{**tiny.TINY["meanflow"], "taught": True, "taught_by": "meanflow"})
    with pytest.raises(ValueError, match="teacher_steps=4 are those of a teacher's images: set ends as well"):
        MeanFlow.Config(**{**tiny.TINY["meanflow"], "taught": True, "teacher_steps": 4})
    with pytest.raises(ValueError, match="teacher_steps=9; a MeanFlow makes an image in at most 8"):
        MeanFlow.Config(
            **{**tiny.TINY["meanflow"], "taught": True, "taught_by": "meanflow", "ends": 8, "teacher_steps": 9}
        )


def test_gradients_in_bf16_reach_every_parameter_and_point_as_in_float32() -> None:
    """The guided target is computed without gradient in the same autocast: its cast weights must not be kept."""
    model = tiny.family("meanflow", dropout=0.0)
    for step, bf16 in enumerate([False] * 3):
        train(model, step, bf16)
    grads = []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.loss("meanflow", batch(), at(9))
        loss.total.backward()
        silent = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.95


def train(model: MeanFlow, step: int, bf16: bool) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model.loss("meanflow", batch(), at(step))
    optimiser.zero_grad()
    loss.total.backward()
    optimiser.step()


def test_an_update_costs_at_most_two_and_a_half_times_a_flows() -> None:
    def flops(name: str) -> int:
        model = tiny.family(name)
        with FlopCounterMode(display=False) as counter:
            model.loss(name, batch(), at()).total.backward()
        return counter.get_total_flops()

    assert flops("meanflow") < 2.5 * flops("flow")


# -- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_step_count_lands_on_the_gaussians_end(steps: int) -> None:
    model = closed(Gaussian)
    exact = MU + SIGMA * model.start([row(0)])["z"]
    assert torch.allclose(run(model, [row(0, steps=steps)]), exact, atol=1e-5)
    assert model.calls == [1] * steps, "one evaluation a step"


def test_one_step_is_one_forward_by_default_and_guided() -> None:
    model = closed(Gaussian)
    generate(model, [Row(torch.eye(3)[0], 0, MeanFlowControls())])
    assert model.config.guidance == 2 and model.calls == [1]


def test_rows_with_one_two_and_four_steps_share_forwards_and_equal_their_solo_runs() -> None:
    counted = closed(Gaussian)
    run(counted, [row(0, steps=n) for n in (1, 2, 4)])
    assert counted.calls == [3, 2, 1, 1], "finished rows cost nothing"
    model = tiny.sampler("meanflow")
    rows = [row(1, 0, 1), row(2, 1, 2), row(3, 2, 4), row(4, 0, 2)]
    with torch.inference_mode():
        state = model.step(model.start(rows[:3]))
        state = State.cat([state, model.start(rows[3:])])
        while not bool(state.done.all()):
            state = model.step(state)
    solo = torch.cat([run(model, [r]) for r in rows])
    assert torch.allclose(state["z"], solo, atol=1e-4)
    assert not torch.allclose(run(model, [row(1, 0, 2)]), solo[:1], atol=0.01), "steps matter"


def test_previews_end_as_the_image() -> None:
    model = tiny.sampler("meanflow")
    with torch.inference_mode():
        state = model.start([row(0, steps=3)])
        while not bool(state.done.all()):
            state = model.step(state)
            assert model.preview(state).shape == (1, 1, 16, 16)
    assert torch.equal(model.preview(state), model.finish(state).images)


@pytest.mark.parametrize("steps", [1, 4])
def test_interpolation_ends_at_both_seeds_and_classes(steps: int) -> None:
    """Byte for byte, and between it starts where the flow does: noise on the arc, label weights on the line."""
    model, flow = tiny.sampler("meanflow"), tiny.sampler("flow")

    def way(family: Family, seed: int, share: float, **controls: Any) -> Row:
        settings = family.capabilities()["interpolate"].controls(share=share, steps=steps, **controls)
        return Row(torch.eye(3)[0], seed, settings, "interpolate")

    here, there = (generate(model, [row(seed, label, steps)]).images for seed, label in ((2, 0), (8, 2)))
    found = [generate(model, [way(model, 2, s, to_seed=8, to_class="c")]).images for s in (0.0, 0.5, 1.0)]
    assert torch.equal(found[0], here) and torch.equal(found[2], there)
    assert not torch.equal(found[1], here) and not torch.equal(found[1], there)
    assert torch.equal(generate(model, [way(model, 2, 0.5, to_seed=2)]).images, here), "to itself is no way at all"
    own, its = (family.start([way(family, 2, 0.25, to_seed=8, to_class="c")]) for family in (model, flow))
    assert torch.equal(own["z"], its["x"]) and torch.equal(own["y"], its["y"])
    assert own["y"].tolist() == [[0.75, 0.0, 0.25, 0.0]]
