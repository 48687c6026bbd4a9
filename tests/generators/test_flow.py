"""Flow: loss by hand, solver order on a Gaussian with a known solution, guidance, mixed batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kartina.generators.base import At, Batch, Row, State, generate, rows_for
from kartina.generators.flow import Flow, FlowControls
from tests import tiny

MU, SIGMA = 0.3, 0.25


class Gaussian(Flow):
    """Data ~ N(MU, SIGMA^2) per pixel: the best denoiser in closed form, so the path's end is MU + SIGMA * noise."""

    calls: list[int]

    def denoise(self, x: Tensor, t: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
        self.calls.append(len(x))
        t = t[:, None, None, None]
        gain = (1 - t) * SIGMA**2 / ((1 - t) ** 2 * SIGMA**2 + t**2)
        return MU + gain * (x - (1 - t) * MU)


def gaussian() -> Gaussian:
    model = Gaussian(Flow.Config(**tiny.TINY["flow"]), tiny.spec()).sampler()
    model.calls = []
    return model


def row(seed: int, label: int = 0, **controls: Any) -> Row:
    return Row(torch.eye(3)[label], seed, FlowControls(**controls))


def run(model: Flow, rows: list[Row]) -> Tensor:
    """Float images N,C,H,W at the end of the path."""
    with torch.inference_mode():
        state = model.start(rows)
        while not bool(state.done.all()):
            state = model.step(state)
    return state["x"]


@pytest.mark.parametrize(("solver", "low", "high"), [("euler", 1.7, 2.3), ("heun", 3.3, 5.0)])
def test_order_on_a_gaussian(solver: str, low: float, high: float) -> None:
    model = gaussian()
    exact = MU + SIGMA * model.start([row(0)])["x"]
    errors = [
        (run(model, [row(0, solver=solver, steps=n, guidance=1, spacing=1)]) - exact).abs().mean().item()
        for n in (16, 32, 64)
    ]
    assert all(low < a / b < high for a, b in pairwise(errors)), errors


def test_evaluations_per_step() -> None:
    for solver, steps, evaluations in (("euler", 10, 10), ("heun", 10, 19), ("heun", 1, 1), ("euler", 1, 1)):
        model = gaussian()
        run(model, [row(0, solver=solver, steps=steps, guidance=1)])
        assert model.calls == [1] * evaluations


def test_mixed_step_counts_share_forwards() -> None:
    """Batching equal steps only is wrong but passes: Euler 4, 10 and 20 together take 20 forwards."""
    model = gaussian()
    run(model, [row(0, solver="euler", steps=n, guidance=1) for n in (4, 10, 20)])
    assert len(model.calls) == 20
    assert model.calls == [3] * 4 + [2] * 6 + [1] * 10, "finished rows cost nothing"


def test_guidance_one_makes_no_unconditional_evaluation() -> None:
    model = gaussian()
    run(model, [row(0, solver="euler", steps=2, guidance=1), row(1, solver="euler", steps=2, guidance=3)])
    assert model.calls == [3, 3], "one row more for the guided one alone"


def test_guidance_by_hand() -> None:
    model = tiny.sampler("flow")
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 0.9])
    y = torch.eye(4)[[0, 1]]
    null = torch.eye(4)[[3, 3]]
    with torch.inference_mode():
        conditional, unconditional = model.denoise(x, t, y), model.denoise(x, t, null)
        for w in (0.0, 0.5, 1.0, 3.0):
            expected = unconditional + w * (conditional - unconditional)
            assert torch.allclose(model.guided(x, t, y, torch.tensor([w, w])), expected, atol=1e-5)
    assert not torch.allclose(conditional, unconditional), "the null label is its own embedding"
    zero = model.denoise(x, t, torch.eye(4)[[0, 0]])
    assert not torch.allclose(zero, model.denoise(x, t, null)), "and not class 0"


def test_mixed_rows_joining_late_equal_their_solo_runs() -> None:
    model = tiny.sampler("flow")
    rows = [
        row(1, 0, solver="euler", steps=5, guidance=1),
        row(2, 1, solver="heun", steps=9, guidance=3),
        row(3, 2, solver="heun", steps=4, guidance=2),
    ]
    with torch.inference_mode():
        state = model.start(rows[:2])
        for _ in range(3):
            state = model.step(state)
        state = State.cat([state, model.start(rows[2:])])
        while not bool(state.done.all()):
            state = model.step(state)
    together = model.finish(state).images
    solo = torch.cat([generate(model, [r]).images for r in rows])
    assert (together.int() - solo.int()).abs().max() <= 1


@pytest.mark.parametrize("n", [1, 3, 16])
def test_batch_size_changes_nothing_beyond_rounding(n: int) -> None:
    model = tiny.sampler("flow")
    rows = rows_for(model, [0, 1, 2], 16, 40)
    assert (generate(model, rows, n).images.int() - generate(model, rows, 16).images.int()).abs().max() <= 1


def test_loss_by_hand() -> None:
    """|v_theta - v|^2 = |D - x|^2 / t^2, with t clamped below at t_min."""

    class Off(Flow):
        def denoise(self, x: Tensor, t: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
            self.t, self.x_t, self.y = t, x, y
            return batch.images + 0.5

    model = Off(Flow.Config(**{**tiny.TINY["flow"], "t_mean": -2.0, "label_dropout": 0.5}), tiny.spec())
    batch = Batch(torch.rand(64, 1, 16, 16) * 2 - 1, torch.arange(64) % 3, torch.arange(64))
    loss = model.loss("flow", batch, At(0, 0, 1, torch.Generator().manual_seed(0), torch.ones(3) / 3))
    weight = model.t.clamp(min=0.1) ** -2
    assert loss.total.item() == pytest.approx((weight * 0.25).mean().item(), rel=1e-5)
    assert (model.t < 0.1).any(), "the clamp is exercised"
    noise = (model.x_t - (1 - model.t[:, None, None, None]) * batch.images) / model.t[:, None, None, None]
    assert noise.std().item() == pytest.approx(1, abs=0.02) and abs(noise.mean().item()) < 0.02
    dropped = model.y[:, -1] == 1
    assert 16 < dropped.sum() < 48 and torch.equal(model.y[~dropped].argmax(1), batch.labels[~dropped])


def test_previews_end_as_the_image() -> None:
    model = tiny.sampler("flow")
    with torch.inference_mode():
        state = model.start([row(0, steps=3)])
        while not bool(state.done.all()):
            state = model.step(state)
            assert model.preview(state).shape == (1, 1, 16, 16)
    assert torch.equal(model.preview(state), model.finish(state).images)


def test_shifted_times_keep_the_ends_and_crowd_towards_noise() -> None:
    model = tiny.sampler("flow", shift=3.0)
    u = torch.linspace(0, 1, 5)
    assert model.time(u).tolist() == pytest.approx([0, 0.75 / 1.5, 1.5 / 2, 2.25 / 2.5, 1])
    assert torch.equal(tiny.sampler("flow").time(u), u)
