"""Muon on networks: which parameters it takes, what a step is, and that it resumes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kartina.training import checkpoint, muon
from kartina.training.loop import Trainer, train
from tests import tiny

WIDE = {"widths": (32, 32)}  # matrices that are not thin


def test_it_takes_matrices_and_kernels_that_are_not_thin() -> None:
    assert muon.suits("up.weight", torch.zeros(64, 32)) and muon.suits("inp.weight", torch.zeros(32, 4, 3, 3))
    for name in ("generator.label.weight", "prior.table", "generator.shared.weight", "told.weight"):
        assert not muon.suits(name, torch.zeros(256, 101)), "an embedding, of however many classes"
    for thin in ((64,), (64, 31), (31, 64), (3, 64, 3, 3), (64, 3, 3, 3), (1, 64, 1, 1)):
        assert not muon.suits("up.weight", torch.zeros(thin)), thin


@pytest.mark.parametrize("shape", [(40, 64), (96, 40), (40, 8, 3, 3), (48, 40, 1, 1)])
def test_the_first_step_is_the_gradients_polar_factor(shape: tuple[int, ...]) -> None:
    """G = U S V^T: the step is about U V^T (by SVD), 0.2 sqrt(the longer side) lr long in every direction."""
    p, lr = nn.Parameter(torch.zeros(shape)), 1e-2
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    g = p.grad.reshape(shape[0], -1)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    muon.Muon([p], lr).step()
    moved = -p.detach().reshape(shape[0], -1) / (lr * 0.2 * math.sqrt(max(g.shape)))
    lengths = torch.linalg.svdvals(moved)
    # Five Newton-Schulz steps leave the strong directions between 0.68 and 1.13 (Jordan 2024); weak ones are shorter.
    assert lengths.max() < 1.2 and lengths[: len(lengths) // 2].min() > 0.65
    assert F.cosine_similarity(moved.flatten(), (u @ vh).flatten(), dim=0) > 0.97


def test_the_memory_format_changes_nothing() -> None:
    """The columns of a kernel's matrix may stand in any order: its polar factor has them in that order too."""
    torch.manual_seed(0)
    start, grads = torch.randn(40, 8, 3, 3), torch.randn(3, 40, 8, 3, 3)
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(start.clone(memory_format=form))
        made = muon.Muon([p], 1e-2)
        for grad in grads:
            made.zero_grad()
            assert p.grad is None
            p.grad = grad.clone()  # in the other layout, as a kernel's gradient may be
            made.step()
        assert p.is_contiguous(memory_format=form)
        found.append(p.detach())
    assert not torch.equal(found[0], start)
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


def test_steps_are_those_of_torchs_own() -> None:
    """Of matrices tall, wide and of one shape, over several steps; torch's iteration is in bfloat16."""
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=rng) for shape in ((40, 64), (64, 40), (40, 64), (40, 360))]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    mine = muon.Muon(ours, 1e-2, 0.9, 0.1)
    torchs = torch.optim.Muon(theirs, lr=1e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=rng)
        mine.step()
        torchs.step()
    for p, q, first in zip(ours, theirs, start, strict=True):
        assert (p - first).abs().max() > 1e-2
        torch.testing.assert_close(p, q, atol=2e-3, rtol=0)


def test_the_iteration_on_the_square_is_the_iteration_on_the_matrix() -> None:
    """In float64, and in float32 with singular values over four orders of magnitude."""
    a, b, c = muon.QUINTIC
    u, _, vh = torch.linalg.svd(torch.randn(2, 48, 200, dtype=torch.float64), full_matrices=False)
    x = u @ torch.diag_embed(torch.logspace(0, -4, 48, dtype=torch.float64)) @ vh
    x = x / x.norm(dim=(1, 2), keepdim=True)
    expected = x
    for _ in range(muon.STEPS):
        g = expected @ expected.mT
        expected = a * expected + (b * g + c * g @ g) @ expected
    for dtype, apart in ((torch.float64, 1e-12), (torch.float32, 1e-3)):  # bfloat16 is apart by 1e-2
        y = x.to(dtype)
        torch.testing.assert_close((muon.polar(y @ y.mT) @ y).double(), expected, atol=apart, rtol=0)


def test_the_loop_gives_it_the_matrices_and_adam_the_rest() -> None:
    config = tiny.run_config("flow", tiny.images(), 1000, WIDE, optimizer="muon", decay="linear")
    made = Trainer(config, tiny.images())
    (matrices,), (rest,) = made.muons.values(), made.optimisers.values()
    taken = {made.names[id(m)] for m in matrices.matrices}
    left = {made.names[id(p)] for p in rest.param_groups[0]["params"]}
    names = dict(made.family.named_parameters())
    assert not taken & left and taken | left == set(names)
    assert taken == {k for k, p in names.items() if p.dim() > 1 and min(p.flatten(1).shape) >= 32}
    assert "generator.last.weight" in left and "generator.label.weight" in left
    before = {k: p.detach().clone() for k, p in names.items()}
    for _ in range(3):
        made.step()
    assert all(not torch.equal(p, before[k]) for k, p in names.items())
    assert matrices.param_groups[0]["lr"] == rest.param_groups[0]["lr"] < config.train.lr, "one schedule"


def test_paused_and_resumed_equals_undisturbed(home: Path) -> None:
    def weights(optimizer: str, pauses: bool) -> dict[str, torch.Tensor]:
        run = tiny.run("flow", home, n=8 * 9, config=WIDE, optimizer=optimizer)
        while True:
            calls = iter([False, True])
            if train(run, stop=(lambda calls=calls: next(calls)) if pauses else None) == "finished":
                break
        found = checkpoint.read(run.checkpoint()).tensors
        return {f"{g}/{k}": v for g, group in found.items() for k, v in group.items()}

    whole, broken, adam = weights("muon", False), weights("muon", True), weights("adam", False)
    assert any(k.endswith("/momentum_buffer") for k in whole)
    assert whole.keys() == broken.keys() and all(torch.equal(v, broken[k]) for k, v in whole.items())
    assert any(not torch.equal(v, adam[k]) for k, v in whole.items() if k.startswith("model/"))
