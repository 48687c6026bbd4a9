"""StyleGAN2-ADA: the paper's formulation with per-sample weights, its regularisers by hand, its lazy optimisers, and
what the style is used for: truncation, mixing, interpolation, inversion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.augment.ada import INTERVAL
from kartina.errors import ConfigError
from kartina.generators.base import At, Batch, Row, from_uint8, generate, noise, rows_for
from kartina.generators.stylegan2_ada import Conv, Linear, StyledConv, StyleGAN2ADA, ToImage, distance, unit
from kartina.training import checkpoint
from kartina.training.loop import Trainer
from tests import tiny

NAME = "stylegan2_ada"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(seed: int = 0) -> At:
    return At(0, 0, 1000, rng(seed), torch.ones(3) / 3)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def batch(n: int = 4, size: int = 16) -> Batch:
    x = torch.rand(n, 1, size, size, generator=rng(2)) * 2 - 1
    return Batch(x, torch.arange(n) % 3, torch.arange(n))


def model(size: int = 16, **config: Any) -> StyleGAN2ADA:
    made = tiny.family(NAME, shape=tiny.spec(size), **config)
    assert isinstance(made, StyleGAN2ADA)
    return made


def double(size: int = 8, **config: Any) -> StyleGAN2ADA:
    """A tiny model in float64, its label weights included, whose noise inputs count."""
    made = model(size, **config).double()
    made.one_hot = lambda labels: F.one_hot(labels, 3).double()  # type: ignore[method-assign]
    for i, layer in enumerate(m for m in made.modules() if isinstance(m, StyledConv)):
        layer.strength.data.fill_(0.3 + 0.1 * i)
    return made


@pytest.fixture(scope="module")
def sampler() -> StyleGAN2ADA:
    """A tiny model ready to sample, with mean styles, and noise inputs that count."""
    made = tiny.sampler(NAME)
    assert isinstance(made, StyleGAN2ADA)
    made.settle(tiny.images().part("train"), rng())
    for layer in made.modules():
        if isinstance(layer, StyledConv):
            layer.strength.data.fill_(0.5)
    return made


def row(made: StyleGAN2ADA, seed: int = 3, label: int = 1, task: str = "generate", **controls: Any) -> Row:
    settings = made.capabilities()[task].controls(**controls)
    return rows_for(made, [label], 1, seed, settings, task)[0]


def image(made: StyleGAN2ADA, *rows: Row) -> Tensor:
    """The rows' images before they are rounded, N,C,H,W."""
    with torch.inference_mode():
        return made.step(made.start(rows))["x"].clone()


# -- synthesis ---------------------------------------------------------------------------------------------------------


def styled(up: bool, scale: float = 1.0) -> StyledConv:
    torch.manual_seed(0)
    layer = StyledConv(5, 7, 6, up=up).double()
    layer.weight.data *= scale
    layer.strength.data.fill_(0.7)
    layer.bias.data = randn(7, seed=4)
    return layer


def per_sample(layer: StyledConv, w: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's weights N,O,I,3,3 after modulation (eq. 1), and after demodulation (eq. 3)."""
    s = w @ layer.affine.weight.T / math.sqrt(w.shape[1]) + layer.affine.bias
    modulated = s[:, None, :, None, None] * layer.weight / math.sqrt(layer.weight[0].numel())
    return modulated, modulated / (modulated.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()


def grouped(x: Tensor, weight: Tensor, up: bool) -> Tensor:
    """One convolution with as many groups as rows; with `up` zeros in, all of the result, then the [1,3,3,1] filter."""
    n, o = weight.shape[:2]
    if up:
        wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
        wide[:, :, ::2, ::2] = x
        x = wide
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), padding=2 if up else 1, groups=n)
    if up:
        line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
        taps = 4 * torch.outer(line, line)  # the inserted zeros take three quarters of the sum
        y = F.conv2d(y, taps.expand(n * o, 1, 4, 4), padding=1, groups=n * o)
    return y.reshape(n, o, *y.shape[2:])


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-4])  # at the second, eps is as large as the squares
def test_demodulation_is_the_grouped_convolution_with_each_rows_weights(up: bool, scale: float) -> None:
    layer, x, w = styled(up, scale), randn(3, 5, 6, 4, seed=1), randn(3, 6, seed=2)
    side = 2 if up else 1
    maps = randn(3, 1, 6 * side, 4 * side, seed=3)
    before, weight = per_sample(layer, w)
    squares = weight.square().sum(dim=(2, 3, 4))
    assert squares.shape == (3, 7)
    if scale == 1:
        assert torch.allclose(squares, torch.ones_like(squares), atol=1e-6)
    else:
        assert squares.max() < 0.95
    demodulated = before * layer.demodulation(layer.affine(w) / math.sqrt(45))[:, :, None, None, None]
    assert torch.allclose(demodulated, weight, rtol=1e-9)
    expected = grouped(x, weight, up) + 0.7 * maps + layer.bias[:, None, None]
    expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
    assert torch.allclose(layer(x, w, maps), expected, rtol=1e-9, atol=1e-10)


def test_a_louder_style_is_undone_by_demodulation_but_not_in_the_image() -> None:
    layer, w, x = styled(up=False), randn(3, 6, seed=2), randn(3, 5, 8, 8, seed=1)
    torch.manual_seed(1)
    to_image = ToImage(5, 2, 6).double()
    to_image.bias.data = randn(2, seed=5)
    s = w @ to_image.affine.weight.T / math.sqrt(6) + to_image.affine.bias
    weight = s[:, None, :] * to_image.weight[:, :, 0, 0] / math.sqrt(5)
    quiet = torch.einsum("noi,nihw->nohw", weight, x)
    assert torch.allclose(to_image(x, w), quiet + to_image.bias[:, None, None], atol=1e-12)

    plain = layer(x, w, None)
    for part in (layer, to_image):
        part.affine.weight.data *= 2
        part.affine.bias.data *= 2
    assert torch.allclose(layer(x, w, None), plain, rtol=1e-6)
    assert torch.allclose(to_image(x, w), 2 * quiet + to_image.bias[:, None, None], atol=1e-12)


def test_images_are_skip_summed() -> None:
    made = double(16)
    g = made.generator.synthesis
    w, maps = randn(2, g.layers, 16), randn(2, g.noise, seed=1)
    parts: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _, __, out: parts.append(out)) for m in g.images]
    whole = g(w, maps)
    for hook in hooks:
        hook.remove()
    assert [p.shape[2] for p in parts] == [4, 8, 16]
    line = np.array([1.0, 3.0, 3.0, 1.0]) / 4
    total = parts[0]
    for part in parts[1:]:
        wide = total.new_zeros(2, 1, 2 * total.shape[2] + 3, 2 * total.shape[3] + 3)
        wide[:, :, 2:-1:2, 2:-1:2] = total
        total = F.conv2d(wide, torch.from_numpy(np.outer(line, line))[None, None]) + part
    assert torch.allclose(whole, total, atol=1e-10)


def test_equalised_learning_rate() -> None:
    made = model(width=32, width_max=64, w=64)
    weights = [m.weight for m in made.modules() if isinstance(m, Conv | StyledConv) and m.weight.numel() > 4000]
    assert len(weights) >= 8
    for weight in weights:
        assert weight.std().item() == pytest.approx(1, rel=0.05) and abs(weight.mean().item()) < 0.05
    mapping = made.generator.mapping.layers[1]
    assert mapping.weight.std().item() == pytest.approx(100, rel=0.05), "N(0, 1) over the rate"
    for layer in made.modules():
        if isinstance(layer, StyledConv | ToImage):
            assert torch.equal(layer.affine.bias, torch.ones_like(layer.affine.bias))
    assert model().discriminator.head.rate == 1 and {layer.rate for layer in made.generator.mapping.layers} == {0.01}

    # Runtime gains, with unit biases where there are any.
    linear = Linear(9, 5, rate=0.01, activate=True).double()
    linear.bias.data = randn(5, seed=1)
    x = randn(4, 9, seed=2)
    expected = F.leaky_relu(x @ linear.weight.T * 0.01 / 3 + 0.01 * linear.bias, 0.2) * math.sqrt(2)
    assert torch.allclose(linear(x), expected, atol=1e-12)
    conv = Conv(4, 6, 3).double()
    conv.bias.data = randn(6, seed=3)
    x = randn(2, 4, 5, 5, seed=4)
    expected = F.leaky_relu(F.conv2d(x, conv.weight / 6, conv.bias, padding=1), 0.2) * math.sqrt(2)
    assert torch.allclose(conv(x), expected, atol=1e-12)
    assert torch.allclose(conv(x, 0.5), 0.5 * expected, atol=1e-12)


def test_low_precision_is_clamped() -> None:
    layer = styled(up=False).float()
    layer.bias.data += 1000
    x, w = torch.ones(1, 5, 4, 4), torch.ones(1, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, w, None).max() == 256
    assert layer(x, w, None).max() > 1000


def test_noise_starts_at_strength_zero() -> None:
    made = model()
    g = made.generator
    strengths = [m.strength for m in made.modules() if isinstance(m, StyledConv)]
    assert len(strengths) == 5 and all(s.item() == 0 for s in strengths)
    z, y = torch.randn(2, 8, generator=rng()), torch.eye(3)[:2]
    maps = torch.randn(2, g.synthesis.noise, generator=rng(1))
    assert g.synthesis.noise == 4**2 + 2 * 8**2 + 2 * 16**2
    assert torch.equal(g(z, y, maps), g(z, y))
    for strength in strengths:
        strength.data.zero_()
        strength.data.add_(0.5)
        assert not torch.equal(g(z, y, maps), g(z, y))
        strength.data.zero_()


# -- mapping and its means ---------------------------------------------------------------------------------------------


def test_what_enters_the_mapping_has_second_moment_one() -> None:
    made = double()
    seen: list[Tensor] = []
    for mapping in (made.generator.mapping, made.discriminator.label):
        mapping.embed.bias.data += 3
        mapping.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z, y = 5 * randn(3, 8), torch.eye(3).double()
    made.generator.mapping(z, y)
    made.discriminator.label(None, y)
    (g, d), one = seen, torch.ones(3, dtype=torch.float64)
    assert g.shape == (3, 8 + 16) and d.shape == (3, 16)
    for part in (g[:, :8], g[:, 8:], d):
        assert torch.allclose(part.square().mean(dim=1), one, atol=1e-8)
    assert torch.allclose(g[:, :8], z / z.square().mean(dim=1, keepdim=True).sqrt(), atol=1e-8)


def test_running_means_by_hand() -> None:
    made = model(mixing=1.0)
    assert made.config.w_decay == 0.995 and made.Config().w_decay == 0.995
    g, labels = made.generator, [0, 2, 0, 2, 2]  # class 1 is absent
    g.w_mean.fill_(2.0)
    g.w_class.copy_(torch.tensor([1.0, 5.0, -1.0])[:, None].expand(3, 16))
    mean, means = g.w_mean.numpy().copy(), g.w_class.numpy().copy()
    for step in range(2):
        y = made.one_hot(torch.tensor(labels))
        with torch.no_grad():
            made.fake(y, at(step))
            w = g.mapping(at(step).randn(5, 8), y).numpy()  # the first style alone, not the one mixed in
        mean = 0.995 * mean + 0.005 * w.mean(0)
        for k in (0, 2):
            means[k] = 0.995 * means[k] + 0.005 * w[np.array(labels) == k].mean(0)
        np.testing.assert_allclose(g.w_mean.numpy(), mean, rtol=1e-5)
        np.testing.assert_allclose(g.w_class.numpy(), means, rtol=1e-5)
    assert (g.w_class[1] == 5).all()


def test_settling_finds_the_mean_styles(sampler: StyleGAN2ADA) -> None:
    y = torch.eye(3)
    z = torch.randn(20_000, 8, generator=rng(9))
    for k in range(3):
        w = sampler.generator.mapping(z, y[k].expand(len(z), -1))
        error = (sampler.generator.w_class[k] - w.mean(0)).abs() / w.std(0)
        assert error.max() < 0.1, "2730 latents: a standard error of 0.02"
    shares = np.bincount(tiny.images().part("train").labels) / len(tiny.images().part("train"))
    expected = shares @ sampler.generator.w_class.numpy()
    np.testing.assert_allclose(sampler.generator.w_mean.numpy(), expected, atol=1e-4)


def test_styles_of_training_mix_at_a_layer_of_each_row() -> None:
    made, y = model(), torch.eye(3)[torch.arange(600) % 3]
    assert made.config.mixing == 0.9 and made.generator.synthesis.layers == 6
    with torch.no_grad():
        w = made.styles(y, at())
        draws = at()
        one = made.generator.mapping(draws.randn(600, 8), y)[:, None]
        two = made.generator.mapping(draws.randn(600, 8), y)[:, None]
        first, second = (w == one).all(dim=2), (w == two).all(dim=2)
        assert (first ^ second).all() and first[:, 0].all()
        assert (first[:, 1:] <= first[:, :-1]).all(), "no way back to the first style"
        start = first.sum(dim=1)
        assert set(start.tolist()) == {1, 2, 3, 4, 5, 6}
        assert (start < 6).float().mean().item() == pytest.approx(0.9, abs=0.05)
        assert (start == 3).float().mean().item() == pytest.approx(0.9 / 5, abs=0.06)
        alone = model(mixing=0.0).styles(y, at())
    assert torch.equal(alone, one.expand(-1, 6, -1))


# -- discriminator -----------------------------------------------------------------------------------------------------


def test_the_discriminators_last_layers() -> None:
    made = model()
    d, x, y = made.discriminator, batch(8).images, torch.eye(3)[torch.arange(8) % 3]
    order: list[str] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
            order.append(name)
            seen[name] = (inputs[0], out)

        return hook

    for name, module in d.named_modules():
        if isinstance(module, Conv | Linear) or name in ("std", "label"):
            module.register_forward_hook(watch(name))
    logits = d(x, y)

    # The statistic comes right before the last convolution.
    convs = [n for n in order if isinstance(d.get_submodule(n), Conv)]
    assert convs[-1] == "join" and order[order.index("join") - 1] == "std"
    before, after = seen["std"][0].detach().numpy(), seen["join"][0].detach().numpy()
    assert after.shape == (8, 17, 4, 4)
    np.testing.assert_array_equal(after[:, :16], before)
    for i in range(8):  # groups of 4: rows i, i + 2, ...
        std = np.sqrt(before[i % 2 :: 2].var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(after[i, 16], std, rtol=1e-4)

    # The projection.
    h, e = seen["head"][1], seen["label"][1]
    assert h.shape == e.shape == (8, 16)
    assert torch.allclose(logits, torch.einsum("nd,nd->n", h, e) / 4, atol=1e-6)  # 4 = sqrt(16)
    assert model(conditional=False).discriminator.head.weight.shape[0] == 1


@pytest.mark.parametrize("skips", [True, False])
def test_residual_blocks_and_the_plain_stack(skips: bool) -> None:
    block = double(skips=skips).discriminator.blocks[0]
    x = randn(2, 8, 8, 8)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    taps = torch.outer(line, line).expand(8, 1, 4, 4)

    def act(x: Tensor, conv: Conv) -> Tensor:
        return F.leaky_relu(x + conv.bias[:, None, None], 0.2) * math.sqrt(2)

    one, two = (block.conv, block.down) if skips else block
    for conv in (one, two):
        conv.bias.data = randn(len(conv.bias), seed=1)
    h = act(F.conv2d(x, one.weight / math.sqrt(72), padding=1), one)
    soft = F.conv2d(h, taps, padding=2, groups=8)
    expected = act(F.conv2d(soft, two.weight / math.sqrt(72), stride=2), two)
    if skips:
        small = F.conv2d(x, taps, padding=1, stride=2, groups=8)
        expected = (expected + F.conv2d(small, block.skip.weight / math.sqrt(8))) * math.sqrt(0.5)
    assert torch.allclose(block(x), expected, atol=1e-10)


# -- regularisers ------------------------------------------------------------------------------------------------------


def test_path_length_against_the_jacobian() -> None:
    made = double(w=6, path_every=4)
    assert made.config.path_weight == 2 and made.config.path_decay == 0.01
    g, labels, mean = made.generator.synthesis, batch(3, 8), 0.0
    y = made.one_hot(labels.labels)
    for step in range(2):
        found = made.loss("path", labels, at(step))
        draws = at(step)
        with torch.no_grad():
            w = made.styles(y, draws)
        maps, e = draws.randn(3, g.noise), draws.randn(3, 1, 8, 8).double() / 8  # sqrt(HW)
        lengths = []
        for i in range(3):
            inner = torch.autograd.functional.jacobian(
                lambda v, m=maps[i : i + 1]: g(v[None], m).flatten(), w[i], vectorize=True
            )
            path = torch.einsum("plw,p->lw", inner, e[i].flatten())  # J^T e of each layer's style
            lengths.append(path.square().sum(1).mean().sqrt().item())
        mean = 0.99 * mean + 0.01 * float(np.mean(lengths))
        penalty = np.mean((np.array(lengths) - mean) ** 2)
        assert np.std(lengths) > 0.01 * np.mean(lengths)
        assert found.stats["path_length"].item() == pytest.approx(np.mean(lengths), rel=1e-5)
        assert found.total.item() == pytest.approx(2 * 4 * penalty, rel=1e-5)
        assert made.path_mean.item() != pytest.approx(mean, rel=1e-6), "the loss itself changes no state"
        made.after("path", found.stats, at(step))
        assert made.path_mean.item() == pytest.approx(mean, rel=1e-5)
    found.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.generator.mapping.parameters())


def test_path_length_takes_half_a_batch() -> None:
    phase = {p.name: p for p in model().phases()}["path"]
    assert (phase.opt, phase.every, phase.batch) == ("G", 2, 0.5)
    assert "path" not in {p.name for p in model(path_weight=0.0).phases()}
    assert (model().Config().path_every, model().Config().penalty_every) == (4, 16)


def test_r1_is_the_gradient_of_the_image_before_augmentation() -> None:
    """By finite differences under one draw of transforms. A group of 1 leaves out the statistic, which is float32."""
    made = double(group=1, gamma=3.0, penalty_every=5)
    made.ada.p.fill_(0.8)
    real = batch(2, 8)
    real = Batch(real.images.double(), real.labels, real.ids)
    y, h = made.one_hot(real.labels), 1e-5

    def logits(x: Tensor) -> Tensor:
        with torch.no_grad():
            return made.discriminator(made.ada(x, rng(7)), y)

    square = torch.zeros(2, dtype=torch.float64)
    for i in range(64):
        step = torch.zeros_like(real.images)
        step.flatten(1)[:, i] = h  # rows are independent
        square += ((logits(real.images + step) - logits(real.images - step)) / (2 * h)) ** 2
    assert not torch.equal(made.ada(real.images, rng(7)), real.images)
    loss = made.loss("penalty", real, at(7))
    assert loss.stats["penalty"].item() == pytest.approx(square.mean().item(), rel=1e-4)
    assert loss.total.item() == pytest.approx(3.0 / 2 * square.mean().item() * 5, rel=1e-4), "gain = the interval"


def test_gammas_automatic_default() -> None:
    assert StyleGAN2ADA.Config().gamma < 0
    made = model()
    assert made.penalty_weight(32) == pytest.approx(0.0002 * 256 / 32)
    loss = made.loss("penalty", batch(8), at())
    gamma = 0.0002 * 16**2 / 8
    assert loss.total.item() == pytest.approx(gamma / 2 * loss.stats["penalty"].item() * 3, rel=1e-5)
    assert model(gamma=0.01).penalty_weight(32) == 0.01
    assert "penalty" not in {p.name for p in model(gamma=0.0).phases()}


def test_the_players_losses_by_hand() -> None:
    made, real = model(mixing=0.0), batch()
    y = made.one_hot(real.labels)
    draws = at()
    with torch.no_grad():
        w = made.generator.mapping(draws.randn(4, 8), y)
        fake = made.generator.synthesis(made.generator.broadcast(w), draws.randn(4, made.generator.synthesis.noise))
        r, f = (made.discriminator(x, y).double().numpy() for x in (real.images, fake))
    expected = np.log1p(np.exp(-r)).mean() + np.log1p(np.exp(f)).mean()
    assert made.loss("D", real, at()).total.item() == pytest.approx(expected, rel=1e-5)
    assert made.loss("G", real, at()).total.item() == pytest.approx(np.log1p(np.exp(-f)).mean(), rel=1e-5)


# -- training ----------------------------------------------------------------------------------------------------------


def trainer(steps: int = 100, **config: Any) -> Trainer:
    data = tiny.images(shape=tiny.spec(8))
    run = tiny.run_config(NAME, data, 8 * steps)
    return Trainer(run.model_copy(update={"config": {**run.config, **config}}), data)


def test_r1_shares_ds_adam() -> None:
    made = trainer(penalty_every=16, path_every=4)
    for _ in range(16):
        made.step()
    assert set(made.optimisers) == {"D", "G"}
    counts = {made.names[id(p)]: int(s["step"]) for o in made.optimisers.values() for p, s in o.state.items()}
    d = {k: n for k, n in counts.items() if k.startswith("discriminator.")}
    assert d.keys() == {k for k in made.names.values() if k.startswith("discriminator.")}
    assert {n for k, n in d.items() if k.endswith(".weight")} == {16 + 1}
    # A bias before a leaky ReLU leaves the gradient as it is: R1 has nothing to say to it, and Adam passes it over.
    assert all(n in (16, 17) for n in d.values())
    assert {n for k, n in counts.items() if k.startswith("generator.mapping.layers")} == {16 + 4}


def test_lazy_regularisation_corrects_lr_and_betas() -> None:
    made = trainer(penalty_every=16, path_every=4)
    lr = made.train.lr
    for opt, k in (("D", 16), ("G", 4)):
        (group,) = made.optimisers[opt].param_groups
        assert group["lr"] == pytest.approx(lr * k / (k + 1))
        assert group["betas"] == pytest.approx((0.0, 0.99 ** (k / (k + 1))))
        assert group["eps"] == 1e-8
    (plain,) = trainer(path_weight=0.0).optimisers["G"].param_groups
    assert plain["lr"] == lr and plain["betas"] == pytest.approx((0.0, 0.99))


def everything(made: Trainer) -> dict[str, Tensor]:
    """All tensors of a training, by name."""
    found = {f"model/{k}": v for k, v in made.family.state_dict().items()}
    found |= {f"ema/{k}": v for k, v in made.ema.state_dict().items()}
    for name, optimiser in made.optimisers.items():
        found |= {f"optim/{k}": v for k, v in checkpoint.pack_optimiser(optimiser, made.names, name).items()}
    return found


def test_resume_mid_ada_window(tmp_path: Path) -> None:
    settings = {"ada_images": 100, "ada_target": -1.0, "ada_policy": "bgcfnc"}
    whole, half = trainer(**settings), trainer(**settings)
    for _ in range(6):
        half.step()
    assert half.family.ada.count == 6 - INTERVAL and half.family.ada.p > 0 and half.family.ada.signs != 0
    path = half.save(tmp_path / "run" / "checkpoints")
    del half
    resumed = trainer(**settings)
    assert resumed.load(path) == []
    for _ in range(4):
        resumed.step()
    for _ in range(10):
        whole.step()
    a, b = everything(whole), everything(resumed)
    assert a.keys() == b.keys()
    assert {f"model/ada.{k}" for k in ("p", "signs", "count", "since")} | {"model/path_mean"} <= a.keys()
    assert any(k.startswith("optim/") for k in a)
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert whole.family.ada.p > 0 and whole.family.ada.count == 10 - 2 * INTERVAL
    assert (whole.images, whole.steps, whole.position) == (resumed.images, resumed.steps, resumed.position)


# -- what a style is used for ------------------------------------------------------------------------------------------


def test_truncation_to_the_mean_and_off(sampler: StyleGAN2ADA) -> None:
    g = sampler.generator
    for label in (0, 2):
        rows = [row(sampler, seed, label, truncation=0.0, noise=False) for seed in range(5)]
        with torch.no_grad():
            centre = g.synthesis(g.broadcast(g.w_class[label : label + 1]))
        assert torch.allclose(image(sampler, *rows), centre.expand(5, -1, -1, -1), atol=1e-5)
    rows = [row(sampler, 0, label, truncation=0.0, centre="global", noise=False) for label in (0, 2)]
    with torch.no_grad():
        centre = g.synthesis(g.broadcast(g.w_mean[None]))
    assert torch.allclose(image(sampler, *rows), centre.expand(2, -1, -1, -1), atol=1e-5)

    # psi = 1: the mapping's own style.
    full, y = row(sampler, 3, 1, truncation=1.0), torch.eye(3)[1:2]
    maps = noise(3, "noise", 0, (g.synthesis.noise,))[None]
    with torch.no_grad():
        plain = g(noise(3, "z", 0, (8,))[None], y, maps)
    assert torch.allclose(image(sampler, full), plain, atol=1e-5)


def test_truncation_by_hand_up_to_the_cutoff(sampler: StyleGAN2ADA) -> None:
    y = torch.eye(3)[1:2]
    with torch.no_grad():
        w = sampler.generator.mapping(noise(3, "z", 0, (8,))[None], y)[0]
        centre = sampler.generator.w_class[1]
        found = sampler.chosen([row(sampler, 3, 1, truncation=0.7, cutoff=2)], y)[0]
        allowed = sampler.chosen([row(sampler, 3, 1, truncation=0.7)], y)[0]
    pulled = centre + 0.7 * (w - centre)
    assert torch.allclose(found[:2], pulled.expand(2, -1), atol=1e-5)
    assert torch.equal(found[2:], w.expand(4, -1))
    assert torch.allclose(allowed, pulled.expand(6, -1), atol=1e-5)
    none, off = row(sampler, truncation=0.0, cutoff=0), row(sampler)
    assert torch.equal(image(sampler, none), image(sampler, off))
    assert not torch.allclose(image(sampler, row(sampler, truncation=0.0, cutoff=1)), image(sampler, off), atol=1e-3)


def layer_outputs(made: StyleGAN2ADA, asked: Row) -> list[Tensor]:
    """What each styled layer gives, from the coarse to the fine; images in between left out."""
    seen: list[Tensor] = []
    layers = [m for m in made.generator.modules() if isinstance(m, StyledConv)]
    hooks = [m.register_forward_hook(lambda _, __, out: seen.append(out.clone())) for m in layers]
    image(made, asked)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("begin", [0, 1, 3, 5])
def test_mixing_changes_only_the_layers_from_mix_from_on(sampler: StyleGAN2ADA, begin: int) -> None:
    y = torch.eye(3)[1:2]
    mixed = row(sampler, 3, mix_seed=8, mix_from=begin)
    with torch.no_grad():
        one, two, found = (sampler.chosen([r], y)[0] for r in (row(sampler, 3), row(sampler, 8), mixed))
    assert torch.equal(found[:begin], one[:begin]) and torch.equal(found[begin:], two[begin:])
    plain, other = layer_outputs(sampler, row(sampler, 3)), layer_outputs(sampler, mixed)
    assert len(plain) == 5
    same = [torch.equal(a, b) for a, b in zip(plain, other, strict=True)]
    assert same == [i < begin for i in range(5)]  # with 5, the last image alone has the second style
    assert not torch.equal(image(sampler, row(sampler, 3)), image(sampler, mixed))


def test_mixing_beyond_the_last_layer_changes_nothing(sampler: StyleGAN2ADA) -> None:
    plain = image(sampler, row(sampler, 3))
    assert torch.equal(image(sampler, row(sampler, 3, mix_seed=8, mix_from=6)), plain)
    assert torch.equal(image(sampler, row(sampler, 3, mix_seed=3, mix_from=2)), plain), "with itself"


def test_another_class_keeps_z(sampler: StyleGAN2ADA) -> None:
    seen: list[Tensor] = []
    hook = sampler.generator.mapping.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    first, second = (image(sampler, row(sampler, 3, label)) for label in (0, 2))
    hook.remove()
    z = unit(noise(3, "z", 0, (8,))[None])
    own = [inputs[:1] for inputs in seen if torch.allclose(inputs[:1, :8], z)]
    assert len(own) >= 2 and torch.equal(own[0][:, :8], own[-1][:, :8])
    assert not torch.allclose(own[0][:, 8:], own[-1][:, 8:])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("detail", [False, True])
def test_interpolation_ends_at_the_two_seeds_images(sampler: StyleGAN2ADA, detail: bool) -> None:
    a, b = (image(sampler, row(sampler, seed, noise=detail)) for seed in (3, 8))
    start, half, end = (
        image(sampler, row(sampler, 3, task="interpolate", to_seed=8, share=share, noise=detail))
        for share in (0.0, 0.5, 1.0)
    )
    assert torch.equal(start, a) and torch.equal(end, b)
    assert not torch.allclose(half, a, atol=1e-3) and not torch.allclose(half, b, atol=1e-3)


@pytest.mark.parametrize("more", [{}, {"truncation": 0.6}, {"mix_seed": 5, "mix_from": 2, "truncation": 0.8}], ids=str)
def test_interpolation_ends_at_both_classes(sampler: StyleGAN2ADA, more: dict[str, Any]) -> None:
    """Between, it is the line in W: of styles, second styles and mean styles alike."""
    a, b = (image(sampler, row(sampler, seed, label, **more)) for seed, label in ((3, 0), (8, 2)))
    asked = [
        row(sampler, 3, 0, task="interpolate", to_seed=8, to_class="c", share=share, **more)
        for share in (0.0, 0.5, 1.0)
    ]
    start, half, end = (image(sampler, one) for one in asked)
    assert torch.equal(start, a) and torch.equal(end, b)
    assert not torch.allclose(half, a, atol=1e-3) and not torch.allclose(half, b, atol=1e-3)
    with torch.no_grad():
        first, middle, last = (sampler.chosen([one], sampler.weights([one]))[0] for one in asked)
    assert torch.allclose(middle, (first + last) / 2, atol=1e-5)


# -- inversion ---------------------------------------------------------------------------------------------------------


def test_distance_by_hand() -> None:
    a, b = randn(2, 1, 8, 8), randn(2, 1, 8, 8, seed=1)
    difference = (a - b).numpy()[:, 0]
    coarse = difference.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
    expected = (difference**2).mean(axis=(1, 2)) + (coarse**2).mean(axis=(1, 2))
    np.testing.assert_allclose(distance(a, b).numpy(), expected, rtol=1e-12)


def inverting(made: StyleGAN2ADA, target: Tensor, **controls: Any) -> Row:
    settings = made.capabilities()["invert"].controls(**controls)
    return rows_for(made, [1], 1, 0, settings, "invert", {"image": [target]})[0]


@pytest.mark.parametrize("layers", [False, True])
def test_inversion_finds_a_generated_image(sampler: StyleGAN2ADA, layers: bool) -> None:
    target = from_uint8(generate(sampler, [row(sampler, 77, noise=False)]).images)
    asked = inverting(sampler, target[0], steps=50, layers=layers)
    with torch.inference_mode():
        state, losses = sampler.start([asked]), []
        begun = state["w"].clone()
        while not bool(state.done.all()):
            state = sampler.step(state)
            losses.append(distance(state["x"], target).item())
        out = sampler.finish(state)
    last = distance(from_uint8(out.images), target).item()
    mean = distance(image(sampler, row(sampler, truncation=0.0, noise=False)), target).item()
    assert len(losses) == 50 and losses[0] <= mean + 1e-6
    assert last < 0.25 * losses[0] and last < 0.25 * mean
    w = out.extras["w"]
    assert w.shape == (1, 6, 16) and not torch.equal(w, begun)
    assert torch.allclose(w, w[:, :1], atol=1e-6) != layers, "in W all layers keep one style"


def test_a_search_is_torchs_adam_on_its_schedule(sampler: StyleGAN2ADA) -> None:
    target = from_uint8(generate(sampler, [row(sampler, 77)]).images)
    with torch.inference_mode():
        state = sampler.start([inverting(sampler, target[0], steps=10, rate=0.1, layers=True)])
    last = state["w"].clone()
    w = state["w"].clone().requires_grad_(True)
    adam = torch.optim.Adam([w], eps=1e-8)
    for t in range(1, 11):
        loss = distance(sampler.generator.synthesis(w), target.clone()).sum()
        adam.zero_grad()
        loss.backward()
        before = (t - 1) / 10
        fall = 1.0 if before <= 0.75 else 0.5 - 0.5 * math.cos(math.pi * (1 - before) / 0.25)
        adam.param_groups[0]["lr"] = 0.1 * fall * min(1.0, t / 10 / 0.05)
        adam.step()
        with torch.inference_mode():
            state = sampler.step(state)
        assert torch.allclose(state["w"], w, atol=2e-3), t
        moved, last = (state["w"] - last).abs().max(), state["w"].clone()
        assert moved > 1e-4, f"step {t} searches, too"
    assert bool(state.done.all())


# -- fit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [24, 4, 2048])
def test_sizes_it_cannot_make_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}x{size}; StyleGAN2 needs square.*--size"):
        model(size)


def test_the_papers_32_px_configuration() -> None:
    preset = StyleGAN2ADA.presets["stylegan2-ada-32"]
    config = StyleGAN2ADA.Config(**preset.config)
    assert (config.gamma, config.path_weight, config.mixing, config.skips, config.mapping) == (0.01, 0, 0, False, 2)
    assert (config.penalty_every, config.ada_target, config.augment) == (16, 0.6, "ada")
    assert (preset.train["lr"], preset.train["ema"], preset.train["ema_ramp"]) == (2.5e-3, 500_000, 0.05)
