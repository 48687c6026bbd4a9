"""How fast images are imported, and how much memory that takes.

python -m benchmarks.data_import [CIFAR10.ZIP] [--copies 10] [--quick]

Inspects the zip, imports it, then imports a zip of ten copies, each in a process of its own; prints seconds, images
per second, and the peak memory of the whole tree of processes: the sum of their resident sets, so that pages which
processes share count in each. Without a zip, one of 5,000 random pictures is made. All goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

IMPORT = """
import sys
from kartina.data.prepare import import_path
found = import_path(sys.argv[1], sys.argv[2])
print(len(found), found.hash)
"""
INSPECT = """
import sys
from kartina.data.inspect import inspect_path
report = inspect_path(sys.argv[1])
print(report.images, dict(report.problem_counts))
"""


def measure(code: str, *args: str, home: Path) -> dict[str, object]:
    """Run Python code in a process of its own: seconds, images, images per second, peak memory in MB."""
    started, peak = time.perf_counter(), 0
    proc = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "KARTINA_HOME": str(home)})  # fmt: skip
    tree = psutil.Process(proc.pid)
    while proc.poll() is None:
        try:
            peak = max(peak, sum(p.memory_info().rss for p in (tree, *tree.children(recursive=True))))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    assert proc.stdout is not None
    said = proc.stdout.read()
    proc.stdout.close()
    if proc.returncode:
        sys.exit(proc.returncode)
    images = int(said.split()[0])
    return {"images": images, "seconds": round(seconds, 1), "images_per_second": round(images / seconds),
            "peak_mb": round(peak / 1e6), "said": said.strip()}  # fmt: skip


def copies(source: Path, target: Path, n: int) -> Path:
    """A zip with n copies of every entry, under other names."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            folder, _, name = info.filename.rpartition("/")
            for i in range(n):
                new.writestr(f"{folder}/{i}_{name}", data)
    return target


def made(target: Path, n: int = 5000) -> Path:
    """A zip of n random 32 x 32 pictures in two classes."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(target, "w") as archive:
        for i in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            with archive.open(f"{'cat' if i % 2 else 'dog'}/{i:05d}.png", "w") as file:
                coarse.resize((32, 32)).save(file, "PNG")
    return target


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("zip", nargs="?", type=Path, help="a zip of images in class folders")
    options.add_argument("--copies", type=int, default=10)
    options.add_argument("--quick", action="store_true", help="500 random pictures, two copies")
    chosen = options.parse_args(arguments)
    if chosen.quick:
        chosen.copies = 2
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        source = chosen.zip or made(root / "pictures.zip", 500 if chosen.quick else 5000)
        results = {
            "inspect": measure(INSPECT, str(source), home=root / "home"),
            "import": measure(IMPORT, str(source), "once", home=root / "home"),
        }
        shutil.rmtree(root / "home")
        many = copies(source, root / "many.zip", chosen.copies)
        results[f"import x {chosen.copies}"] = measure(IMPORT, str(many), "many", home=root / "home")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
