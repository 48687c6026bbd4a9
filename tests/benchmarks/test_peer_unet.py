"""The plain U-Net beside ours: as large, plainly trained, and compared at equal quality."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import peer_unet
from kartina import registry
from kartina.generators.base import build
from kartina.training.catalogue import on_meta, usual
from tests import tiny

SMALL = {"widths": (32, 32), "attention": (1,)}


@pytest.fixture(autouse=True)
def peer() -> Iterator[None]:
    """The peer is known to these tests alone."""
    peer_unet.register_peer()
    yield
    registry.unregister("plain_unet")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_peer_is_as_large_as_ours(channels: int) -> None:
    sizes = []
    for name in (peer_unet.OURS, peer_unet.PEER, peer_unet.TUNED):
        family_name, preset = registry.preset(name)
        family = registry.family(family_name)
        made = on_meta(family, preset, usual(family, preset, channels))
        sizes.append(sum(p.numel() for p in made.generator.parameters()))
    assert sizes[1] == sizes[2]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_its_loss_is_that_of_the_velocity() -> None:
    """|v_theta - (e - x)|^2 at times that are uniform in [0, 1], by the network's own output."""
    made = build(registry.family("plain_unet"), SMALL, tiny.spec(8))
    assert isinstance(made, peer_unet.PlainFlow)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    rng = torch.Generator().manual_seed(0)
    x, e = torch.rand(6, 1, 8, 8, generator=rng) * 2 - 1, torch.randn(6, 1, 8, 8, generator=rng)
    t = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.8, 0.99])
    labels = torch.tensor([0, 1, 2, 3, 0, 1])  # 3 is the null label
    z = torch.distributions.Normal(0.0, 1.0).icdf(t)
    net = made.generator
    assert isinstance(net, peer_unet.PlainNet)
    with torch.no_grad():
        loss = made.error(x, e, z, labels).total
        moved = x + t[:, None, None, None] * (e - x)
        v = net.net(moved, t * 1000, class_labels=labels).sample
    assert v.abs().max() > 1e-3
    torch.testing.assert_close(loss, (v - (e - x)).square().mean(), rtol=1e-3, atol=0)


def test_every_class_and_the_null_label_are_told_apart() -> None:
    made = build(registry.family("plain_unet"), SMALL, tiny.spec(8)).sampler()
    net = made.generator
    assert isinstance(net, nn.Module)
    x, t = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    outs = [net(x, t, y[None]) for y in torch.eye(4)]
    assert all((a - b).abs().max() > 0 for i, a in enumerate(outs) for b in outs[:i])


def test_cost_to_be_as_good_is_read_between_points() -> None:
    curve = [(100.0, 10.0), (300.0, 20.0), (1000.0, 1.0), (2000.0, 4.0)]  # the worse of later ones is passed over
    assert peer_unet.needed(curve, 10**0.5) == pytest.approx(10**2.5)
    assert peer_unet.needed(curve, 50) == 100 and peer_unet.needed(curve, 1) == pytest.approx(1000)
    assert peer_unet.needed(curve, 0.9) is None


def test_ratios_are_of_costs_at_equal_quality() -> None:
    ours = [(10.0, 10.0), (100.0, 1.0)]
    peer = [(50.0, 40.0), (80.0, 10.0), (400.0, 10**0.5)]
    found = peer_unet.ratios(ours, peer)
    assert [(fd, reached) for fd, _, _, reached in found] == [(40.0, True), (10.0, True), (10**0.5, True), (1.0, False)]
    assert [cost / mine for _, mine, cost, _ in found] == pytest.approx([5, 8, 400 / 10**1.5, 4])


@pytest.mark.slow
def test_curves_are_measured_once_and_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny nets from end to end: trained, paused, measured; a second call measures nothing again."""
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 2))
    monkeypatch.setattr(peer_unet, "SHARES", (0.25, 1.0))
    tiny.store(tiny.images(96, tiny.spec(32)), home)
    out = tmp_path / "out"
    out.mkdir()
    row = {"parameters": 1, "img/s": 10.0, "MFLOP/img": 1.0, "share": 0.5, "sampling img/s": 1.0,
           "sampling MFLOP/img": 1.0, "sampling share": 0.5}  # fmt: skip
    rows = {peer_unet.OURS: row, peer_unet.PEER: {**row, "img/s": 2.0}}
    speed = {
        "machine": "a machine",
        "threads": 1,
        "precision": "fp32",
        "rounds": 1,
        "sampler": "a solver",
        "ceiling": {"fp32": 1.0},
    }
    (out / "speed.json").write_text(json.dumps({**speed, "channels": {"1": rows}}))
    arms = [f"{peer_unet.OURS}:40", f"{peer_unet.PEER}:40"]
    settings = [s for pair in ("widths=[32,32]", "attention=[1]", "threads=1", "batch=8") for s in ("--set", pair)]
    call = ["curve", *arms, "--data", "blobs", "--device", "cpu", "--samples", "12", "--steps", "1", *settings]
    peer_unet.main([*call, "--out", str(out)])

    results = json.loads((out / "curve.json").read_text())
    assert list(results) == arms and list(results[arms[0]]["0"]) == ["25%", "100%"]
    images = [r["images"] for r in results[arms[1]]["0"].values()]
    assert images == [16, 40]  # whole batches of 8
    told = (out / "README.md").read_text()
    assert "diffusers' UNet2DModel" in told
    assert f"| {peer_unet.PEER}, 40 | 40 | 20 |" in told and f"| {peer_unet.OURS}, 40 | 40 | 4 |" in told
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"

    before = (out / "curve.json").read_bytes()
    peer_unet.main([*call, "--out", str(out)])
    assert (out / "curve.json").read_bytes() == before and len(list((home / "runs").glob("0*"))) == 2
