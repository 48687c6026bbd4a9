"""Known answers: every metric on features whose score can be written down, or that another library scores.

python -m benchmarks.known_answers

Prints a table: what is compared, the tolerance, the error observed, and whether it is within. Errors of distances and
scores are relative unless they say "abs"; "in SE" is in standard errors of the average that is compared; "wrong" counts
images or decisions that are not as they must be. `tests/metrics/test_known_answers.py` runs the same checks.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import linalg

from kartina.metrics import kid as kernel
from kartina.metrics import prdc as neighbours
from kartina.metrics.fd import Moments, Reference, fd, fd_few, fd_infinity, fd_moments
from kartina.metrics.inception_score import inception_score
from kartina.metrics.memorisation import Nearest, copied, flagged, nearest_pixels

Errors = dict[str, tuple[float, float]]  # what: (tolerance, observed)
Check = Callable[[], Errors]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def gaussian(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return scale * rng.normal(size=(n, d)) @ mix + shift


def moments(mean: np.ndarray, covariance: np.ndarray, n: int = 1000) -> Moments:
    return Moments(n, mean, covariance * (n - 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torchmetrics remarks about its memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def relative(found: float, expected: float) -> float:
    return abs(found - expected) / abs(expected)


# -- Frechet distance --------------------------------------------------------------------------------------------------


@check
def fd_of_diagonal_gaussians() -> Errors:
    """|mu|^2 + sum (sqrt a - sqrt b)^2."""
    rng = np.random.default_rng(0)
    a, b, mean = rng.uniform(0.1, 9, 256), rng.uniform(0.1, 9, 256), rng.normal(size=256)
    expected = float(mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    found = fd_moments(moments(mean, np.diag(a)), Reference(moments(np.zeros(256), np.diag(b))))
    return {"FD of diagonal Gaussians": (1e-10, relative(found, expected))}


@check
def fd_of_a_scaled_covariance() -> Errors:
    """S against c^2 S: (1 - c)^2 tr S."""
    covariance, zero = np.cov(gaussian(1000, 128, 1), rowvar=False), np.zeros(128)
    return {
        f"FD of S against {c}^2 S": (1e-10, relative(
            fd_moments(moments(zero, covariance), Reference(moments(zero, c**2 * covariance))),
            (1 - c) ** 2 * float(np.trace(covariance)),
        ))
        for c in (0.5, 1.5, 3.0)
    }  # fmt: skip


@check
def fd_is_symmetric_and_turns_with_space() -> Errors:
    x, y = gaussian(800, 96, 3, shift=0.3), gaussian(900, 96, 4, 1.4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(96, 96)))[0]
    here = fd(x, Reference.of(y))
    return {
        "FD of (x, y) and (y, x)": (1e-9, relative(fd(y, Reference.of(x)), here)),
        "FD of x, y turned alike": (1e-9, relative(fd(x @ turn, Reference.of(y @ turn)), here)),
    }


@check
def fd_of_other_libraries() -> Errors:
    from torchmetrics.image.fid import _compute_fid

    x, y = gaussian(1500, 128, 6, shift=0.2), gaussian(1400, 128, 7, 0.8)
    s1, s2, delta = np.cov(x, rowvar=False), np.cov(y, rowvar=False), x.mean(0) - y.mean(0)
    base = delta @ delta + np.trace(s1) + np.trace(s2)
    oracles = {
        "eigvals of S1 S2": base - 2 * np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0)).sum(),
        "scipy's sqrtm": base - 2 * np.trace(linalg.sqrtm(s1 @ s2).real),
        "torchmetrics": float(_compute_fid(*(torch.from_numpy(v) for v in (x.mean(0), s1, y.mean(0), s2)))),
    }
    found = fd(x, Reference.of(y))
    return {f"FD and {name}": (1e-9, relative(found, value)) for name, value in oracles.items()}


@check
def fd_of_few_images() -> Errors:
    """The nuclear norm and the eigenvalues, n < d; also where both covariances are singular."""
    x, whole, few = gaussian(60, 192, 8, shift=0.5), Reference.of(gaussian(900, 192, 9)), gaussian(90, 192, 10)
    return {
        "FD of n < d, nuclear norm and eigh": (1e-6, relative(fd_few(x, whole), fd_moments(Moments.of(x), whole))),
        "the same, both singular": (1e-6, relative(fd_few(x, Reference.of(few)),
                                                   fd_moments(Moments.of(x), Reference.of(few)))),
    }  # fmt: skip


@check
def fd_of_a_stream() -> Errors:
    """Batches of 13 against one batch; at full rank, and singular."""
    errors: Errors = {}
    reference = Reference.of(gaussian(600, 64, 12))
    for n, tolerance, name in ((1000, 1e-12, "full rank"), (40, 1e-6, "singular")):
        x = gaussian(n, 64, 11, shift=2.0)
        whole, stream = Moments.of(x), Moments.stream(x[i : i + 13] for i in range(0, n, 13))
        errors |= _parts(f"stream, {name}", whole, stream, reference, tolerance)
    return errors


def _parts(name: str, whole: Moments, parts: Moments, reference: Reference, tolerance: float) -> Errors:
    covariance = np.abs(parts.covariance - whole.covariance).max() / np.abs(whole.covariance).max()
    return {
        f"{name}: mean": (1e-12, float(np.abs(parts.mean - whole.mean).max() / np.abs(whole.mean).max())),
        f"{name}: covariance": (1e-12, float(covariance)),
        f"{name}: FD": (tolerance, relative(fd_moments(parts, reference), fd_moments(whole, reference))),
    }


RANK = """
import sys
import numpy as np
import torch.distributed as dist
from benchmarks.known_answers import gaussian
from kartina.metrics.fd import Moments
from kartina.metrics.ranks import gather_moments, gather_rows
rank, n, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{where}/meet-{n}", rank=rank, world_size=2)
x = gaussian(n, 64, 11, shift=2.0)
mine = x[: n // 3] if rank == 0 else x[n // 3 :]  # unequal parts
found = gather_moments(Moments.of(mine))
np.savez(f"{where}/{n}-{rank}.npz", n=found.n, mean=found.mean, scatter=found.scatter, rows=gather_rows(mine))
dist.destroy_process_group()
"""


@check
def two_ranks_are_one_process() -> Errors:
    """Two processes of gloo with unequal parts against one process with all."""
    errors: Errors = {}
    reference = Reference.of(gaussian(600, 64, 12))
    with tempfile.TemporaryDirectory() as where:
        for n, tolerance, name in ((1000, 1e-12, "full rank"), (40, 1e-6, "singular")):
            ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(r), str(n), where]) for r in (0, 1)]
            if any([rank.wait(timeout=120) for rank in ranks]):
                raise RuntimeError("A rank failed.")
            x = gaussian(n, 64, 11, shift=2.0)
            found = []
            for rank in (0, 1):
                with np.load(Path(where) / f"{n}-{rank}.npz") as file:
                    found.append(Moments(int(file["n"]), file["mean"], file["scatter"]))
                    errors[f"2 ranks, {name}: rows of rank {rank}, wrong"] = (0, float((file["rows"] != x).sum()))
            errors |= _parts(f"2 ranks, {name}", Moments.of(x), found[0], reference, tolerance)
            unlike = float((found[0].mean != found[1].mean).sum() + (found[0].scatter != found[1].scatter).sum())
            errors[f"2 ranks, {name}: bits that differ between them"] = (0, unlike)
    return errors


@check
def fd_at_infinite_n() -> Errors:
    """One Gaussian on both sides: FD_n is d/n-sized, its extrapolation is 0."""
    d, n = 32, 2000
    reference = Reference(moments(np.zeros(d), np.eye(d)))
    samples = [np.random.default_rng(100 + i).normal(size=(n, d)) for i in range(40)]
    finite, found = ([f(x, reference) for x in samples] for f in (fd, fd_infinity))
    error = float(np.std(found, ddof=1) / np.sqrt(len(found)))
    return {
        "FD at infinite n of one Gaussian, in SE": (4.0, abs(float(np.mean(found))) / error),
        "the same over FD_n": (0.1, abs(float(np.mean(found))) / float(np.mean(finite))),
    }


# -- kernel distance ---------------------------------------------------------------------------------------------------


@check
def kid_of_zero_mean_gaussians() -> Errors:
    """3 |S1 - S2|_F^2 / d^2: of (1 + x.y/d)^3 odd powers vanish, and the square leaves tr S1 S2."""
    d, n, rounds = 8, 400, 300
    a, b = np.linspace(0.5, 2, d), np.linspace(1.5, 0.7, d)
    expected = 3 * float(((a - b) ** 2).sum()) / d**2
    found = []
    for i in range(rounds):
        rng = np.random.default_rng(i)
        found.append(kernel.kid(rng.normal(size=(n, d)) * np.sqrt(a), rng.normal(size=(n, d)) * np.sqrt(b)))
    error = float(np.std(found, ddof=1) / np.sqrt(rounds))
    return {"KID of zero-mean Gaussians, in SE": (4.0, abs(float(np.mean(found)) - expected) / error)}


@check
def kid_by_hand_and_of_torchmetrics() -> Errors:
    from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

    x, y = gaussian(120, 24, 1), gaussian(90, 24, 2, 1.3, 0.2)
    by_hand = 0.0
    for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
        k = (a @ b.T / 24 + 1) ** 3
        by_hand += sign * float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)) if a is b else k.mean())
    z = gaussian(120, 24, 3, 0.9)
    theirs = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(z)))

    class Itself(torch.nn.Module):
        num_features = 64

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    # Subsets: the same, as torch draws them.
    real, fake = gaussian(700, 64, 4), gaussian(650, 64, 5, 1.2)
    with quiet():
        peer = KernelInceptionDistance(feature=Itself(), subsets=20, subset_size=300).set_dtype(torch.float64)
    peer.update(torch.from_numpy(real), real=True)
    peer.update(torch.from_numpy(fake), real=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mean = float(peer.compute()[0])
    return {
        "KID and the formula by hand": (1e-10, relative(kernel.kid(x, y), by_hand)),
        "KID and torchmetrics' MMD": (1e-9, relative(kernel.kid(x, z), theirs)),
        "KID of 20 subsets and torchmetrics'": (1e-9, relative(kernel.kid(real, fake, 20, 300, seed=3), mean)),
        "KID of all, tiled": (1e-10, _tiled(real, fake)),
    }


def _tiled(real: np.ndarray, fake: np.ndarray) -> float:
    whole, size = kernel.mmd2(real, fake), kernel.TILE
    try:
        kernel.TILE = 256
        return relative(kernel.mmd2(real, fake), whole)
    finally:
        kernel.TILE = size


# -- Inception Score ---------------------------------------------------------------------------------------------------


@check
def inception_score_of_uniform_and_one_hot() -> Errors:
    from torchmetrics.image.inception import InceptionScore

    class Itself(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return logits

    classes = 10
    one_hot = 2000 * np.eye(classes)[np.arange(1000) % classes]
    logits = 2 * np.random.default_rng(0).normal(size=(500, 12))
    with quiet():
        peer = InceptionScore(feature=Itself(), splits=5).set_dtype(torch.float64)
    peer.update(torch.from_numpy(logits))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        order = torch.randperm(500).numpy()  # what torchmetrics will shuffle by
        torch.manual_seed(0)
        mean, std = (float(v) for v in peer.compute())
    ours = inception_score(logits[order], 5, seed=None)
    return {
        "IS of uniform probabilities": (1e-12, relative(inception_score(np.full((300, classes), 0.3)).mean, 1)),
        "IS of balanced one-hot": (1e-12, relative(inception_score(one_hot, seed=None).mean, classes)),
        "IS and torchmetrics": (1e-9, relative(ours.mean, mean)),
        "its spread, ddof=1": (1e-9, relative(ours.std, std)),
    }


# -- neighbours --------------------------------------------------------------------------------------------------------


@check
def prdc_of_a_copy_a_stranger_and_a_collapse() -> Errors:
    real = np.random.default_rng(2).normal(size=(3000, 12))
    copy, far = neighbours.prdc(real, real.copy()), neighbours.prdc(real, real + 1000)
    point = real[:1] + 0.01
    collapsed = neighbours.prdc(real, np.repeat(point, 500, axis=0))
    holding = np.linalg.norm(real - point, axis=1) < np.array([
        np.sort(np.linalg.norm(real - x, axis=1))[5] for x in real])  # fmt: skip
    return {
        "PRDC of a copy: 1, 1, 1, 1": (0, max(abs(v - 1) for v in vars(copy).values())),
        "PRDC of a stranger: 0, 0, 0, 0": (0, max(vars(far).values())),
        "PRDC of a collapse: precision 1, recall 0": (0, abs(collapsed.precision - 1) + collapsed.recall),
        "its density and coverage, counted": (0, abs(collapsed.density - holding.sum() / 5)
                                              + abs(collapsed.coverage - holding.mean())),
    }  # fmt: skip


@check
def prdc_of_the_authors_code() -> Errors:
    from prdc import compute_prdc

    errors: Errors = {}
    for k in (3, 5):
        real, fake = gaussian(2500, 48, 20), gaussian(2300, 48, 21, 0.9, 0.1)
        with open(os.devnull, "w") as nothing:
            said, sys.stdout = sys.stdout, nothing
            try:
                theirs = compute_prdc(real, fake, k)
            finally:
                sys.stdout = said
        ours = neighbours.prdc(real, fake, k, k)
        worst = max(abs(getattr(ours, key) - value) for key, value in theirs.items())
        errors[f"PRDC and the authors' code, k={k}, abs"] = (1e-12, worst)
    return errors


@check
def coverage_of_one_distribution() -> Errors:
    """1 - prod_j (N - j) / (2N - j), j = 1..k."""
    n, k, rounds = 200, 5, 200
    expected = 1 - float(np.prod([(n - j) / (2 * n - j) for j in range(1, k + 1)]))
    found = []
    for i in range(rounds):
        rng = np.random.default_rng(i)
        found.append(neighbours.coverage(rng.normal(size=(n, 6)), rng.normal(size=(n, 6))))
    error = float(np.std(found, ddof=1) / np.sqrt(rounds))
    return {"coverage of one distribution, in SE": (4.0, abs(float(np.mean(found)) - expected) / error)}


# -- memorisation ------------------------------------------------------------------------------------------------------


def scenes(n: int, side: int, channels: int, seed: int) -> np.ndarray:
    """Random smooth pictures, no two alike: uint8 N,C,H,W."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, channels, side // 4, side // 4)).astype(np.float32)
    big = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side), mode="bicubic")
    return big.round().clamp(0, 255).byte().numpy()


def jpeg(image: np.ndarray) -> np.ndarray:
    """uint8 C,H,W through JPEG at quality 95."""
    file = io.BytesIO()
    flat = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(flat).save(file, "JPEG", quality=95)
    back = np.asarray(Image.open(file))
    return back[None] if back.ndim == 2 else back.transpose(2, 0, 1)


def moved(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Shifted, the edge repeated."""
    height, width = image.shape[1:]
    ys, xs = np.clip(np.arange(height) - dy, 0, height - 1), np.clip(np.arange(width) - dx, 0, width - 1)
    return image[:, ys][:, :, xs]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda x: x,
    "mirrored": lambda x: x[:, :, ::-1],
    "shifted": lambda x: moved(x, 2, -3),
    "JPEG q95": jpeg,
    "mirrored, shifted, JPEG": lambda x: jpeg(moved(x[:, :, ::-1], -2, 1)),
}


@check
def planted_copies_are_found() -> Errors:
    """5% copies among pictures of one's own: these are found, nothing else is, each is traced to its original."""
    errors: Errors = {}
    for side, channels in ((32, 1), (32, 3), (64, 3)):
        training, held = scenes(1500, side, channels, 0), scenes(300, side, channels, 1)
        index, distance = nearest_pixels(held, training)
        nowhere = np.zeros(len(held), np.int64)
        real = Nearest(index, distance, nowhere, np.ones(len(held)))
        for name, copy in COPIES.items():
            made = scenes(200, side, channels, 2)
            planted, originals = np.arange(3, 200, 20), np.arange(0, 1500, 150)  # 10 of 200: 5%
            for at, source in zip(planted, originals, strict=True):
                made[at] = copy(training[source])
            index, distance = nearest_pixels(made, training)
            nearest = Nearest(index, distance, np.zeros(200, np.int64), np.ones(200))
            expected = np.isin(np.arange(200), planted)
            wrong = (copied(nearest, real) != expected).sum() + (index[planted] != originals).sum()
            wrong += (expected & ~flagged(nearest, real)).sum()
            errors[f"5% copies of {side} px, {channels} channels, {name}: wrong"] = (0, float(wrong))
    return errors


def main(_: list[str]) -> None:
    print(f"{'':64} {'tolerance':>10} {'observed':>10}")
    for function in CHECKS:
        for what, (tolerance, observed) in function().items():
            print(f"{what:64} {tolerance:10.0e} {observed:10.1e}  {'ok' if observed <= tolerance else 'WRONG'}")


if __name__ == "__main__":
    main(sys.argv[1:])
