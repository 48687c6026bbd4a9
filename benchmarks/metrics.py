"""Time and memory of FD, KID and PRDC beside torchmetrics, scipy and prdc, on the same features, and the same digits.

python -m benchmarks.metrics [--sizes 10000,50000] [--dimensions 2048] [--threads 2] [--json FILE]

Every measurement has a process of its own with that many threads. Features are float64 files, memory-mapped; each code
reads them in its own way. Peak memory is the process's own (RssAnon, looked at every 2 ms) above what it was before,
its libraries loaded. FD counts from features to the number, with the reference's statistics; "again" is FD once more
against the same reference, whose root is kept. A peer that would need over 16 GB is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

MOST = 16e9  # bytes that a peer may need

RUN = """
import json, sys, time
import numpy as np, scipy.linalg, sklearn.metrics, torch
name, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
from benchmarks import metrics
real, fake = (np.load(f"{folder}/{side}.npy", mmap_mode="r") for side in ("real", "fake"))
metrics.MEASURED[name](real[:64], fake[:64])  # what is loaded and compiled at first use
with metrics.Peak() as peak:
    begun = time.perf_counter()
    found = metrics.MEASURED[name](real, fake)
    seconds = time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "bytes": peak.bytes, "found": found}))
"""


class Peak:
    """The most memory of the process's own, above what it had: pages of mapped files are the system's to drop."""

    def __enter__(self) -> Peak:
        self.before = self.most = own()
        self.done = threading.Event()
        self.watch = threading.Thread(target=self.look)
        self.watch.start()
        return self

    def look(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, own())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watch.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before


def own() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


# -- what is measured: features N,d and M,d -> numbers -----------------------------------------------------------------


def fd_ours(real, fake):  # type: ignore[no-untyped-def]
    import time

    from kartina.metrics.fd import Moments, Reference, fd, fd_moments

    reference = Reference.of(real)
    found = fd(fake, reference)
    begun = time.perf_counter()
    fd_moments(Moments.of(fake), reference) if len(fake) >= fake.shape[1] else fd(fake, reference)
    again = time.perf_counter() - begun
    return {"fd": found, "again_seconds": again}


def fd_torchmetrics(real, fake):  # type: ignore[no-untyped-def]
    """FrechetInceptionDistance on features: its sums of outer products, then its distance."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Itself(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, x):  # type: ignore[no-untyped-def]
            return x

    peer = FrechetInceptionDistance(feature=Itself()).set_dtype(torch.float64)
    for features, is_real in ((real, True), (fake, False)):
        for start in range(0, len(features), 4096):
            peer.update(torch.from_numpy(np.array(features[start : start + 4096])), real=is_real)
    return {"fd": float(peer.compute())}


def fd_scipy(real, fake):  # type: ignore[no-untyped-def]
    """numpy's covariances and scipy's sqrtm, as in most code of papers."""
    from scipy import linalg

    m1, m2, s1, s2 = real.mean(0), fake.mean(0), np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = linalg.sqrtm(s1 @ s2)
    return {"fd": float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))}


def kid_ours(real, fake):  # type: ignore[no-untyped-def]
    from kartina.metrics.kid import kid

    return {"kid": kid(real, fake)}


def kid_torchmetrics(real, fake):  # type: ignore[no-untyped-def]
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    class Itself(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, x):  # type: ignore[no-untyped-def]
            return x

    size = min(1000, len(real), len(fake))
    peer = KernelInceptionDistance(feature=Itself(), subsets=100 if size == 1000 else 1, subset_size=size)
    peer.set_dtype(torch.float64)
    for features, is_real in ((real, True), (fake, False)):
        for start in range(0, len(features), 4096):
            peer.update(torch.from_numpy(np.array(features[start : start + 4096])), real=is_real)
    torch.manual_seed(0)
    return {"kid": float(peer.compute()[0])}


def prdc_ours(real, fake):  # type: ignore[no-untyped-def]
    from kartina.metrics.prdc import prdc

    return vars(prdc(real, fake, 5, 5)).copy()


def prdc_authors(real, fake):  # type: ignore[no-untyped-def]
    import contextlib

    from prdc import compute_prdc

    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        found = compute_prdc(np.array(real), np.array(fake), 5)
    return {key: float(value) for key, value in found.items()}


MEASURED = {
    "FD": fd_ours, "FD torchmetrics": fd_torchmetrics, "FD scipy": fd_scipy,
    "KID": kid_ours, "KID torchmetrics": kid_torchmetrics,
    "PRDC": prdc_ours, "PRDC prdc": prdc_authors,
}  # fmt: skip


def needs(name: str, n: int) -> float:
    """Bytes that a peer is known to need: prdc holds three n x n distances and copies of them."""
    return 5.0 * n * n * 8 if name == "PRDC prdc" else 0.0


def features(folder: Path, n: int, d: int) -> None:
    """Real and generated features like Inception's: positive, correlated, of unlike scales."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d)) / np.sqrt(d) * np.exp(rng.normal(size=d))
    for side, shift in (("real", 0.0), ("fake", 0.15)):
        out = np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float64, (n, d))
        for start in range(0, n, 4096):
            rows = out[start : start + 4096]
            rows[:] = np.abs(rng.normal(size=(len(rows), d)) @ mix + shift) * 0.4
        out.flush()


def measure(name: str, folder: Path, threads: int) -> dict[str, object]:
    environment = {**os.environ, **{f"{kind}_NUM_THREADS": str(threads) for kind in ("OMP", "MKL", "OPENBLAS")}}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, name, str(folder), str(threads)],
                          capture_output=True, text=True, env=environment)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="10000,50000")
    options.add_argument("--dimensions", type=int, default=2048)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args(arguments)
    table: list[dict[str, object]] = []
    print(f"{'':18} {'images':>7} {'seconds':>9} {'again':>7} {'peak MB':>9}  largest difference from ours, relative")
    for n in (int(size) for size in chosen.sizes.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            features(Path(temporary), n, chosen.dimensions)
            ours: dict[str, float] = {}
            for name in MEASURED:
                if needs(name, n) > MOST:
                    print(f"{name:18} {n:7,} left out: it would need {needs(name, n) / 1e9:.0f} GB", flush=True)
                    table.append({"name": name, "images": n, "left_out_gb": needs(name, n) / 1e9})
                    continue
                found = measure(name, Path(temporary), chosen.threads)
                numbers = dict(found["found"])  # type: ignore[call-overload]
                again = numbers.pop("again_seconds", None)
                if " " not in name:
                    ours = numbers
                worst = max(abs(numbers[key] - ours[key]) / max(abs(ours[key]), 1e-12) for key in ours)
                said = "" if again is None else f"{again:.2f}"
                print(f"{name:18} {n:7,} {found['seconds']:9.2f} {said:>7} {found['bytes'] / 1e6:9.0f}  "  # type: ignore
                      f"{'' if ' ' not in name else f'{worst:.1e}'}", flush=True)  # fmt: skip
                table.append({"name": name, "images": n, "difference": worst, **found})
    if chosen.json:
        chosen.json.write_text(json.dumps({"dimensions": chosen.dimensions, "threads": chosen.threads,
                                           "rows": table}, indent=1))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
