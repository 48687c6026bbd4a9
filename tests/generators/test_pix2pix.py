"""pix2pix: the paper's nets and losses, the 70x70 patch by gradients, jitter of the pair, dropout from the seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from kartina.config import ImageSpec
from kartina.data.loader import Loader
from kartina.errors import ConfigError, NotFoundError
from kartina.generators.base import At, Batch, Row, build, generate, noise, rows_for
from kartina.generators.pix2pix import Discriminator, Generator, Pix2Pix, TranslateControls
from tests import tiny


def pairs(size: int = 16, channels: int = 1, classes: int = 0) -> ImageSpec:
    return tiny.fitted("pix2pix", tiny.spec(size, channels, classes))


def at(seed: int = 0, fraction: float = 0.0) -> At:
    return At(0, int(fraction * 100), 100, torch.Generator().manual_seed(seed), torch.ones(3) / 3)


def batch(n: int = 2, shape: ImageSpec | None = None) -> Batch:
    shape = shape or pairs()
    rng = torch.Generator().manual_seed(2)
    x = torch.rand(n, *shape.shape, generator=rng) * 2 - 1
    a = torch.rand(n, shape.source_channels, *shape.shape[1:], generator=rng) * 2 - 1
    return Batch(x, torch.arange(n) % max(1, len(shape.classes)), torch.arange(n), a)


def plain(**config: object) -> Pix2Pix:
    """Nothing random but the weights."""
    return tiny.family("pix2pix", shape=pairs(), dropout=0.0, jitter=0.0, **config)


# -- nets --------------------------------------------------------------------------------------------------------------


def published(size: int = 256) -> Pix2Pix:
    spec = ImageSpec(height=size, width=size, channels=3, paired=True, source_channels=3)
    with torch.device("meta"):
        return Pix2Pix(Pix2Pix.Config(), spec)


def test_the_papers_generator() -> None:
    """Appendix 6.1.1: C64-C128-C256-C512 x 5 down; CD512 x 3, C512, C256, C128, C64 up, each on twice its width."""
    g = published().generator
    down = [64, 128, 256, 512, 512, 512, 512, 512]
    assert [c.out_channels for c in g.downs] == down and [c.in_channels for c in g.downs] == [3, *down[:-1]]
    up = [512, 512, 512, 512, 256, 128, 64, 3]
    assert [c.out_channels for c in g.ups] == up
    assert [c.in_channels for c in g.ups] == [512, *(2 * w for w in up[:-1])], "the skip beside each"
    for c in (*g.downs, *g.ups):
        assert c.kernel_size == (4, 4) and c.stride == (2, 2)
    assert g.drops == [(512, 2, 2), (512, 4, 4), (512, 8, 8)] and g.dropout == 0.5
    assert sum(p.numel() for p in g.parameters()) == pytest.approx(54.4e6, rel=0.01)


@pytest.mark.parametrize(("size", "depth"), [(32, 5), (64, 6), (128, 7), (256, 8)])
def test_depth_follows_from_the_size_down_to_1x1(size: int, depth: int) -> None:
    model = published(size)
    g = model.generator
    assert len(g.downs) == len(g.ups) == depth
    with torch.device("meta"):
        maps: list[int] = []
        for conv in g.downs:
            conv.register_forward_hook(lambda _, __, out: maps.append(out.shape[-1]))
        assert g(torch.zeros(2, 3, size, size)).shape == (2, 3, size, size)
        assert maps == [size >> i for i in range(1, depth + 1)] and maps[-1] == 1
        side = size // 8 - 2
        assert model.discriminator(torch.zeros(2, 6, size, size)).shape == (2, side, side)


def test_no_norm_on_the_first_layer_the_output_and_the_1x1_bottleneck() -> None:
    model = published()
    norms = list(model.generator.down_norms)
    assert [isinstance(m, nn.InstanceNorm2d) for m in norms] == [False, *[True] * 6, False]
    assert len(model.generator.up_norms) == len(model.generator.ups) - 1
    layers = [list(layer) for layer in model.discriminator.layers]
    assert [isinstance(layer[1], nn.InstanceNorm2d) for layer in layers] == [False, True, True, True]
    # The bottleneck says something: with a norm at 1x1 it would be constant.
    made = tiny.family("pix2pix", shape=pairs())
    found: list[torch.Tensor] = []
    made.generator.downs[-1].register_forward_hook(lambda _, __, out: found.append(out))
    made.generator(batch(2).sources)
    assert found[0].shape[2:] == (1, 1) and not torch.allclose(found[0][0], found[0][1])


def test_weights_and_optimiser_are_the_papers() -> None:
    model = tiny.family("pix2pix", shape=pairs(32), width=32, width_max=64)
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.weight.numel() > 5000:
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(model.optimiser(k, None).betas == (0.5, 0.999) for k in "DG")
    assert Pix2Pix.presets["pix2pix-256"].train["lr"] == 2e-4 and Pix2Pix.presets["pix2pix-256"].train["batch"] == 1
    settings = Pix2Pix.Config()
    assert (settings.l1, settings.loss, settings.gamma, settings.augment) == (100, "softplus", 0, "none")


@pytest.mark.parametrize(("patch", "side"), [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_the_patch_by_gradients(patch: int, side: int) -> None:
    """Which pixels one logit depends on, without norms (their statistics are of the whole map)."""
    d = Discriminator(Pix2Pix.Config(width=4, width_max=4, patch=patch), 1024, 1)
    for layer in d.layers:
        layer[1] = nn.Identity()
        layer[2] = nn.Identity()
    for p in d.parameters():
        nn.init.ones_(p)
    size = 2 * side
    x = torch.zeros(1, 1, size, size, requires_grad=True)
    logits = d(x)
    logits[0, logits.shape[1] // 2, logits.shape[2] // 2].backward()
    rows, cols = (x.grad[0, 0].abs().sum(dim=k).nonzero().flatten() for k in (1, 0))
    assert len(rows) == len(cols) == side
    assert rows[-1] - rows[0] == side - 1, "without holes"


def test_d_sees_the_source_beside_the_image() -> None:
    model, real = plain(), batch(1)
    y = model.label(real, at())
    assert torch.equal(y, real.sources)
    other = y.clone()
    other[:, 0, 8, 8] += 1
    assert not torch.equal(model.score(real.images, y, at()), model.score(real.images, other, at()))
    seen: list[torch.Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.score(real.images, y, at())
    assert torch.equal(seen[0], torch.cat([real.sources, real.images], dim=1))


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    model, real = plain(l1=100.0, gamma=0.0), batch(2)
    with torch.no_grad():
        fake = model.generator(real.sources)
        on_real, on_fake = (model.discriminator(torch.cat([real.sources, x], 1)).double() for x in (real.images, fake))
    assert on_real.shape == (2, 2, 2)
    p_real, p_fake = torch.sigmoid(on_real), torch.sigmoid(on_fake)
    d = -(p_real.log().mean() + (1 - p_fake).log().mean()) / 2
    assert model.loss("D", real, at()).total.item() == pytest.approx(d.item(), rel=1e-5)
    l1 = (fake - real.images).abs().double().mean()
    g = -p_fake.log().mean() + 100 * l1
    found = model.loss("G", real, at())
    assert found.total.item() == pytest.approx(g.item(), rel=1e-5)
    assert found.stats["l1"].item() == pytest.approx(l1.item(), rel=1e-5)
    assert found.stats["loss_G"].item() == pytest.approx(-p_fake.log().mean().item(), rel=1e-5)


def test_each_phase_trains_its_own_net() -> None:
    model, real = plain(gamma=0.0), batch(2)
    for phase, mine, other in (
        ("D", model.discriminator, model.generator),
        ("G", model.generator, model.discriminator),
    ):
        model.zero_grad()
        for p in model.parameters():
            p.requires_grad_(False)
        for p in mine.parameters():
            p.requires_grad_(True)
        model.loss(phase, real, at()).total.backward()
        assert all(p.grad is not None for p in mine.parameters()) and all(p.grad is None for p in other.parameters())


def test_all_of_ds_objective_is_halved_once() -> None:
    """The penalty too, whether it is lazy or part of every step."""
    real = batch(2)
    lazy, eager, none = plain(gamma=2.0, penalty_every=4), plain(gamma=2.0, penalty_every=1), plain(gamma=0.0)
    penalty = lazy.loss("penalty", real, at()).total / 4
    together = eager.loss("D", real, at()).total
    assert together.item() == pytest.approx((none.loss("D", real, at()).total + penalty).item(), rel=1e-5)
    square = lazy.loss("penalty", real, at()).stats["penalty"]
    assert penalty.item() == pytest.approx(square.item() * 2.0 / 2 / 2, rel=1e-5)


# -- jitter ------------------------------------------------------------------------------------------------------------


def test_the_pair_is_jittered_alike_and_each_pair_for_itself() -> None:
    model = tiny.family("pix2pix", shape=pairs(32), jitter=0.25)
    row, col = torch.meshgrid(torch.linspace(-0.9, 0.9, 32), torch.linspace(-0.9, 0.9, 32), indexing="ij")
    ramp = (row + 2 * col)[None, None].expand(8, 1, 32, 32) / 3
    given = Batch(ramp, torch.zeros(8, dtype=torch.int64), torch.arange(8), ramp.expand(8, 3, 32, 32))
    found = model.jittered(given, at(3))
    assert found.images.shape == given.images.shape and found.sources.shape == given.sources.shape
    assert all(torch.equal(found.sources[:, k], found.images[:, 0]) for k in range(3)), "one place for both"
    assert len({image.numpy().tobytes() for image in found.images}) == 8, "its own place for each"
    again = model.jittered(given, at(3))
    assert torch.equal(found.images, again.images), "a function of the update's generator"
    assert not torch.equal(found.images, model.jittered(given, at(4)).images)


@pytest.mark.parametrize(("size", "large"), [(256, 286), (128, 143), (64, 72), (32, 36)])
def test_286_to_256_scaled_to_the_size(size: int, large: int) -> None:
    """Against Pillow's own enlargement: the crop is found there, at a whole-pixel place within the margin."""
    model = tiny.family("pix2pix", shape=pairs(size, channels=3))
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 200, (8, 8, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    pixels = torch.from_numpy(np.asarray(coarse).transpose(2, 0, 1).copy())[None].float() / 127.5 - 1
    given = Batch(pixels, torch.zeros(1, dtype=torch.int64), torch.arange(1), pixels[:, :1])
    cut = model.jittered(given, at(1)).images[0]
    whole = np.asarray(coarse.resize((large, large), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(np.float32)
    whole = torch.from_numpy(whole) / 127.5 - 1
    room = large - size + 1
    far = torch.tensor(
        [[(cut - whole[:, y : y + size, x : x + size]).abs().max() for x in range(room)] for y in range(room)]
    )
    assert far.min() < 0.03
    assert (far < 0.03).sum() <= 2, "one place, not any"


def test_jitter_reaches_every_place() -> None:
    model = tiny.family("pix2pix", shape=pairs(32))  # 36 -> 32: five places each way
    given = Batch(torch.zeros(400, 1, 32, 32), torch.zeros(400, dtype=torch.int64), torch.arange(400))
    spot = torch.full((400, 3, 32, 32), -1.0)
    spot[:, :, 16, 16] = 1
    found = model.jittered(replace(given, sources=spot), at()).sources[:, 0].flatten(1).argmax(dim=1)
    assert len(found.unique()) == 25


def test_flips_come_from_the_loader_for_both() -> None:
    data = tiny.images(60, pairs(16, classes=3)).part("train")
    taken = Loader(data, 32, flip=True).take(0)
    assert taken.flipped.any() and not taken.flipped.all()
    assert (taken.sources[:, :1] == 255 - taken.images[:, :1]).all()


# -- labels and switches -----------------------------------------------------------------------------------------------


def test_a_label_is_a_plane_a_class() -> None:
    model = tiny.family("pix2pix", shape=pairs(classes=3))
    real = batch(3, pairs(classes=3))
    y = model.label(real, at())
    assert y.shape == (3, 3 + 3, 16, 16) and torch.equal(y[:, :3], real.sources)
    assert torch.equal(y[:, 3:].mean(dim=(2, 3)), torch.eye(3)) and y[:, 3:].std(dim=(2, 3)).max() == 0
    assert tiny.family("pix2pix", shape=pairs(classes=3), conditional=False).planes == 0
    assert tiny.family("pix2pix", shape=pairs()).planes == 0, "no classes, no plane"
    fading = tiny.family("pix2pix", shape=pairs(classes=3), transition=(0.2, 0.6))
    assert torch.allclose(fading.label(real, at(fraction=0.1))[:, 3:], torch.tensor(1 / 3))
    half = fading.label(real, at(fraction=0.4))[:, 3:, 0, 0]
    assert torch.allclose(half, torch.eye(3) / 2 + 1 / 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_diffaugment_moves_the_pair_together(channels: int) -> None:
    model = tiny.family(
        "pix2pix", shape=pairs(channels=channels), augment="diffaugment", translate=0.4, cutout=0.4, colour=0.0
    )
    seen: list[torch.Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ramp = torch.linspace(-0.9, 0.9, 256).reshape(1, 1, 16, 16).expand(6, -1, -1, -1)
    deep = model.spec.source_channels
    model.score(ramp.expand(-1, channels, -1, -1), ramp.expand(-1, deep, -1, -1), at())
    (both,) = seen
    assert all(torch.equal(both[:, k], both[:, 0]) for k in range(deep + channels))
    assert len({image.numpy().tobytes() for image in both}) == 6 and not torch.equal(both[:, :1], ramp)


def test_ada_needs_as_many_channels_in_both() -> None:
    with pytest.raises(ConfigError, match="sources of 3 and targets of 1 channels"):
        tiny.family("pix2pix", shape=pairs(), augment="ada")
    shape = pairs().model_copy(update={"source_channels": 1})
    model = build(Pix2Pix, {**tiny.TINY["pix2pix"], "augment": "ada"}, shape)
    assert torch.isfinite(model.loss("D", batch(2, shape), at()).total)


def test_frozen_layers_are_counted_from_the_image() -> None:
    model = plain(freeze_d=1)
    (phase,) = [p for p in model.phases() if p.name == "D"]
    frozen = {id(p) for p in model.discriminator.parameters()} - {id(p) for p in phase.params}
    assert frozen == {id(p) for p in model.discriminator.layers[0].parameters()}


def test_data_without_pairs_and_wrong_sizes_are_refused_in_words() -> None:
    config = Pix2Pix.Config()
    with pytest.raises(ConfigError, match=r"without pairs.*SPLIT/A.*SPLIT/B"):
        Pix2Pix(config, tiny.spec(32))
    for size in (24, 4, 512):
        with pytest.raises(ConfigError, match=rf"{size}x{size}; pix2pix needs square"):
            Pix2Pix(config, pairs(size))


# -- sampling ----------------------------------------------------------------------------------------------------------


def translate(model: Pix2Pix, n: int, seed: int, **controls: bool) -> torch.Tensor:
    inputs = tiny.inputs(model, "translate", 1)
    rows = rows_for(model, [0], n, seed, TranslateControls(**controls), "translate", inputs)
    return generate(model, rows).images


def test_dropout_at_test_time_comes_from_the_seed() -> None:
    model = tiny.sampler("pix2pix", shape=pairs())
    made = translate(model, 6, seed=3)
    assert torch.equal(made, translate(model, 6, seed=3)), "same seed, same image"
    assert len({image.numpy().tobytes() for image in made}) == 6, "other seed, other image"
    assert torch.equal(made[2:], translate(model, 4, seed=5)), "whatever stands beside it"
    still = translate(model, 3, seed=3, dropout=False)
    assert torch.equal(still[0], still[1]) and not torch.equal(still[0], made[0])


@pytest.mark.parametrize("p", [0.5, 0.2, 0.0])
def test_masks_are_those_of_dropout(p: float) -> None:
    """Units fall with probability p and the others make up for it; the same units whatever p is above theirs."""
    model = tiny.sampler("pix2pix", shape=pairs(64), width=64, width_max=64, dropout=p)
    row = Row(torch.ones(1), 11, TranslateControls(), "translate")
    mask = model.mask(row, 2)
    n = mask.numel()
    assert mask.shape == (64, 8, 8) and torch.allclose(mask[mask > 0], torch.tensor(1 / (1 - p)))
    assert (mask == 0).float().mean().item() == pytest.approx(p, abs=4 * math.sqrt(max(p * (1 - p), 1e-9) / n) + 1e-9)
    if p == 0.5:
        assert torch.equal(mask > 0, noise(11, "dropout2", 0, (64, 8, 8)) > 0)
    assert p == 0 or not torch.equal(model.mask(row, 1).flatten(), mask.flatten()[: 64 * 16]), "each layer its own"


def test_masks_multiply_what_dropout_would() -> None:
    """One decoder by hand, on the 8x8 image whose U-Net has three levels."""
    model = tiny.sampler("pix2pix", shape=pairs(8), dropped=2)
    g = model.generator
    assert isinstance(g, Generator) and g.drops == [(16, 2, 2), (8, 4, 4)]
    y = torch.randn(1, 3, 8, 8)
    masks = [torch.rand(1, *shape) for shape in g.drops]
    with torch.no_grad():
        a = g.downs[0](y)
        b = g.down_norms[1](g.downs[1](F.leaky_relu(a, 0.2)))
        c = g.downs[2](F.leaky_relu(b, 0.2))
        up = torch.cat([g.up_norms[0](g.ups[0](F.relu(c))) * masks[0], b], 1)
        up = torch.cat([g.up_norms[1](g.ups[1](F.relu(up))) * masks[1], a], 1)
        assert torch.allclose(g(y, masks), torch.tanh(g.ups[2](F.relu(up))), atol=1e-6)


def test_training_draws_dropout_from_the_global_generator() -> None:
    model = tiny.family("pix2pix", shape=pairs(), jitter=0.0).train()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model.loss("G", batch(), at()).total.item())
    assert losses[0] == losses[1] != losses[2]


def test_it_has_no_task_without_an_image() -> None:
    model = tiny.sampler("pix2pix", shape=pairs())
    with pytest.raises(NotFoundError, match="'generate'; there are: translate"):
        rows_for(model, [0], 1, 0)
    with pytest.raises(ConfigError, match="no image for the task 'translate'"):
        rows_for(model, [0], 1, 0, task="translate")
    other = tiny.sampler("vae")
    with pytest.raises(ConfigError, match="'generate', which takes none"):
        rows_for(other, [0], 1, 0, inputs={"image": [torch.zeros(1, 16, 16)]})


def test_it_learns_a_translation() -> None:
    """Negative in grey from a colour source: after 60 steps the L1 distance has halved at least."""
    shape = pairs(16, classes=0)
    model = tiny.family("pix2pix", shape=shape, gamma=0.0, width=16, width_max=32, dropout=0.0).train()
    data = tiny.images(64, shape)
    x, a = (torch.from_numpy(v.copy()).float() / 127.5 - 1 for v in (data.images, data.sources))
    optimisers = {p.name: torch.optim.Adam(p.params, lr=2e-3, betas=(0.5, 0.999)) for p in model.phases()}
    distance = []
    for step in range(60):
        at_step = At(step, step * 8, 480, torch.Generator().manual_seed(step), torch.ones(1))
        index = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:8]
        given = Batch(x[index], torch.zeros(8, dtype=torch.int64), index, a[index])
        for phase in model.phases():
            optimisers[phase.name].zero_grad()
            found = model.loss(phase.name, given, at_step)
            found.total.backward()
            optimisers[phase.name].step()
        distance.append(found.stats["l1"].item())
    assert np.mean(distance[-5:]) < np.mean(distance[:5]) / 4
