"""What every denoising family shares: solvers on a Gaussian with a known solution and by the papers' formulas;
guidance; rows of all kinds in one batch; the weak copy; losses by noise level; validation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kartina import registry
from kartina.config import read
from kartina.errors import ConfigError
from kartina.generators import diffusive
from kartina.generators.base import At, Batch, Row, State, generate, noise
from kartina.generators.diffusive import QUARTILES, TOLD, DiffusiveFamily, spaced
from kartina.models.model import load, save
from kartina.training import checkpoint
from kartina.training.loop import Trainer, train
from kartina.training.transfer import check_frozen
from tests import tiny
from tests.engine import CARD, PROVENANCE

FAMILIES = ("ddpm", "edm", "flow")
each = pytest.mark.parametrize("name", FAMILIES)
MU, SIGMA = 0.1, 0.15


def gaussian(name: str, **config: Any) -> Any:
    """Data ~ N(MU, SIGMA^2) per pixel: the best denoiser in closed form. `calls` has the rows of each evaluation."""
    family = registry.family(name)

    class Gaussian(family):  # type: ignore[misc, valid-type]
        def denoise(self, x: Tensor, t: Tensor, y: Tensor, net: Any = None, source: Any = None) -> Tensor:
            self.calls.append(len(x))
            a, t = self.alpha(t)[:, None, None, None], t[:, None, None, None]
            return MU + a * SIGMA**2 / (a**2 * SIGMA**2 + t**2) * (x - a * MU)

    model = Gaussian(family.Config(**{**tiny.TINY[name], **config}), tiny.spec()).sampler()
    model.calls = []
    return model


def row(model: DiffusiveFamily, seed: int = 0, label: int = 0, **controls: Any) -> Row:
    settings = read(
        model.capabilities()["generate"].controls,
        {"guidance": 1.0, "solver": "euler", "spacing": 1.0, **controls},
        "test",
    )
    return Row(torch.eye(3)[label], seed, settings)


def run(model: DiffusiveFamily, state: State) -> Tensor:
    """Float images N,C,H,W at the end of the path."""
    with torch.inference_mode():
        while not bool(state.done.all()):
            state = model.step(state)
    return state["x"]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- solvers -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("solver", "low", "high"), [("euler", 1.8, 2.2), ("heun", 3.5, 5.0), ("dpm++", 3.3, 5.0), ("deis", 6.0, 40.0)]
)
@each
def test_order_on_a_gaussian(name: str, solver: str, low: float, high: float) -> None:
    """DPM++ that is first order is wrong but passes: its error falls by 3.3 and more when the step halves. DEIS of
    second order is, too: its error falls by 4.2 to 5 here, that of the third by more than 6.

    DPM++'s steps are in lambda = log(alpha/t). Flow's even times reach from -infinity to infinity in it, so that the
    order is only approached with hundreds of steps; here they are even in lambda for both. DDPM's times are a table of
    a thousand, between which they are straight: no solver has its order across the corners, so they are even in log t.
    """
    model = gaussian(name, **({"sigma_min": 1e-4} if name == "edm" else {}))
    if name == "flow" and solver in ("dpm++", "deis"):
        model.times = lambda step, steps: torch.sigmoid(2 - 10 * step / (steps - 1)) * (step < steps)
    if name == "ddpm":
        model.times = lambda step, steps: torch.exp(3 - 12 * step / (steps - 1)) * (step < steps)
    errors = []
    for n in (32, 64, 128) if name == "edm" else (50, 100, 200):
        state = model.start([row(model, solver=solver, steps=n)])
        a, t = float(model.alpha(state["t"])), float(state["t"])
        exact = MU + SIGMA * (state["x"] - a * MU) / math.sqrt(a**2 * SIGMA**2 + t**2)
        errors.append((run(model, state) - exact).abs().mean().item())
    assert all(low < a / b < high for a, b in pairwise(errors)), errors


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", ["heun", "euler", "dpm++"])
@each
def test_twenty_steps_keep_the_distribution(name: str, solver: str) -> None:
    """Also where the first of them is a long one: from t = 20,000 to 13 by DDPM's cosine schedule."""
    model = gaussian(name)
    x = run(model, model.start([row(model, seed, solver=solver, steps=20) for seed in range(8)]))
    assert abs(x.mean() - MU) < 0.03 and 0.7 * SIGMA < x.std() < 1.2 * SIGMA


@pytest.mark.usefixtures("float64")
@each
def test_ddim_round_trip_error_halves_when_steps_double(name: str) -> None:
    model = gaussian(name)
    x0 = MU + SIGMA * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y, errors = torch.eye(4)[:1], []
    for n in (50, 100, 200):
        state = model.start([row(model, steps=n)])
        times = [model.times(torch.tensor([i]), state["steps"]) for i in range(n, -1, -1)]
        x = x0
        for t, t_next in pairwise(times):  # encode: from the image to noise
            here = t if t > 0 else t_next
            x = x + (t_next - t) * (x - model.denoise(x, here, y)) / here
        errors.append((run(model, state.replace(x=x)) - x0).abs().mean().item())
    assert all(1.65 < a / b < 2.3 for a, b in pairwise(errors)), errors


class Recorder:
    """A denoiser of no meaning, whose answers are kept."""

    def __init__(self, model: Any):
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        model.denoise = self

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, net: Any = None, source: Any = None) -> Tensor:
        clean = torch.tanh(0.3 * x + t[:, None, None, None].clamp(max=2).sin())
        self.seen.append((x, t, clean))
        return clean


@pytest.mark.usefixtures("float64")
@each
def test_dpm_solver_is_the_papers(name: str) -> None:
    """DPM-Solver++(2M), Lu 2022, algorithm 2, in its own terms: lambda = log(alpha/sigma), h, r, D."""
    model = gaussian(name)
    recorder = Recorder(model)
    states = [model.start([row(model, solver="dpm++", steps=8)])]
    while not bool(states[-1].done.all()):
        states.append(model.step(states[-1]))
    assert len(recorder.seen) == 8
    for i in range(2, 7):  # the first is of first order; so is flow's second, whose history is at lambda = -infinity
        (_, before, d_before), (x, t, d), t_next = recorder.seen[i - 1], recorder.seen[i], states[i + 1]["t"]
        lam = [float(torch.log(model.alpha(s) / s)) for s in (before, t, t_next)]
        h, h_last = lam[2] - lam[1], lam[1] - lam[0]
        r = h_last / h
        mixed = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * d_before if math.isfinite(r) else d
        expected = t_next / t * x - model.alpha(t_next) * math.expm1(-h) * mixed
        assert torch.allclose(states[i + 1]["x"], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(states[-1]["x"], recorder.seen[-1][2]), "the last step lands on D"


@pytest.mark.usefixtures("float64")
@each
def test_deis_integrates_the_parabola_through_the_last_three(name: str) -> None:
    """Zhang & Chen 2023, section 3.4, by numbers: Lagrange's parabola in t, integrated over q = 1/t by scipy."""
    from scipy.integrate import quad
    from scipy.interpolate import lagrange

    model = gaussian(name)
    recorder = Recorder(model)
    states = [model.start([row(model, solver="deis", steps=7, spacing=1.3)])]
    while not bool(states[-1].done.all()):
        states.append(model.step(states[-1]))
    assert len(recorder.seen) == 7
    for i in range(6):
        points = [(float(t), d) for _, t, d in recorder.seen[max(0, i - 2) : i + 1]]
        (x, t, _), t_next = recorder.seen[i], float(states[i + 1]["t"])
        mixed = torch.zeros_like(x)
        for j, (_, d) in enumerate(points):
            basis = lagrange([s for s, _ in points], [float(k == j) for k in range(len(points))])
            mixed += quad(lambda q, basis=basis: basis(1 / q), 1 / float(t), 1 / t_next, epsabs=1e-12)[0] * d
        expected = t_next / float(t) * x + t_next * mixed
        assert torch.allclose(states[i + 1]["x"], expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(states[-1]["x"], recorder.seen[-1][2]), "the last step lands on D"


@each
def test_spacing_moves_the_steps_towards_the_image(name: str) -> None:
    """The steps left, to that power, on the model's own way; 1 changes not a bit, and the ends stay."""
    for spacing, n in itertools.product((0.5, 1.0, 1.25, 3.0), (8, 49)):
        model = gaussian(name)
        recorder = Recorder(model)
        run(model, model.start([row(model, steps=n, spacing=spacing)]))
        fine = torch.tensor([(1 - (1 - i / n) ** spacing) * n if spacing != 1 else i for i in range(n)])
        expected = model.times(fine, torch.full((n,), n))
        assert torch.allclose(torch.cat([t for _, t, _ in recorder.seen]), expected, rtol=1e-5, atol=1e-6)
        assert spacing != 1 or torch.equal(torch.cat([t for _, t, _ in recorder.seen]), expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("flow", {}),
        ("flow", {"shift": 3.0}),
        ("edm", {}),
        ("edm", {"rho": 1.0}),
        ("ddpm", {"schedule": "linear"}),
        ("ddpm", {"schedule": "cosine"}),
    ],
    ids=str,
)
def test_only_the_last_step_ends_the_way(name: str, config: dict[str, Any]) -> None:
    """Whatever the spacing, in float32 too: times fall with each step, and 0 comes last alone."""
    model = gaussian(name, **config)
    spacing = torch.linspace(0.5, 4, 71)[:, None]
    for n in range(1, 201):
        step = torch.arange(n + 1).expand(len(spacing), -1)
        steps = torch.full_like(step, n)
        t = model.times(spaced(step, steps, spacing), steps)
        assert t.dtype == torch.float32 and bool(t.isfinite().all())
        assert bool((t[:, :-1] > 0).all()) and not t[:, -1].any() and bool((t.diff() < 0).all()), n


@each
def test_the_finest_spacing_makes_images(name: str) -> None:
    model = tiny.sampler(name)
    solvers = ("heun", "euler", "ddim", "dpm++", "deis")
    asked = itertools.product(solvers, (2, 80))
    x = run(model, model.start([row(model, solver=solver, steps=n, spacing=4.0) for solver, n in asked]))
    assert bool(x.isfinite().all())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@each
def test_ddim_is_the_papers(name: str, eta: float) -> None:
    """Song 2021, eq. 12 and 16, in the variance-preserving coordinates of that paper."""
    model = gaussian(name)
    recorder = Recorder(model)
    state = model.start([row(model, seed=5, solver="ddim", eta=eta, steps=6)])
    for i in range(5):
        after = model.step(state)
        (x, t, d), t_next = recorder.seen[-1], after["t"]
        a, a_next = model.alpha(t), model.alpha(t_next)
        bar, bar_next = (a_**2 / (a_**2 + s**2) for a_, s in ((a, t), (a_next, t_next)))
        x_bar = x / (a**2 + t**2).sqrt()
        e = (x_bar - bar.sqrt() * d) / (1 - bar).sqrt()
        sigma = eta * ((1 - bar_next) / (1 - bar)).sqrt() * (1 - bar / bar_next).sqrt()
        z = noise(5, "eta", i, (1, 16, 16))
        expected = bar_next.sqrt() * d + (1 - bar_next - sigma**2).clamp(min=0).sqrt() * e + sigma * z
        assert torch.allclose(after["x"], expected * (a_next**2 + t_next**2).sqrt(), rtol=1e-5, atol=1e-6)
        state = after


@pytest.mark.usefixtures("float64")
def test_churn_is_the_papers() -> None:
    """Karras 2022, algorithm 2, on its own path."""
    model = gaussian("edm")
    recorder = Recorder(model)
    steps, churn, s_noise = 6, 1.5, 1.05
    state = model.start([row(model, seed=2, solver="heun", churn=churn, churn_noise=s_noise, steps=steps)])
    for i in range(2):
        x, t, t_next = state["x"], state["t"], model.times(torch.tensor([i + 1]), state["steps"])
        gamma = min(churn / steps, math.sqrt(2) - 1)
        t_hat = t + gamma * t
        x_hat = x + (t_hat**2 - t**2).sqrt() * s_noise * noise(2, "churn", i, (1, 16, 16))
        state = model.step(model.step(state))
        d = (x_hat - recorder.seen[-2][2]) / t_hat
        euler = x_hat + (t_next - t_hat) * d
        d_next = (euler - recorder.seen[-1][2]) / t_next
        assert torch.allclose(recorder.seen[-2][0], x_hat, rtol=1e-6, atol=1e-4), "the network sees the noisier image"
        assert torch.allclose(recorder.seen[-2][1], t_hat, rtol=1e-6), "and is told of it"
        assert torch.allclose(state["x"], x_hat + (t_next - t_hat) * (d + d_next) / 2, rtol=1e-6, atol=1e-4)
    assert churn / steps < math.sqrt(2) - 1
    wild = model.start([row(model, solver="heun", churn=50.0, steps=4)])
    assert float(model.stirred(wild, torch.tensor([True]))[1] / wild["t"]) == pytest.approx(math.sqrt(2)), "its bound"


@pytest.mark.parametrize(
    "controls", [{"solver": "heun", "churn": 16.0}, {"churn": 8.0}, {"solver": "ddim", "eta": 1.0}], ids=str
)
@each
def test_fresh_noise_keeps_the_distribution(name: str, controls: dict[str, Any]) -> None:
    """On either path: noise is stirred in and taken out again, and the images stay N(MU, SIGMA^2)."""
    model = gaussian(name)
    x = run(model, model.start([row(model, seed, steps=200, **controls) for seed in range(32)]))
    plain = run(model, model.start([row(model, seed, steps=200) for seed in range(32)]))
    assert x.mean().item() == pytest.approx(MU, abs=0.01) and x.std().item() == pytest.approx(SIGMA, rel=0.1)
    alike = torch.corrcoef(torch.stack([x.flatten(), plain.flatten()]))[0, 1].item()
    assert alike < 0.9, "and the noise is fresh"


@each
def test_evaluations_per_step(name: str) -> None:
    """DDPM's first step by the cosine schedule is too long for Heun, and Euler's."""
    for solver, steps, evaluations in (
        ("euler", 10, 10),
        ("ddim", 7, 7),
        ("dpm++", 9, 9),
        ("deis", 6, 6),
        ("heun", 10, 18 if name == "ddpm" else 19),
        ("heun", 1, 1),
    ):
        model = gaussian(name)
        run(model, model.start([row(model, solver=solver, steps=steps)]))
        assert model.calls == [1] * evaluations


@each
def test_mixed_step_counts_share_forwards(name: str) -> None:
    """Batching equal steps only is wrong but passes: Euler 4, 10 and 20 together take 20 forwards."""
    model = gaussian(name)
    run(model, model.start([row(model, steps=n) for n in (4, 10, 20)]))
    assert model.calls == [3] * 4 + [2] * 6 + [1] * 10


@each
def test_rows_of_every_kind_joining_late_equal_their_solo_runs(name: str) -> None:
    model = tiny.sampler(name, weak_share=0.5)
    rows = [
        row(model, 1, 0, steps=5),
        row(model, 2, 1, solver="heun", steps=9, guidance=3.0, churn=4.0),
        row(model, 3, 2, solver="ddim", eta=0.7, steps=6, guidance=2.0, guide_from=0.3, guide_to=0.7),
        row(model, 4, 0, solver="dpm++", steps=7, guidance=2.0, guide="weak"),
        row(model, 5, 1, solver="heun", steps=4, guidance=0.0),
        row(model, 6, 2, solver="dpm++", steps=5),
        row(model, 7, 1, solver="deis", steps=8, spacing=1.5, guidance=1.5),
    ]
    with torch.inference_mode():
        state = model.start(rows[:4])
        for _ in range(3):
            state = model.step(state)
        state = State.cat([state, model.start(rows[4:])])
        while not bool(state.done.all()):
            state = model.step(state)
    together = model.finish(state).images
    solo = torch.cat([generate(model, [r]).images for r in rows])
    assert (together.int() - solo.int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in together}) == len(rows)


# -- guidance ----------------------------------------------------------------------------------------------------------


@each
def test_guidance_identities(name: str) -> None:
    """w=1 is the conditional D, w=0 the one without label, and D is linear in w between and beyond."""
    model = tiny.sampler(name)
    x, t, y = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 0.8]), torch.eye(4)[[0, 1]]

    def at(w: float) -> Tensor:
        return DiffusiveFamily.guided(model, x, t, y, torch.full((2,), w))

    with torch.inference_mode():
        conditional, null = model.denoise(x, t, y), model.denoise(x, t, torch.eye(4)[[3, 3]])
        assert torch.equal(at(1.0), conditional) and torch.allclose(at(0.0), null, atol=1e-5)
        for w in (0.5, 3.0):
            assert torch.allclose(at(w), null + w * (conditional - null), atol=1e-4)
    assert not torch.allclose(conditional, null, atol=1e-3)


@each
def test_guidance_one_makes_no_unconditional_evaluation(name: str) -> None:
    model = gaussian(name)
    run(model, model.start([row(model, 0, steps=2), row(model, 1, steps=2, guidance=3.0)]))
    assert model.calls == [3, 3], "one row more for the guided one alone"


@each
def test_guidance_interval(name: str) -> None:
    """Kynkaanniemi 2024: outside of it nothing is guided, nor paid for."""
    model = gaussian(name)
    run(model, model.start([row(model, steps=10, guidance=3.0, guide_from=0.2, guide_to=0.5)]))
    assert model.calls == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    model.calls = []
    run(model, model.start([row(model, solver="heun", steps=4, guidance=3.0, guide_from=0.5)]))
    calls = [1, 1, 1, 2, 2, 2, 2][name == "ddpm" :]  # whose first step is Euler's
    assert model.calls == calls, "Heun's second evaluation is where its step ends"


@each
def test_without_classes_nothing_is_guided(name: str) -> None:
    model = tiny.sampler(name, shape=tiny.spec(classes=0), weak_share=0.0)
    assert model.start([row(model)])["guidance"].tolist() == [1.0]
    with pytest.raises(ConfigError, match="guidance"):
        row(model, guidance=3.0)
    model = tiny.sampler(name, shape=tiny.spec(classes=0), weak_share=0.5)
    state = model.start([row(model), row(model, guidance=3.0)])
    assert state["guidance"].tolist() == [1.0, 3.0], "except away from the weak network"
    assert state["weak"].tolist() == [True, True]
    with pytest.raises(ConfigError, match="guide"):
        row(model, guide="label")


def test_controls_that_contradict_each_other_are_refused_in_words() -> None:
    model = tiny.sampler("flow")
    for wrong, words in (
        ({"solver": "dpm++", "churn": 3.0}, "churn=3 works with solver=heun or euler"),
        ({"solver": "heun", "eta": 0.5}, "eta=0.5 works with solver=ddim"),
        ({"guide_from": 0.6, "guide_to": 0.4}, "ends before"),
        ({"guide": "weak"}, "no such key"),
    ):
        with pytest.raises(ConfigError, match=words):
            row(model, **wrong)


# -- the weak copy -----------------------------------------------------------------------------------------------------


@each
def test_autoguidance_identities(name: str) -> None:
    model = tiny.sampler(name, weak_share=0.5)
    x, t, y = torch.randn(3, 1, 16, 16), torch.tensor([0.3, 0.6, 0.8]), torch.eye(4)[:3]
    weak = torch.tensor([True, True, False])
    with torch.inference_mode():
        strong, poor = model.denoise(x, t, y), model.denoise(x, t, y, model.weak)
        null = model.denoise(x, t, torch.eye(4)[[3, 3, 3]])
        out = DiffusiveFamily.guided(model, x, t, y, torch.tensor([2.0, 1.0, 2.0]), weak)
    assert not torch.allclose(strong, poor, atol=1e-3)
    assert torch.allclose(out[0], poor[0] + 2 * (strong[0] - poor[0]), atol=1e-4)
    assert torch.allclose(out[1], strong[1], atol=1e-5)
    assert torch.allclose(out[2], null[2] + 2 * (strong[2] - null[2]), atol=1e-4), "rows choose for themselves"


def test_the_weak_copy_follows_until_its_share_and_then_stays(tmp_path: Path) -> None:
    trainer = Trainer(tiny.run_config("flow", tiny.images(), 8 * 40, ema=20).model_copy(
        update={"config": {**tiny.TINY["flow"], "weak_share": 0.25}}), tiny.images())  # fmt: skip
    check_frozen(trainer.family, ())

    def weights(part: str) -> Tensor:
        return torch.cat([p.detach().flatten() for p in trainer.family.get_submodule(part).parameters()])

    trainer.step()
    assert torch.allclose(weights("weak"), weights("generator"), atol=1e-4), "the random start is forgotten at once"
    while trainer.images < 8 * 10:
        trainer.step()
    kept, then = weights("weak"), weights("generator")
    while trainer.images < 8 * 40:
        trainer.step()
    assert torch.equal(weights("weak"), kept)
    assert (weights("generator") - kept).norm() > 2 * (then - kept).norm()
    averaged = torch.cat([p.flatten() for p in trainer.ema.weak.parameters()])
    assert torch.allclose(averaged, kept, atol=1e-3)

    # It is a part of the package.
    ref = save(trainer.settled(), "weak", PROVENANCE, CARD, root=tmp_path)
    assert {p.name for p in ref.path.glob("*.safetensors")} == {"generator.safetensors", "weak.safetensors"}
    model = load(ref)
    assert set(model.manifest.parts) == {"generator", "weak"}
    plain, away = (model.sample([0], guidance=2.0, steps=3, guide=g).images for g in ("label", "weak"))
    assert (plain != away).any()


# -- training ----------------------------------------------------------------------------------------------------------


@each
def test_losses_by_noise_level(name: str) -> None:
    model = tiny.family(name)
    batch = Batch(torch.rand(512, 1, 16, 16) * 2 - 1, torch.arange(512) % 3, torch.arange(512))
    with torch.no_grad():
        found = model.loss("denoise", batch, At(0, 0, 1, torch.Generator().manual_seed(0), torch.ones(3) / 3)).stats
        z = torch.randn(512, generator=torch.Generator().manual_seed(0))
        t = model.level(z)
    quarters = [float(found[f"loss_q{i}"]) for i in (1, 2, 3, 4)]
    assert sum(quarters) / 4 == pytest.approx(float(found["loss"]), rel=1e-5)
    shares = [(t <= model.level(torch.tensor([q]))).float().mean().item() for q in QUARTILES]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    if name == "ddpm":  # the network still says 0
        assert quarters == pytest.approx([1.0] * 4, abs=0.2), "|e - 0|^2, at every level"
    if name == "flow":
        error = model.weight(t) * batch.images.square().mean(dim=[1, 2, 3])
        first = error[t <= model.level(torch.tensor([QUARTILES[0]]))].sum() * 4 / 512
        assert quarters[0] == pytest.approx(first.item(), rel=1e-4)
        assert quarters == sorted(quarters, reverse=True), "1/t^2"


@pytest.mark.parametrize("name", ["vae", "meanflow"])
def test_other_families_are_validated_beside_their_grids(home: Path, name: str) -> None:
    quiet, watched = tiny.run(name, home, n=8 * 6), tiny.run(name, home, n=8 * 6, grids=2)
    train(quiet)
    train(watched)
    a, b = (checkpoint.read(r.checkpoint()).tensors for r in (quiet, watched))
    assert all(torch.equal(v, b[group][k]) for group in a for k, v in a[group].items())
    found = [{k: v for k, v in s.items() if k.startswith("val/")} for s in watched.stats()]
    keys = {"vae": {"val/mse", "val/kl"}, "meanflow": {"val/loss", "val/mse"}}[name]
    assert [set(one) for one in found if one] == [keys, keys]


def test_validation_is_the_same_images_and_noise_every_time_and_disturbs_nothing(home: Path) -> None:
    quiet, watched = tiny.run("flow", home, n=8 * 12), tiny.run("flow", home, n=8 * 12, grids=3)
    train(quiet)
    train(watched)
    a, b = (checkpoint.read(r.checkpoint()).tensors for r in (quiet, watched))
    assert all(torch.equal(v, b[group][k]) for group in a for k, v in a[group].items())
    lines = [s for s in watched.stats() if "val/loss" in s]
    assert len(lines) == 3 and not any("val/loss" in s for s in quiet.stats())
    for line in lines:
        assert line["val/loss"] == pytest.approx(sum(line[f"val/loss_q{i}"] for i in (1, 2, 3, 4)) / 4, rel=1e-5)

    data = tiny.images()
    trainer = Trainer(watched.config, data)
    trainer.step()
    torch.manual_seed(1)
    first, before = trainer.validate(), torch.random.get_rng_state()
    assert trainer.validate() == first and torch.equal(before, torch.random.get_rng_state())
    # By hand: the averaged network, no dropout, on every image of the val split, each with its label.
    part = data.part("val")
    x = torch.from_numpy(part.images.copy()).float() / 127.5 - 1
    rng = torch.Generator().manual_seed(0)
    z, e = torch.randn(len(x), generator=rng), torch.randn(x.shape, generator=rng)
    t = torch.sigmoid(z + 0.4)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        t4 = t[:, None, None, None]
        y = torch.eye(4)[torch.from_numpy(part.labels.copy())]
        d = trainer.ema.generator((1 - t4) * x + t4 * e, t, y).float()
    expected = (t.clamp(min=0.1) ** -2 * (d - x).square().mean(dim=[1, 2, 3])).mean()
    assert first["val/loss"] == pytest.approx(expected.item(), rel=1e-4)


# -- augmentations that the network is told of -------------------------------------------------------------------------


def halves(n: int) -> Batch:
    """Images that are bright on the left and dark on the right, in grey of several strengths."""
    x = torch.linspace(0.5, 1, n)[:, None, None, None] * torch.ones(n, 1, 16, 16)
    x[..., 8:] *= -1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def at(seed: int = 0) -> At:
    return At(0, 0, 1, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def test_what_is_told_is_zero_for_an_image_as_it_is_and_says_where_the_others_come_from() -> None:
    model = tiny.family("flow", augment=0.3)
    batch, told = model.augmented(given := halves(400), at())
    still = (told == 0).all(dim=1)
    assert still.float().mean().item() == pytest.approx((1 - 0.3 / 2) * 0.7**5, abs=0.06), "half of all flips flip"
    changed = (batch.images != given.images).flatten(1).any(dim=1)
    assert not (changed & still).any() and (changed | still).float().mean() > 0.9
    # A mirror image comes from (-x, y): -2 of x, and nothing else.
    mirrored = (told == torch.tensor([-2.0, 0, 0, 0, 0, 0])).all(dim=1)
    assert mirrored.sum() > 5 and torch.equal(batch.images[mirrored], given.images[mirrored].flip(3))
    # One that is only moved comes from as far on the other side, as a share of its side.
    only = torch.tensor([True, True, False, True, True, False])
    moved = (told[:, only] == 0).all(dim=1) & ~still & ((told * 16).frac() == 0).all(dim=1)
    x, across = given.images[moved], (told[moved, 2] * 16).long()
    assert len(x) > 5
    for image, before, by in zip(batch.images[moved], x, across.tolist(), strict=True):
        columns = torch.arange(16) + by
        columns = torch.where(columns < 0, -1 - columns, torch.where(columns > 15, 31 - columns, columns))
        assert torch.allclose(image, before[:, :, columns])


def test_what_is_told_is_exact_in_bfloat16_too() -> None:
    model, given = tiny.family("flow", augment=0.8), halves(64)
    exact = model.augmented(given, at())[1]
    with torch.autocast("cpu", torch.bfloat16):
        told = model.augmented(given, at())[1]
    assert torch.equal(told, exact)


def test_augmentations_are_learnt_beside_what_a_start_knows() -> None:
    """The network is the same but for a layer: any model starts it, and it any other."""
    plain, told = tiny.family("flow"), tiny.family("flow", augment=0.3)
    mine, its = plain.state_dict(), told.state_dict()
    assert set(its) - set(mine) == {"generator.told.weight"}
    assert all(its[key].shape == value.shape for key, value in mine.items())


def test_a_source_is_moved_with_its_image() -> None:
    model = tiny.family("flow-pairs", augment=0.8)
    batch = halves(32)
    moved, _ = model.augmented(Batch(batch.images, batch.labels, batch.ids, batch.images.clone()), at())
    assert moved.sources is not None and torch.equal(moved.sources, moved.images)
    assert not torch.equal(moved.images, batch.images)


@pytest.mark.parametrize("backbone", ["unet", "dit"])
@each
def test_without_being_told_of_anything_no_image_is_augmented(name: str, backbone: str) -> None:
    nets = {"depth": 2, "width": 16, "heads": 2, "patch": 4, "widths": (8, 16), "blocks": 1, "attention": (1,)}
    model = tiny.family(name, backbone=backbone, augment=0.5, **nets).eval()
    for parameter in model.generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    x, t = torch.rand(2, 1, 16, 16), model.level(torch.zeros(2))
    y = torch.eye(4)[:2]
    nothing = model.denoise(x, t, torch.cat([y, torch.zeros(2, TOLD)], dim=1))
    assert torch.equal(model.denoise(x, t, y), nothing)
    assert not torch.allclose(model.denoise(x, t, torch.cat([y, torch.ones(2, TOLD)], dim=1)), nothing)


@pytest.mark.slow
def test_augmentations_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that are bright on the left, and mirrored for half of training, the mean one at full noise is bright on
    the left, and on the right when that is told; where nothing is told in training it is neither."""
    monkeypatch.setattr(diffusive, "AUGMENTS", ("xflip",))
    mirror = torch.tensor([-2.0, 0, 0, 0, 0, 0])
    brighter: dict[tuple[bool, bool], float] = {}  # the left than the right
    for informed in (True, False):
        torch.manual_seed(0)
        model = tiny.family("flow", augment=1.0, dropout=0.0)
        own = model.augmented
        if not informed:
            monkeypatch.setattr(model, "augmented", lambda b, a, own=own: (own(b, a)[0], torch.zeros(len(b), TOLD)))
        optimiser = torch.optim.Adam(model.generator.parameters(), lr=3e-3)
        for step in range(100):
            optimiser.zero_grad()
            model.loss("denoise", halves(16), at(step)).total.backward()
            optimiser.step()
        for told in (False, True):
            y = torch.eye(4)[torch.arange(30) % 3]
            with torch.no_grad():
                x = torch.randn(30, 1, 16, 16, generator=torch.Generator().manual_seed(1))
                y = torch.cat([y, mirror.expand(30, -1)], dim=1) if told else y
                found = model.denoise(x, torch.ones(30), y)
            brighter[informed, told] = (found[..., :8].mean() - found[..., 8:].mean()).item()
    assert brighter[True, False] > 1 and brighter[True, True] < -1
    assert abs(brighter[False, False]) < 0.5


@pytest.mark.parametrize("backbone", ["unet", "dit"])
@each
def test_gradient_reaches_every_parameter(name: str, backbone: str) -> None:
    """After three steps, because zero-initialised gates hold it back at first; and it is not 0 anywhere."""
    nets = {"depth": 2, "width": 16, "heads": 2, "patch": 4, "widths": (8, 16), "blocks": 1, "attention": (1,)}
    model = tiny.family(name, backbone=backbone, **nets).train()
    optimiser = torch.optim.Adam(model.generator.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(16, 1, 16, 16, generator=rng) * 2 - 1, torch.arange(16) % 3, torch.arange(16))
    for step in range(4):
        optimiser.zero_grad()
        model.loss("denoise", batch, At(step, 0, 1, rng, torch.ones(3) / 3)).total.backward()
        if step < 3:
            optimiser.step()
    silent = [k for k, p in model.generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
