"""ADA: every transform against NumPy or SciPy image by image, the odds, the derivatives, and the controller of p.

`figure21` is the paper's geometric pipeline written out as it stands there, with explicit padding, SciPy's filters and
matrices that are inverted, not composed backwards; `colour21` its 4x4 matrices.
"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal, stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from kartina.augment.ada import (
    ADA,
    INTERVAL,
    POLICIES,
    SYM2,
    SYM6,
    TRANSFORMS,
    Draw,
    copy,
    downsampling,
    filter_bank,
    inverse_map,
    resample,
    upsampling,
)
from kartina.config import read
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig
from kartina.generators.base import At, Batch
from kartina.training.loop import Trainer
from tests import tiny

Array = NDArray[np.float64]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ada(policy: Any = "bgcfnc", p: float = 1.0, channels: int = 3) -> ADA:
    made = ADA(channels, policy)
    made.p.fill_(p)
    return made


def drawn(n: int, policy: Any = "bgcfnc", p: float = 1.0, h: int = 32, w: int = 32, seed: int = 0) -> Draw:
    made = ada(policy, p)
    return made.draw(made.numbers(torch.zeros(n, 1, 1, 1), rng(seed)), h, w)


def still(n: int = 1, **changes: Any) -> Draw:
    """Neutral parameters (float64) but for `changes`."""
    zero, one = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    two, four = torch.zeros(n, 2, dtype=torch.float64), torch.zeros(n, 4, dtype=torch.float64)
    ones = ("isotropic_scaling", "anisotropic_scaling", "contrast", "saturation")
    values = {f.name: one if f.name in ones else zero for f in fields(Draw)}
    values |= {"integer_translation": two, "fractional_translation": two, "bands": four + 1, "cutout": four}
    values |= {k: torch.as_tensor(v, dtype=torch.float64) for k, v in changes.items()}
    return Draw(**{"field": None, **values, **({} if "field" in changes else {"field": None})})


def rows(draw: Draw, index: Any) -> Draw:
    return Draw(**{k: None if v is None else v[index] for k, v in vars(draw).items()})


def smooth(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Images of a few long waves, in [-1, 1], that reach the border with any slope."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    fx, fy, phase = g.uniform(-0.4, 0.4, (n, c, 3)), g.uniform(-0.4, 0.4, (n, c, 3)), g.uniform(0, 7, (n, c, 3))
    waves = np.sin(fx[..., None, None] * x + fy[..., None, None] * y + phase[..., None, None])
    return torch.from_numpy(waves.mean(2))


def rough(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    return torch.rand(n, c, h, w, generator=rng(seed), dtype=torch.float64) * 2 - 1


# -- references --------------------------------------------------------------------------------------------------------


def forward_map(d: Draw, i: int) -> Array:
    """G of figure 21 for image i: about the centre, x right, y down."""

    def scale(x: float, y: float) -> Array:
        return np.diag([x, y, 1.0])

    def turn(angle: float) -> Array:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    def shift(x: float, y: float) -> Array:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    g = np.eye(3)
    g = scale(1 - 2 * float(d.xflip[i]), 1) @ g
    g = turn(math.pi / 2 * float(d.rotate90[i])) @ g
    g = shift(*d.integer_translation[i].tolist()) @ g
    g = scale(float(d.isotropic_scaling[i]), float(d.isotropic_scaling[i])) @ g
    g = turn(float(d.pre_rotation[i])) @ g
    g = scale(float(d.anisotropic_scaling[i]), 1 / float(d.anisotropic_scaling[i])) @ g
    g = turn(float(d.post_rotation[i])) @ g
    return shift(*d.fractional_translation[i].tolist()) @ g


def lookup(g: Array, h: int, w: int, y: Array, x: Array) -> Array:
    """(row, column) in the input of output rows `y`, columns `x`, of h x w images under the map `g`."""
    grid = np.stack(np.meshgrid(x - (w - 1) / 2, y - (h - 1) / 2), 0).reshape(2, -1)
    source = (np.linalg.inv(g) @ np.vstack([grid, np.ones(grid.shape[1])]))[:2]
    return np.stack([source[1] + (h - 1) / 2, source[0] + (w - 1) / 2]).reshape(2, len(y), len(x))


def spline(image: Array, g: Array) -> Array:
    """One plane moved by `g` with SciPy's quintic splines."""
    h, w = image.shape
    return ndimage.map_coordinates(image, lookup(g, h, w, np.arange(h), np.arange(w)), order=5, mode="mirror")


def figure21(image: Array, g: Array) -> Array:
    """One plane moved by `g`: reflect, upsample by the filter, look up bilinearly, downsample by the filter, crop."""
    (h, w), pad = image.shape, 120
    taps = np.array(SYM6)
    fine = np.pad(image, pad, mode="reflect")
    for axis in (0, 1):
        fine = signal.upfirdn(math.sqrt(2) * taps, fine, up=2, axis=axis)  # pixel k goes to 2k, ..., 2k + 11
    y, x = ((np.arange(2 * side + 10) - 5) / 2 for side in (h, w))  # the filter's middle is its tap 5
    found = ndimage.map_coordinates(fine, 2 * (lookup(g, h, w, y, x) + pad) + 5, order=1, mode="constant", cval=np.nan)
    assert not np.isnan(found).any(), "pad more"
    for axis in (0, 1):
        found = np.apply_along_axis(lambda line: np.correlate(line, taps / math.sqrt(2), "valid")[::2], axis, found)
    return found


def colour21(d: Draw, i: int) -> Array:
    """C of figure 21 for image i."""
    v = np.array([1, 1, 1, 0]) / math.sqrt(3)
    b, c = float(d.brightness[i]), float(d.contrast[i])
    brightness = np.eye(4)
    brightness[:3, 3] = b
    flip = np.eye(4) - 2 * np.outer(v, v) * float(d.luma_flip[i])
    hue = np.eye(4)
    hue[:3, :3] = Rotation.from_rotvec(v[:3] * float(d.hue[i])).as_matrix()
    saturation = np.outer(v, v) + (np.eye(4) - np.outer(v, v)) * float(d.saturation[i])
    saturation[3, 3] = 1  # homogeneous
    return saturation @ hue @ flip @ np.diag([c, c, c, 1]) @ brightness


def recoloured(image: Array, m: Array) -> Array:
    """3,H,W by pixels."""
    out = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        out[:, y, x] = (m @ np.append(image[:, y, x], 1))[:3]
    return out


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=tolerance, rtol=0)


# -- p = 0, and what is drawn ------------------------------------------------------------------------------------------


def test_nothing_happens_at_p_0() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = rough(4, 3, 9, 12).to(dtype)
        assert ada(p=0)(x, rng()) is x
    quiet = drawn(50, p=0.0)
    assert torch.equal(ada().execute(rough(50, 3, 32, 32), quiet), rough(50, 3, 32, 32)), "every gate is closed"


@pytest.mark.parametrize("policy", POLICIES)
def test_as_much_is_drawn_at_any_p(policy: str) -> None:
    after = []
    for p in (0.0, 0.4, 1.0):
        g = rng()
        ada(policy, p)(torch.zeros(5, 3, 8, 8), g)
        after.append(torch.rand(4, generator=g))
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])


def test_policies_are_the_papers_groups() -> None:
    assert len(TRANSFORMS) == 18 and len(set(TRANSFORMS)) == 18
    assert [len(POLICIES[name]) for name in ("b", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc")] == [3, 7, 12, 16, 17, 18]
    assert POLICIES["bgc"] == TRANSFORMS[:12] and AdversarialConfig().ada_policy == "bgc"


# Where each transform shows in a Draw, its neutral value, and the share of its draws that are not neutral at 32 px.
SHOWS = {name: (name, 0.0, 1.0) for name in TRANSFORMS} | {
    "xflip": ("xflip", 0, 1 / 2),
    "rotate90": ("rotate90", 0, 3 / 4),
    "integer_translation": ("integer_translation", 0, 1 - 1 / 64),  # round(U(-4, 4)) is 0 in an eighth of the draws
    "luma_flip": ("luma_flip", 0, 1 / 2),
    "isotropic_scaling": ("isotropic_scaling", 1, 1),
    "anisotropic_scaling": ("anisotropic_scaling", 1, 1),
    "rotation": ("post_rotation", 0, 1),
    "contrast": ("contrast", 1, 1),
    "saturation": ("saturation", 1, 1),
    **{f"band{i + 1}": (("bands", i), 1, 1) for i in range(4)},
}


def acts(d: Draw, name: str) -> Tensor:
    """bool N: the transform does something."""
    where, neutral, _ = SHOWS[name]
    value = getattr(d, where) if isinstance(where, str) else getattr(d, where[0])[:, where[1]]
    return (value != neutral).view(len(value), -1).any(1)


@pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
def test_each_transform_acts_with_probability_p(p: float) -> None:
    n = 20_000
    d = drawn(n, p=p)
    found = {name: acts(d, name) for name in TRANSFORMS} | {"pre": d.pre_rotation != 0}
    either = 1 - math.sqrt(1 - p)
    for name, mask in found.items():
        share = either if name in ("pre", "rotation") else p * SHOWS[name][2]
        assert abs(int(mask.sum()) - n * share) <= 4.5 * math.sqrt(n * share * (1 - share)) + 1e-9, name
    turned = int((found["pre"] | found["rotation"]).sum())
    assert abs(turned - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9, "one rotation or both, with probability p"
    if p < 1:  # each on its own
        table = np.corrcoef(np.array([m.numpy() for m in found.values()], dtype=float))
        assert np.abs(table - np.eye(len(table))).max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_policy_may_be_one_transform(name: str) -> None:
    d = drawn(200, policy=(name,))
    assert [k for k in TRANSFORMS if acts(d, k).any()] == [name]
    assert (d.pre_rotation != 0).any() == (name == "rotation")


def test_parameters_have_the_papers_distributions() -> None:
    h, w, n = 48, 32, 4000
    d = drawn(n, h=h, w=w)
    log = {"isotropic_scaling": 0.2, "anisotropic_scaling": 0.2, "contrast": 0.5, "saturation": 1.0}
    samples = [(getattr(d, k).log2() / deviation, stats.norm()) for k, deviation in log.items()]
    samples += [(d.bands[:, i].log2(), stats.norm()) for i in range(4)]
    samples += [(getattr(d, k), stats.uniform(-math.pi, 2 * math.pi)) for k in ("pre_rotation", "post_rotation", "hue")]
    samples += [(d.brightness, stats.norm(0, 0.2)), (d.noise, stats.halfnorm(0, 0.1))]
    samples += [(d.fractional_translation[:, axis], stats.norm(0, side / 8)) for axis, side in ((0, w), (1, h))]
    for values, expected in samples:
        assert stats.kstest(values.numpy(), expected.cdf).pvalue > 1e-4
    for axis, reach in ((0, w // 8), (1, h // 8)):
        counts = np.array([(d.integer_translation[:, axis] == k).sum() for k in range(-reach, reach + 1)])
        share = np.array([0.5, *[1.0] * (2 * reach - 1), 0.5]) / (2 * reach)
        assert counts.sum() == n and stats.chisquare(counts, n * share).pvalue > 1e-4
    for values, sides in ((d.xflip, 2), (d.rotate90, 4), (d.luma_flip, 2)):
        counts = np.bincount(values.int().numpy(), minlength=sides)
        assert len(counts) == sides and stats.chisquare(counts).pvalue > 1e-4
    left, right, top, bottom = d.cutout.unbind(1)
    assert set((right - left).tolist()) == {w / 2} and set((bottom - top).tolist()) == {h / 2}
    assert left.min() == -w / 4 and left.max() == w * 3 / 4 and top.min() == -h / 4 and top.max() == h * 3 / 4


def test_parameters_do_not_know_of_each_other() -> None:
    n, d = 4000, drawn(4000)
    columns = [v.view(n, -1) for k, v in vars(d).items() if k not in ("field", "cutout")]
    table = torch.cat([*columns, d.cutout[:, [0, 2]]], 1).double()
    ranks = stats.rankdata(table.numpy(), axis=0) - (n + 1) / 2
    extremes = np.abs(ranks)  # nor does one know whether another is far from its middle
    both = np.concatenate([ranks, extremes[:, extremes.std(0) > n / 100]], 1)
    assert np.abs(np.corrcoef(both.T) - np.eye(both.shape[1])).max() < 5 / math.sqrt(n)


# -- pixel blitting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12), (16, 10), (9, 13)])
def test_blits_copy_pixels(shape: tuple[int, int]) -> None:
    h, w = shape
    x = rough(1, 2, h, w)
    image, b = x[0].numpy(), ada("b")
    assert np.array_equal(b.execute(x, still(xflip=[1])), x.numpy()[..., ::-1])
    wide = np.pad(image, ((0, 0), (8, 8), (8, 8)), mode="reflect")
    for dx, dy in ((3, -2), (-8, 0), (1, 8)):
        moved = wide[:, 8 - dy : 8 - dy + h, 8 - dx : 8 - dx + w]
        assert np.array_equal(b.execute(x, still(integer_translation=[[dx, dy]]))[0], moved)
    assert np.array_equal(b.execute(x, still(rotate90=[2]))[0], image[:, ::-1, ::-1])
    for turns in (1, 3):  # clockwise; an image that is not square keeps its shape, and shows its reflection
        turned = np.rot90(wide, -turns, axes=(1, 2))
        top, left = (turned.shape[1] - h) // 2, (turned.shape[2] - w) // 2
        assert np.array_equal(b.execute(x, still(rotate90=[turns]))[0], turned[:, top : top + h, left : left + w])


def test_blits_in_order() -> None:
    x = rough(1, 1, 10, 10)
    found = ada("b").execute(x, still(xflip=[1], rotate90=[1], integer_translation=[[2, -1]]))
    wide = np.pad(np.rot90(x[0, 0].numpy()[:, ::-1], -1), 4, mode="reflect")
    assert np.array_equal(found[0, 0], wide[5:15, 2:12])


def test_a_quarter_turn_between_pixels_is_resampled() -> None:
    d, x = still(rotate90=[1]), smooth(1, 1, 14, 11)
    close(ada("b").execute(x, d)[0, 0], figure21(x[0, 0].numpy(), forward_map(d, 0)))


# -- geometry ----------------------------------------------------------------------------------------------------------


def test_filters() -> None:
    """Orthogonal, with as many vanishing moments as Daubechies' filters of their length; SYM6 the most symmetric."""
    for taps, moments in ((np.array(SYM6), 6), (np.array(SYM2), 2)):
        assert len(taps) == 2 * moments and taps.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
        for lag in range(moments):
            assert taps[2 * lag :] @ taps[: len(taps) - 2 * lag] == pytest.approx(float(lag == 0), abs=1e-11)
        k = np.arange(len(taps))
        for power in range(moments):
            assert np.sum((-1.0) ** k * taps * (k / 5) ** power) == pytest.approx(0, abs=1e-11)
    omega, phase = signal.freqz(SYM6)[0][1:], np.unwrap(np.angle(signal.freqz(SYM6)[1]))[1:]
    assert np.abs(-phase / omega - 5).max() < 0.2


@pytest.mark.parametrize("size", [1, 2, 5, 32, 33])
def test_up_and_down_again_is_the_identity(size: int) -> None:
    up, n = upsampling(size), np.arange(-5, 2 * size + 5)
    assert np.allclose(downsampling(size) @ up[n % (len(up) - 1)], np.eye(size), atol=1e-11)
    x = rough(2, 2, size, 17)
    close(resample(x, inverse_map(still(2))), x)


GEOMETRY = {
    "isotropic_scaling": {"isotropic_scaling": [0.8]},
    "rotation before": {"pre_rotation": [0.7]},
    "anisotropic_scaling": {"anisotropic_scaling": [1.3]},
    "rotation after": {"post_rotation": [-2.0]},
    "fractional_translation": {"fractional_translation": [[3.3, -2.6]]},
    "far": {"fractional_translation": [[31.7, 40.2]], "isotropic_scaling": [0.7]},
    "all": {
        "xflip": [1],
        "rotate90": [3],
        "integer_translation": [[2, -3]],
        "isotropic_scaling": [1.2],
        "pre_rotation": [0.4],
        "anisotropic_scaling": [0.8],
        "post_rotation": [1.9],
        "fractional_translation": [[-1.3, 2.2]],
    },
}


@pytest.mark.parametrize("shape", [(24, 24), (20, 31)])
@pytest.mark.parametrize("case", GEOMETRY)
def test_geometry_is_figure_21(case: str, shape: tuple[int, int]) -> None:
    """To rounding on the paper's own steps, also for pixels of pure noise."""
    d, x = still(**GEOMETRY[case]), rough(1, 2, *shape)
    found = ada("bg").execute(x, d)[0]
    for plane, image in zip(found, x[0].numpy(), strict=True):
        close(plane, figure21(image, forward_map(d, 0)))


@pytest.mark.parametrize("case", [k for k in GEOMETRY if k != "far"])
def test_geometry_is_the_map_it_says(case: str) -> None:
    """Within 0.03 of quintic splines on waves of 11 pixels and longer; straight lookups are what is left."""
    d, x = still(**GEOMETRY[case]), smooth(1, 1, 32, 32)
    found = ada("bg").execute(x, d)[0, 0]
    close(found, spline(x[0, 0].numpy(), forward_map(d, 0)), 0.03)
    assert np.abs(found.numpy() - x[0, 0].numpy()).max() > 0.3, "and it moved"


def test_drawn_geometry_image_by_image() -> None:
    d, x = drawn(12, "bg", p=0.4, h=20, w=26), rough(12, 1, 20, 26)
    found = ada("bg").execute(x, d)
    general = torch.stack([acts(d, name) for name in POLICIES["bg"][3:]]).any(0) | (d.pre_rotation != 0)
    for i in range(12):
        image, g = x[i, 0].numpy(), forward_map(d, i)
        if general[i]:
            close(found[i, 0], figure21(image, g), 1e-4)  # the parameters are float32
        else:
            source = lookup(g, 20, 26, np.arange(20), np.arange(26)).round()
            close(found[i, 0], ndimage.map_coordinates(image, source, order=0, mode="mirror"), 0)
    assert 0 < general.sum() < 12


def test_copying_and_resampling_agree_on_a_shift() -> None:
    x, inverse = rough(1, 1, 12, 12), inverse_map(still(integer_translation=[[3, -1]]))
    close(copy(x, inverse), resample(x, inverse))


# -- colour ------------------------------------------------------------------------------------------------------------

COLOURS = {
    "brightness": {"brightness": [-0.3]},
    "contrast": {"contrast": [1.6]},
    "luma_flip": {"luma_flip": [1]},
    "hue": {"hue": [0.9]},
    "saturation": {"saturation": [0.3]},
    "all": {"brightness": [0.2], "contrast": [0.7], "luma_flip": [1], "hue": [-2.5], "saturation": [1.8]},
}


@pytest.mark.parametrize("case", COLOURS)
def test_colour_is_figure_21(case: str) -> None:
    d, x = still(**COLOURS[case]), rough(1, 3, 5, 4)
    close(ada("bgc").execute(x, d)[0], recoloured(x[0].numpy(), colour21(d, 0)))


@pytest.mark.parametrize("case", COLOURS)
def test_grey_is_the_grey_colour(case: str) -> None:
    d, x = still(**COLOURS[case]), rough(1, 1, 5, 4)
    expected = recoloured(x[0].repeat(3, 1, 1).numpy(), colour21(d, 0))
    found = ada("bgc", channels=1).execute(x, d)[0]
    close(found.expand(3, -1, -1), expected)
    assert torch.allclose(found, x[0]) == (case in ("hue", "saturation")), "which do nothing to grey"


def test_colours_by_hand() -> None:
    """A third of a turn about grey makes red green, green blue; no saturation leaves the mean; luma flip keeps hues."""
    red = torch.tensor([1.0, 0, 0], dtype=torch.float64).view(1, 3, 1, 1)
    ones = ada("bgc")
    close(ones.execute(red, still(hue=[2 * math.pi / 3])).flatten(), [0, 1, 0])
    close(ones.execute(red, still(saturation=[0])).flatten(), [1 / 3] * 3)
    close(ones.execute(red, still(luma_flip=[1])).flatten(), [1 / 3, -2 / 3, -2 / 3])
    close(ones.execute(red, still(brightness=[0.25], contrast=[2])).flatten(), [2.5, 0.5, 0.5])


# -- filter, noise, cutout ---------------------------------------------------------------------------------------------


def response(omega: Array, gains: Any) -> Array:
    """The filter's gain at a frequency: |sym2|^2 / 2 = cos^4(w/2) (1 + 2 sin^2(w/2)) (Daubechies 1992), in octaves."""

    def low(o: Array) -> Array:
        return np.cos(o / 2) ** 4 * (1 + 2 * np.sin(o / 2) ** 2)

    split = [1 - low(omega), low(omega) * (1 - low(2 * omega)), low(omega) * low(2 * omega) * (1 - low(4 * omega))]
    return np.tensordot(gains, [low(omega) * low(2 * omega) * low(4 * omega), *split[::-1]], 1)


@pytest.mark.parametrize("size", [8, 32])
def test_bands(size: int) -> None:
    """Cosines keep their shape in a reflected image: each is amplified by the response at its frequency."""
    assert np.allclose(filter_bank(size).sum(0), np.eye(size), atol=1e-12)
    wide = size + 3
    for bands in ([3.0, 1, 1, 1], [1, 0.25, 1, 1], [1, 1, 4, 1], [1, 1, 1, 0.5], [0.5, 2, 3, 0.2]):
        gains, power = np.ones(4), np.array([10, 1, 1, 1]) / 13
        for i, value in enumerate(bands):
            t = np.ones(4)
            t[i] = value
            gains *= t / math.sqrt(np.sum(power * t**2))
        for ky, kx in ((0, 0), (0, 2), (3, 1), (size // 2, 4), (size - 1, wide - 2)):
            oy, ox = math.pi * ky / (size - 1), math.pi * kx / (wide - 1)
            wave = np.cos(oy * np.arange(size))[:, None] * np.cos(ox * np.arange(wide))
            found = ada("bgcf").execute(torch.from_numpy(wave)[None, None], still(bands=[bands]))[0, 0]
            close(found, wave * response(np.array(oy), gains) * response(np.array(ox), gains))


def test_noise_and_cutout_by_hand() -> None:
    x, field = rough(2, 3, 6, 8), rough(2, 3, 6, 8, 1)
    d = still(2, noise=[0.5, 0], field=field)
    close(ada("bgcfnc").execute(x, d), np.stack([x[0] + 0.5 * field[0], x[1]]))
    x, holed = rough(3, 3, 6, 8), rough(3, 3, 6, 8).numpy()
    holed[0, :, 0:2, 5:8] = 0
    holed[1, :, 2:5, 1:5] = 0
    holes = [[5, 9, -1, 2], [1, 5, 2, 5], [0, 0, 0, 0]]  # across the corner, inside, none
    close(ada("bgcfnc").execute(x, still(3, cutout=holes)), holed)


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives(name: str) -> None:
    """First and second, against finite differences."""
    one = ada((name,))
    x = rough(6, 3, 9, 8).requires_grad_()
    d = one.draw(one.numbers(x, rng(4)), 9, 8)
    assert acts(d, name).any()

    def bent(image: Tensor) -> Tensor:
        return one.execute(image, d).pow(3)  # what comes before a cube has all derivatives

    assert torch.autograd.gradcheck(bent, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(bent, x, fast_mode=True)


@pytest.mark.parametrize(("channels", "shape"), [(1, (16, 16)), (3, (12, 15))])
def test_penalty_through_the_whole_pipeline(channels: int, shape: tuple[int, int]) -> None:
    """R1's gradient with respect to D's weights, through its gradient with respect to the images before ADA."""
    torch.manual_seed(0)
    inner = 4 * (shape[0] - 2) * (shape[1] - 2)
    layers = torch.nn.Conv2d(channels, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(inner, 1)
    d = torch.nn.Sequential(*layers).double()
    x, pipeline = rough(6, channels, *shape), ada("bgcfnc", 0.7, channels)

    def penalty(step: float = 0.0) -> Tensor:
        images = x.clone().requires_grad_()
        weights = {"0.weight": d[0].weight + step * way}
        logits = torch.func.functional_call(d, weights, pipeline(images, rng(1)))
        (grad,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return grad.square().sum()

    way = torch.randn(d[0].weight.shape, generator=rng(2), dtype=torch.float64)
    (slope,) = torch.autograd.grad(penalty(), d[0].weight)
    difference = (penalty(1e-5) - penalty(-1e-5)) / 2e-5
    assert (slope * way).sum().item() == pytest.approx(difference.item(), rel=1e-6)


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("channels", "shape"), [(1, (8, 8)), (3, (16, 12)), (3, (9, 14))])
def test_shapes(policy: str, channels: int, shape: tuple[int, int]) -> None:
    x = rough(7, channels, *shape).float().contiguous(memory_format=torch.channels_last)
    y = ada(policy, 0.8, channels)(x, rng())
    assert y.shape == x.shape and y.dtype == torch.float32 and torch.isfinite(y).all() and not torch.equal(x, y)


def test_an_image_does_not_feel_its_neighbours() -> None:
    pipeline, x = ada(p=0.7), rough(8, 3, 16, 16)
    other = x.clone()
    other[[0, 1, 2, 4, 5, 6, 7]] = 5.0
    a, b = pipeline(x, rng()), pipeline(other, rng())
    assert torch.equal(a[3], b[3]) and not torch.equal(a[2], b[2])
    d = pipeline.draw(pipeline.numbers(x, rng()), 16, 16)
    for i in range(8):
        assert torch.allclose(pipeline.execute(x[[i]], rows(d, [i]))[0], a[i], atol=1e-12)
    y = pipeline(x[[3] * 8], rng())
    assert all(not torch.equal(y[i], y[j]) for i in range(8) for j in range(i)), "and has its own draw"


def test_the_same_draw_from_the_same_generator() -> None:
    x = rough(8, 3, 16, 16).float()
    assert torch.equal(ada()(x, rng(1)), ada()(x, rng(1))) and not torch.equal(ada()(x, rng(1)), ada()(x, rng(2)))


def test_autocast_does_not_touch_it() -> None:
    x = rough(6, 3, 16, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ada()(x, rng())
    assert found.dtype == torch.float32 and torch.equal(found, ada()(x.float(), rng()))


def test_below_p_1_the_image_stays_the_likeliest() -> None:
    """What does not leak (section 2.2): of quarter turns a share of 1 - 3p/4 stands upright, and only at p = 1 could a
    generator that turns its images look right to D."""
    x = torch.zeros(20_000, 1, 4, 4)
    x[:, 0, 0, 0] = 1
    for p in (0.5, 0.8, 1.0):
        seen = ada(("rotate90",), p)(x, rng())[:, 0].mean(0)
        shares = torch.stack([seen[0, 0], seen[0, 3], seen[3, 3], seen[3, 0]])
        expected = torch.tensor([1 - 3 * p / 4, *[p / 4] * 3])
        assert torch.allclose(shares, expected, atol=4.5 * 0.5 / math.sqrt(20_000))
        # Turning is a circulant matrix on the four shares; that it can be undone means that the eigenvalues are not 0.
        assert (np.abs(np.fft.fft(expected.numpy())).min() > 0.1) == (p < 1)


# -- the controller ----------------------------------------------------------------------------------------------------


def observe(made: ADA, sign: float, images: int, target: float = 0.6, per_unit: float = 1000.0) -> float:
    made.observe(torch.tensor(sign), images, target, per_unit)
    return float(made.p)


def test_p_by_hand() -> None:
    made = ADA(1, "bgc")
    assert INTERVAL == 4
    assert [observe(made, 0.9, i * 10) for i in (1, 2, 3)] == [0, 0, 0], "three updates are no interval"
    assert observe(made, 0.9, 40) == pytest.approx(0.04), "40 images of 1000"
    for i, sign in enumerate((1.0, 1.0, 1.0, -0.5)):  # the mean is 0.625
        last = observe(made, sign, 50 + 10 * i)
    assert last == pytest.approx(0.08)
    for i, sign in enumerate((1.0, 1.0, 1.0, -0.7)):  # the mean is 0.575
        last = observe(made, sign, 100 + 5 * i)
    assert last == pytest.approx(0.08 - 0.035)
    for i in range(4):  # at the target it stays
        last = observe(made, 0.5, 200 + i, target=0.5)
    assert last == pytest.approx(0.045)


def test_p_stays_between_0_and_1() -> None:
    made = ADA(1, "bgc")
    assert [observe(made, 1.0, 400 * i) for i in range(1, 13)][3::4] == [1, 1, 1]
    assert [observe(made, -1.0, 4800 + 40 * i) for i in range(1, 9)][3::4] == pytest.approx([0.84, 0.68])
    assert [observe(made, -1.0, 6000 + 1000 * i) for i in range(4)][-1] == 0


def test_state_in_the_middle_of_an_interval() -> None:
    whole, signs = ADA(3, "bgc"), [0.9, 0.2, 0.8, 0.7, 0.1, 0.9, 1.0, 0.3, 0.9, 0.9]
    for i, sign in enumerate(signs):
        if i == 6:  # two updates into the second interval
            state = {k: v.clone() for k, v in whole.state_dict().items()}
            with torch.device("meta"):
                resumed = ADA(3, "bgc")
            resumed.load_state_dict(state, assign=True)
        observe(whole, sign, 10 * (i + 1))
    assert state.keys() == {"p", "signs", "count", "since"} and state["count"] == 2 and state["since"] == 40
    for i, sign in list(enumerate(signs))[6:]:
        observe(resumed, sign, 10 * (i + 1))
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_training_resumes_in_the_middle_of_an_interval(home: Path) -> None:
    """p rises (the target is below any r_t), and 7 steps + load + 6 steps are 13 steps, bit for bit."""
    run = tiny.run("dcgan", home, n=8 * 40)
    extra = {"augment": "ada", "ada_target": -1, "ada_images": 100, "ada_policy": "bgcfnc"}
    config = run.config.model_copy(update={"config": {**run.config.config, **extra}})
    whole, first, second = (Trainer(config, run.data()) for _ in range(3))
    for _ in range(13):
        whole.step()
    for _ in range(7):
        first.step()
    assert 0 < first.family.ada.p < 1 and first.family.ada.count == 3
    second.load(first.save(home / "checkpoints"))
    for _ in range(6):
        second.step()
    a, b = whole.family.state_dict(), second.family.state_dict()
    assert not [k for k in a if not torch.equal(a[k], b[k])]
    assert 0 < second.flush()["ada_p"] <= second.family.ada.p, "and p is logged"


# -- the switch --------------------------------------------------------------------------------------------------------


def test_the_policy_is_a_setting() -> None:
    read(AdversarialConfig, {"ada_policy": "bg"}, "settings")
    named = read(AdversarialConfig, {"ada_policy": ["xflip", "hue"]}, "settings")
    assert read(AdversarialConfig, named.model_dump(mode="json"), "settings") == named
    assert tiny.family("dcgan", augment="ada", ada_policy=["xflip", "hue"]).ada.policy == {"xflip", "hue"}
    for wrong in ("gb", [], ["flip"]):
        with pytest.raises(ConfigError, match="ada_policy"):
            read(AdversarialConfig, {"ada_policy": wrong}, "settings")
    with pytest.raises(ConfigError, match=r"'flip'; expected one of b, bg, .*xflip"):
        ADA(3, ("hue", "flip"))  # type: ignore[arg-type]


def test_colour_needs_grey_or_rgb() -> None:
    with pytest.raises(ConfigError, match=r"4 channels.*ada_policy=bg"):
        ADA(4, "bgc")
    assert ada("bg", channels=4)(rough(2, 4, 8, 8), rng()).shape == (2, 4, 8, 8)


def test_gans_train_through_it() -> None:
    for channels in (1, 3):
        model = tiny.family("dcgan", shape=tiny.spec(16, channels), augment="ada", ada_policy="bgcfnc")
        model.ada.p.fill_(0.9)
        x = rough(4, channels, 16, 16).float()
        batch = Batch(x, torch.arange(4) % 3, torch.arange(4))
        at = At(0, 0, 100, rng(), torch.ones(3) / 3)
        for phase in model.phases():
            model.zero_grad()
            model.loss(phase.name, batch, at).total.backward()
            slopes = [p.grad for p in phase.params if p.dim() > 1 and p.grad is not None]  # R1 knows few biases
            assert len(slopes) > 2 and all(g.isfinite().all() and g.any() for g in slopes), phase.name


def test_a_penalty_can_be_taken_through_every_transform() -> None:
    """R1's gradient is with respect to the images before augmentation, and is differentiated once more."""
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=rng()) * 2 - 1
    changes = ada("bgcfnc").double()
    images.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: changes(x, rng(1)), images)
    assert torch.autograd.gradgradcheck(lambda x: changes(x, rng(1)).pow(3), images, atol=1e-4)


def test_training_goes_on_when_every_image_is_transformed() -> None:
    """With p at 1 from the start: StyleGAN2's lazy R1 and path length, R3GAN's penalties on every step."""
    for name in ("stylegan2_ada", "r3gan"):
        data = tiny.images(shape=tiny.spec(channels=3))
        made = Trainer(tiny.run_config(name, data, 1000, {"augment": "ada", "ada_policy": "bgcfnc"}), data)
        before = {k: p.detach().clone() for k, p in made.family.named_parameters()}
        for _ in range(3):
            made.family.ada.p.fill_(1.0)
            made.step()
        assert "penalty" in made.sums and all(bool(torch.isfinite(v)) for v in made.sums.values())
        assert all(bool(torch.isfinite(p).all()) for p in made.family.parameters())
        assert any(not torch.equal(p, before[k]) for k, p in made.family.named_parameters() if "discriminator" in k)
