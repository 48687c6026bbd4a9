"""Adaptive discriminator augmentation (Karras 2020, arXiv 2006.06676): the pipeline, and the controller of its p.

D sees real and generated images through the same 18 random transforms (appendix B, figure 21), each applied to each
image with probability p. As long as p < 0.8 or so the generator has to match the images and not their transforms
(section 2.2). p itself is not a setting: it follows how far D overfits (section 3.1; `observe`).

    policy    adds
    "b"       pixel blitting: xflip, rotate90, integer_translation
    "bg"      geometry: isotropic_scaling, rotation (before and after the next), anisotropic_scaling,
              fractional_translation
    "bgc"     colour: brightness, contrast, luma_flip, hue, saturation
    "bgcf"    filtering: band1 (below pi/8), band2 (to pi/4), band3 (to pi/2), band4 (to pi), at constant power
    "bgcfn"   noise
    "bgcfnc"  cutout

The paper settles on "bgc" (figure 4). A tuple of names makes any other set.

It works in three steps. `numbers` draws, always as much; `draw` turns numbers into each image's parameters, where a
transform that is off has its neutral value; `execute` does it: the first two groups as one inverse affine map, looked
up at twice the resolution between SYM6 filters; the third as one colour matrix; the fourth as one filter. Given its
parameters the result is affine in the image, and differentiable as often as one likes: R1 needs it twice.

Two departures. Images that are only flipped, turned by quarters or moved by whole pixels have their pixels copied,
where figure 21 resamples them and SYM6, not quite symmetric, blurs a mirror image a little; and images that a stage
leaves as they are do not pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.errors import ConfigError

INTERVAL = 4  # updates between adjustments of p

Blit = Literal["xflip", "rotate90", "integer_translation"]
Geometric = Literal["isotropic_scaling", "rotation", "anisotropic_scaling", "fractional_translation"]
Colour = Literal["brightness", "contrast", "luma_flip", "hue", "saturation"]
Band = Literal["band1", "band2", "band3", "band4"]
Transform = Blit | Geometric | Colour | Band | Literal["noise", "cutout"]
Policy = Literal["b", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]

BLIT, GEOMETRIC, COLOUR, BANDS = (get_args(group) for group in (Blit, Geometric, Colour, Band))
TRANSFORMS: tuple[str, ...] = (*BLIT, *GEOMETRIC, *COLOUR, *BANDS, "noise", "cutout")
POLICIES: dict[str, tuple[str, ...]] = {
    name: TRANSFORMS[:count] for name, count in zip(get_args(Policy), (3, 7, 12, 16, 17, 18), strict=True)
}

# Orthogonal low-pass filters (Daubechies 1992), of norm 1 and sum sqrt(2). Orthogonal: x2 up- and downsampling with
# the same filter is the identity.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
CENTRE = 5  # the tap of SYM6 whose place is its phase delay (4.83 to 5.1 at all frequencies)
SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, 1), (3, 1), (3, -1), (1, -1)))
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected share of each band in an image's power: 1/f


@dataclass(frozen=True)
class Draw:
    """What happens to each of N images. Lengths are in pixels, x to the right, y down; angles turn x towards y."""

    xflip: Tensor  # N, 1 = mirrored
    rotate90: Tensor  # N, quarter turns
    integer_translation: Tensor  # N,2, whole numbers
    isotropic_scaling: Tensor  # N, > 1 enlarges
    pre_rotation: Tensor  # N, before the anisotropic scaling
    anisotropic_scaling: Tensor  # N: x times this, y divided by it
    post_rotation: Tensor  # N, after it
    fractional_translation: Tensor  # N,2
    brightness: Tensor  # N, added
    contrast: Tensor  # N, a factor
    luma_flip: Tensor  # N, 1 = the colour mirrored along the grey axis
    hue: Tensor  # N, an angle about the grey axis
    saturation: Tensor  # N, a factor of the distance from the grey axis
    bands: Tensor  # N,4: amplification of each band before the power is restored
    noise: Tensor  # N, standard deviation
    cutout: Tensor  # N,4: the hole's first column, column after, first row, row after; all 0 = none
    field: Tensor | None = None  # N,C,H,W, standard normal; without the noise transform there is none


@dataclass(frozen=True)
class Numbers:
    """Random numbers of one call, whatever p and (but for `field`) whatever the policy."""

    gates: Tensor  # N,19 uniform: which transforms are on; rotation has two
    uniform: Tensor  # N,10
    normal: Tensor  # N,12
    field: Tensor | None


class ADA(nn.Module):
    """Transforms each image with probability p, and lets p follow how far D overfits. p is in the state: it resumes.

    `policy` is a key of POLICIES or a sequence of names from TRANSFORMS. On grey images hue and saturation do nothing.
    """

    p: Tensor
    signs: Tensor
    count: Tensor
    since: Tensor

    def __init__(self, channels: int, policy: Policy | Sequence[Transform]):
        super().__init__()
        names: Sequence[str] = POLICIES.get(policy, (policy,)) if isinstance(policy, str) else policy
        unknown = sorted(set(names) - set(TRANSFORMS))
        if unknown:
            raise ConfigError(
                f"Found ADA policy {unknown[0]!r}; expected one of {', '.join(POLICIES)}, or a list of "
                f"{', '.join(TRANSFORMS)}."
            )
        self.policy = frozenset(names)
        if channels not in (1, 3) and self.policy & set(COLOUR):
            raise ConfigError(
                f"Found images with {channels} channels; ADA's colour transforms are for grey (1) and RGB (3). Choose "
                f"--set ada_policy=bg."
            )
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))  # sum of E sign D(real) since the last adjustment
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # updates since the last adjustment
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))  # images seen at the last adjustment

    # -- the controller --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, sign_real: Tensor, images: int, target: float, images_per_unit: float) -> None:
        """After an update of D: E sign D(real) of its batch, and the images seen so far in training.

        Every INTERVAL updates p moves towards where r_t = E sign D(real) equals `target`, by the share of
        `images_per_unit` seen since; it stays in [0, 1] (section 3.1).
        """
        self.signs += sign_real.detach().to(self.signs)
        self.count += 1
        if int(self.count) < INTERVAL:
            return
        step = (images - int(self.since)) / images_per_unit
        self.p.add_(torch.sign(self.signs / self.count - target) * step).clamp_(0, 1)
        self.since.fill_(images)
        self.signs.zero_()
        self.count.zero_()

    # -- the pipeline ----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """float N,C,H,W in [-1, 1] -> the same, each image transformed by its own draw; float32, in and out of autocast
        (float64 stays). p = 0 gives back `x` itself."""
        numbers = self.numbers(x, rng)
        if not bool(self.p):
            return x
        h, w = x.shape[2:]
        return self.execute(x, self.draw(numbers, h, w))

    def numbers(self, x: Tensor, rng: torch.Generator) -> Numbers:
        """As many random numbers for images like `x` at any p, so that p decides nothing but its own transforms."""
        n, device = len(x), rng.device
        return Numbers(
            torch.rand((n, len(TRANSFORMS) + 1), generator=rng, device=device),
            torch.rand((n, 10), generator=rng, device=device),
            torch.randn((n, 12), generator=rng, device=device),
            torch.randn(x.shape, generator=rng, device=device) if "noise" in self.policy else None,
        )

    def draw(self, numbers: Numbers, h: int, w: int) -> Draw:
        """Each image's parameters (figure 21), for images of h x w pixels."""
        gates, u, z = numbers.gates, numbers.uniform.unbind(1), numbers.normal.unbind(1)
        sides = torch.tensor([w, h], device=gates.device)
        either = 1 - torch.sqrt(1 - self.p)  # of two rotations, so that one or both happen with probability p

        def pick(name: str, value: Tensor, neutral: float = 0.0) -> Tensor:
            if name not in self.policy:
                return torch.full_like(value, neutral)
            gate = gates[:, TRANSFORMS.index(name)] < (either if name == "rotation" else self.p)
            return torch.where(gate.view(-1, *[1] * (value.dim() - 1)), value, neutral)

        # The second rotation's gate is the last column.
        turned = (gates[:, -1] < either) if "rotation" in self.policy else torch.zeros_like(u[0])
        centre = torch.stack(u[8:10], 1)
        low, high = ((centre - 1 / 4) * sides).round(), ((centre + 1 / 4) * sides).round()
        return Draw(
            xflip=pick("xflip", (2 * u[0]).floor()),
            rotate90=pick("rotate90", (4 * u[1]).floor()),
            integer_translation=pick("integer_translation", ((torch.stack(u[2:4], 1) - 0.5) / 4 * sides).round()),
            isotropic_scaling=pick("isotropic_scaling", 2 ** (0.2 * z[0]), 1),
            pre_rotation=pick("rotation", (2 * u[4] - 1) * math.pi),
            anisotropic_scaling=pick("anisotropic_scaling", 2 ** (0.2 * z[1]), 1),
            post_rotation=(2 * u[5] - 1) * math.pi * turned,
            fractional_translation=pick("fractional_translation", torch.stack(z[2:4], 1) / 8 * sides),
            brightness=pick("brightness", 0.2 * z[4]),
            contrast=pick("contrast", 2 ** (0.5 * z[5]), 1),
            luma_flip=pick("luma_flip", (2 * u[6]).floor()),
            hue=pick("hue", (2 * u[7] - 1) * math.pi),
            saturation=pick("saturation", 2 ** z[6], 1),
            bands=torch.stack([pick(name, 2 ** z[7 + i], 1) for i, name in enumerate(BANDS)], 1),
            noise=pick("noise", 0.1 * z[11].abs()),
            cutout=pick("cutout", torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)),
            field=numbers.field,
        )

    def execute(self, x: Tensor, draw: Draw) -> Tensor:
        """float N,C,H,W -> the same, transformed as `draw` says: float32, or float64 for float64."""
        x = x if x.dtype == torch.float64 else x.float()
        with torch.autocast(x.device.type, enabled=False):
            if self.policy & {*BLIT, *GEOMETRIC}:
                x = move(x, draw)
            if self.policy & set(COLOUR):
                x = recolour(x, draw)
            if self.policy & set(BANDS):
                x = on_rows(x, (draw.bands != 1).any(1), lambda part, rows: amplify(part, draw.bands[rows]))
            if draw.field is not None:
                x = x + draw.noise.to(x)[:, None, None, None] * draw.field.to(x)
            if "cutout" in self.policy:
                x = cut(x, draw.cutout)
        return x


def on_rows(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`change(x[rows], rows)` for the rows that the boolean N `chosen` marks; the others stay as they are."""
    rows = chosen.nonzero().squeeze(1)
    return x.index_copy(0, rows, change(x[rows], rows)) if len(rows) else x


# -- geometry ----------------------------------------------------------------------------------------------------------


def move(x: Tensor, draw: Draw) -> Tensor:
    """Blits and geometric transforms: one inverse affine map each, executed by copying where pixels stay whole."""
    h, w = x.shape[2:]
    smooth = (
        (draw.isotropic_scaling != 1)
        | (draw.pre_rotation != 0)
        | (draw.anisotropic_scaling != 1)
        | (draw.post_rotation != 0)
        | (draw.fractional_translation != 0).any(1)
    )
    if (h - w) % 2:  # a quarter turn about the centre puts pixels between pixels
        smooth = smooth | (draw.rotate90 % 2 == 1)
    moved = (draw.xflip != 0) | (draw.rotate90 != 0) | (draw.integer_translation != 0).any(1)
    inverse = inverse_map(draw).to(x)
    x = on_rows(x, moved & ~smooth, lambda part, rows: copy(part, inverse[rows]))
    return on_rows(x, smooth, lambda part, rows: resample(part, inverse[rows]))


def inverse_map(draw: Draw) -> Tensor:
    """N,3,3: homogeneous coordinates (x, y, 1) about the image's centre, of the output -> of the input (figure 21)."""
    shift, drift = draw.integer_translation, draw.fractional_translation
    zero, one = torch.zeros_like(draw.xflip), torch.ones_like(draw.xflip)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack([*entries, zero, zero, one], 1).view(-1, 3, 3)

    def scale(x: Tensor, y: Tensor) -> Tensor:
        return matrix(x, zero, zero, zero, y, zero)

    def rotate(cos: Tensor, sin: Tensor) -> Tensor:
        return matrix(cos, -sin, zero, sin, cos, zero)

    def translate(by: Tensor) -> Tensor:
        return matrix(one, zero, by[:, 0], zero, one, by[:, 1])

    quarter = draw.rotate90 * (math.pi / 2)
    pre, post, s, a = draw.pre_rotation, draw.post_rotation, draw.isotropic_scaling, draw.anisotropic_scaling
    # G = T_n ... T_1, so its inverse is inv(T_1) ... inv(T_n): from the first transform to the last.
    return (
        scale(1 - 2 * draw.xflip, one)
        @ rotate(quarter.cos().round(), -quarter.sin().round())
        @ translate(-shift)
        @ scale(1 / s, 1 / s)
        @ rotate(pre.cos(), -pre.sin())
        @ scale(1 / a, a)
        @ rotate(post.cos(), -post.sin())
        @ translate(-drift)
    )


def moves(draw: Draw, h: int, w: int) -> Tensor:
    """N,6: the geometry of a draw in numbers, zeros where an image stays as it is: the inverse map less the identity,
    row by row, its shifts as shares of the sides of h x w pixels."""
    change = inverse_map(draw)[:, :2] - torch.eye(2, 3, device=draw.xflip.device)
    return (change / change.new_tensor([[1, 1, w], [1, 1, h]])).flatten(1)


def sources(inverse: Tensor, x: Tensor, y: Tensor, h: int, w: int) -> Tensor:
    """Where the output's columns `x` and rows `y`, in pixels, come from in images of h x w: (x, y), N,rows,cols,2."""
    middle = x.new_tensor([(w - 1) / 2, (h - 1) / 2])
    points = torch.cartesian_prod(y, x).flip(1) - middle
    found = points @ inverse[:, :2, :2].mT + (inverse[:, None, :2, 2] + middle)
    return found.view(-1, len(y), len(x), 2)


def copy(x: Tensor, inverse: Tensor) -> Tensor:
    """Moves whole pixels."""
    n, c, h, w = x.shape
    cols, rows = (torch.arange(side, device=x.device, dtype=x.dtype) for side in (w, h))
    sx, sy = sources(inverse, cols, rows, h, w).round().long().unbind(3)
    index = (reflect(sy, h) * w + reflect(sx, w)).view(n, 1, h * w)
    return x.flatten(2).gather(2, index.expand(n, c, h * w)).view_as(x)


def resample(x: Tensor, inverse: Tensor) -> Tensor:
    """x2 upsampling, bilinear lookups, x2 downsampling. What lies outside is the image's reflection, without end."""
    h, w = x.shape[2:]
    fine = constant(upsampling(h), x) @ x @ constant(upsampling(w), x).mT  # one period of the reflected image
    cols, rows = ((torch.arange(2 * side + 10, device=x.device, dtype=x.dtype) - CENTRE) / 2 for side in (w, h))
    turns = sources(inverse, cols, rows, h, w) / x.new_tensor([period(w), period(h)])
    place = 2 * (turns - turns.floor()) - 1  # in that period, from -1 to 1
    found: Tensor = Lookup.apply(fine, place)  # type: ignore[no-untyped-call]
    return constant(downsampling(h), x) @ found @ constant(downsampling(w), x).mT


class Lookup(torch.autograd.Function):
    """Bilinear lookups in images N,C,H,W at places N,H',W',2 in [-1, 1], which are constants.

    A gradient penalty differentiates them twice, which torch's `grid_sample` does not allow in every version we run on.
    It is linear in the images, so the derivative of its derivative is the lookup itself.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.size = images.shape[2:]
        return F.grid_sample(images, place, padding_mode="border", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return Spread.apply(grads[0], place, ctx.size), None  # type: ignore[no-untyped-call]


class Spread(torch.autograd.Function):
    """The transpose of `Lookup`: values N,C,H',W' added to where they were looked up, N,C,H,W."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(place)
        images = values.new_empty(*values.shape[:2], *size)  # only its shape counts
        bilinear, border, aligned = 0, 1, True
        back = torch.ops.aten.grid_sampler_2d_backward
        found: Tensor = back(values, images, place, bilinear, border, aligned, [True, False])[0]
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return Lookup.apply(grads[0], place), None, None  # type: ignore[no-untyped-call]


def period(size: int) -> int:
    """Pixels after which an image repeats that is reflected at both its borders."""
    return max(2 * (size - 1), 1)


def reflect(i: Any, size: int) -> Any:
    """Pixel numbers (an integer array or tensor) -> the ones inside; the border pixel is not doubled."""
    return size - 1 - abs(size - 1 - i % period(size))


def constant(matrix: NDArray[np.float64], x: Tensor) -> Tensor:
    """The matrix with the type and place of `x`."""
    return torch.from_numpy(matrix).to(x.dtype).to(x.device)


@lru_cache
def upsampling(size: int) -> NDArray[np.float64]:
    """One period of the reflected line, x2 upsampled by SYM6: 2 period + 1, size. Row n is the place n/2."""
    out = np.zeros((2 * period(size) + 1, size))
    n = np.arange(len(out))
    for tap, value in enumerate(SYM6):
        even = n[(n - tap + CENTRE) % 2 == 0]
        np.add.at(out, (even, reflect((even - tap + CENTRE) // 2, size)), math.sqrt(2) * value)
    return out


@lru_cache
def downsampling(size: int) -> NDArray[np.float64]:
    """Back to `size` pixels, from samples at -CENTRE/2, ... in steps of 1/2: size, 2 size + 10."""
    out = np.zeros((size, 2 * size + len(SYM6) - 2))
    for tap, value in enumerate(SYM6):
        out[np.arange(size), 2 * np.arange(size) + tap] = value / math.sqrt(2)
    return out


# -- colour, filter, cutout --------------------------------------------------------------------------------------------


def recolour(x: Tensor, draw: Draw) -> Tensor:
    """The product of figure 21's colour matrices, on N,1,H,W or N,3,H,W.

    With P the projection on the grey axis, Q = I - P, and K the cross product with that axis, luma flip is I - 2P, hue
    P + cos Q + sin K, saturation P + s Q. They commute; what is left is contrast ((1 - 2 flip) P + s (cos Q + sin K))
    after brightness. A grey pixel lies in P.
    """
    x = x + draw.brightness.to(x)[:, None, None, None]
    grey = (draw.contrast * (1 - 2 * draw.luma_flip)).to(x)[:, None, None]
    if x.shape[1] == 1:
        return x * grey[..., None]
    along = x.new_full((3, 3), 1 / 3)
    across = torch.eye(3, device=x.device, dtype=x.dtype) - along
    cross = x.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    vivid, hue = (v.to(x)[:, None, None] for v in (draw.contrast * draw.saturation, draw.hue))
    colours = grey * along + vivid * (hue.cos() * across + hue.sin() * cross)
    return (colours @ x.flatten(2)).view(x.shape)


def amplify(x: Tensor, bands: Tensor) -> Tensor:
    """Amplifies frequency bands (N,4), each followed by what keeps the expected power; both axes by the same filter."""
    gain = torch.ones_like(bands)
    power = bands.new_tensor(POWER)
    for i in range(len(POWER)):
        t = torch.ones_like(bands)
        t[:, i] = bands[:, i]
        gain = gain * t / (power * t.square()).sum(1, keepdim=True).sqrt()
    rows, cols = (torch.tensordot(gain.to(x), constant(filter_bank(size), x), 1)[:, None] for size in x.shape[2:])
    filtered: Tensor = rows @ x @ cols.mT
    return filtered


@lru_cache
def filter_bank(size: int) -> NDArray[np.float64]:
    """4,size,size: what each band is in a reflected line; together they are the line.

    With H the low-pass SYM2, L(z) = H(z) H(1/z) / 2 and its mirror L(-z) sum to 1 and split a line in halves; the lower
    half is split again by L(z^2), and its lower half by L(z^4).
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1.0) ** np.arange(-3, 4)
    rest, taps = np.ones(1), []
    for level in range(3):
        spread = np.zeros((2, 6 * 2**level + 1))
        spread[:, :: 2**level] = low, high
        taps.append(np.convolve(rest, spread[1]))
        rest = np.convolve(rest, spread[0])
    out = np.zeros((4, size, size))
    pixel = np.arange(size)
    for band, band_taps in zip(out, [rest, *reversed(taps)], strict=True):
        for i, value in enumerate(band_taps):
            np.add.at(band, (pixel, reflect(pixel + i - len(band_taps) // 2, size)), value)
    return out


def cut(x: Tensor, hole: Tensor) -> Tensor:
    """Greys out the rectangle N,4 (first column, column after, first row, row after)."""
    left, right, top, bottom = hole[:, :, None, None].unbind(1)
    cols, rows = torch.arange(x.shape[3], device=x.device), torch.arange(x.shape[2], device=x.device)[:, None]
    inside = (cols >= left) & (cols < right) & (rows >= top) & (rows < bottom)
    return x * (~inside)[:, None].to(x)
