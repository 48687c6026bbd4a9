"""Bulk generation: up to a million images of one model, as the ZIP of a data set that `kartina data import` takes.

    CLASS/0000012-seed12.png ...    each with its recipe and the marker `synthetic`, as any generated image
    manifest.csv                    path,label: classes by their own names, whatever folders may be called
    recipe.json                     what makes all of it again

Image i has seed + i, so a part that is done is done. Batches are always the same ones: what a batch is evaluated to
depends, in the last bits, on its size. So a ZIP that was interrupted anywhere becomes byte for byte the one that would
have been made without that (on the same machine). Memory does not grow with the number of images: one or two batches
are held, and the list of files lies on the disk until the end.

It shares the device as training does: between two steps it waits while somebody waits for images.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from kartina.config import read
from kartina.data.storedzip import Mark, StoredZip
from kartina.errors import ConfigError, ConflictError, NotFoundError, StorageError, disk_errors
from kartina.generators.base import Row
from kartina.handlers.specs import BulkJob
from kartina.jobs.context import Context
from kartina.jobs.table import LEASE
from kartina.models import png
from kartina.models.model import Model, load
from kartina.models.png import Images
from kartina.serving import tuning
from kartina.serving.device import Gate
from kartina.storage.usage import hold
from kartina.training.loop import pick_device

NAME = "images.zip"
BATCH = {"cpu": 64}  # images of one evaluation
BATCH_ELSEWHERE = 256
SAVE = 2.0  # seconds between two marks to go on from
AHEAD = 2  # batches that wait to be encoded
SLICE = 16  # images that one thread encodes at a time
SPARE = 2**26  # bytes of the disk that are left free

Save = Callable[[dict[str, Any]], None]
Report = Callable[[int, float], None]  # (images done, images a second)


def bulk(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Make the ZIP, or what is missing of it. Returns {"images", "bytes", "rate": images a second}."""
    given = read(BulkJob, spec, "a bulk job")
    device = pick_device(given.device)
    model = load(given.model, device)
    if model.manifest is None or model.manifest.hash != given.hash:
        raise NotFoundError(f"Found another {given.model} than was asked for ({given.hash[:12]}); it was replaced.")

    def report(done: int, rate: float) -> None:
        text = f"{done:,} of {given.n:,} images, {rate:,.0f} a second"
        job.progress(done / given.n, text, step=done, steps=given.n)

    gate = Gate(device, job.cancelled)

    def turn() -> None:
        gate()
        job.check()  # between two steps: a batch may take a minute

    with disk_errors("make the images"), _alone(job.kept / "lock", job.cancelled):
        try:
            size, rate = make(model, given, job.kept, job.saved, job.save, turn, job.check, report)
        finally:
            gate.close()
        _link(job.kept / NAME, job.folder / NAME)
    with job.database.write() as c:
        hold(c, job.database, job.caller, f"job:{job.id}", images=given.n, bytes=size)
    return {"images": given.n, "bytes": size, "rate": round(rate, 1)}


def make(
    model: Model,
    given: BulkJob,
    folder: Path,
    saved: Mapping[str, Any] | None = None,
    save: Save = lambda saved: None,
    gate: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
    report: Report = lambda done, rate: None,
) -> tuple[int, float]:
    """Write `folder`/images.zip, going on from `saved`; returns (its bytes, images a second of this call).

    `save` is told where to go on from; `gate` is called before every evaluation, `check` before every batch. Raises
    ConfigError, NotFoundError for what cannot be made, StorageError where the disk has no room for the rest.
    """
    plan = Plan.of(model, given)
    controls = model.controls("generate", **given.controls)
    shared = model.recipe(controls)
    state = dict(saved or {}) or _fresh(model, given)
    if state["threads"]:
        torch.set_num_threads(state["threads"])
    try:
        out = StoredZip(folder / NAME, folder / "list", Mark(**state["zip"]))
    except FileNotFoundError:  # what was made is gone: a backup was restored, a folder emptied
        state = _fresh(model, given)
        out = StoredZip(folder / NAME, folder / "list")
    first = done = int(state["done"])
    begun = told = time.monotonic()
    pending: deque[tuple[int, list[Future[list[bytes]]]]] = deque()
    encoders = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 2) // 2)), thread_name_prefix="encode")

    def write_one() -> None:
        """Write the oldest batch whose images wait."""
        nonlocal done, told
        start, parts = pending.popleft()
        i = start
        for part in parts:
            for content in part.result():
                out.add(plan.path(i), content)
                i += 1
        done = i
        now = time.monotonic()
        report(done, (done - first) / max(now - begun, 1e-9))
        if now - told > SAVE or start == 0:
            state.update(done=done, zip=asdict(out.mark()))
            save(state)
            _check_room(folder, out.size, done, given.n)
            told = time.monotonic()

    try:
        for start in range(done, given.n, state["batch"]):
            check()
            index = range(start, min(start + state["batch"], given.n))
            rows = [plan.row(i, controls) for i in index]
            images = evaluate(model, rows, gate)
            recipes = [{**shared, "label": plan.name(i), "seed": given.seed + i} for i in index]
            pending.append((start, [
                encoders.submit(_encode, images[k : k + SLICE], recipes[k : k + SLICE], given.format)
                for k in range(0, len(images), SLICE)
            ]))  # fmt: skip
            if len(pending) > AHEAD:
                write_one()
        while pending:
            write_one()
        _append_manifest(out, plan, folder)
        out.add("recipe.json", json.dumps({"synthetic": True, **shared, **_asked(given)}, indent=1).encode())
        rate = (given.n - first) / max(time.monotonic() - begun, 1e-9)
        return out.finish(), rate
    finally:
        encoders.shutdown(wait=True, cancel_futures=True)
        out.close()


@torch.inference_mode()
def evaluate(model: Model, rows: Sequence[Row], gate: Callable[[], None]) -> Images:
    """The rows' images, uint8 N,C,H,W, made together."""
    gate()
    state = model.family.start(rows)
    while not bool(state.done.all()):
        gate()
        state = model.family.step(state)
    return model.family.finish(state).images.cpu().numpy()


@dataclass(frozen=True)
class Plan:
    """Which class image i is of, and what it is called."""

    given: BulkJob
    names: tuple[str, ...]  # of the classes, in label order
    folders: tuple[str, ...]
    labels: tuple[int, ...]  # image i has labels[i mod len(labels)]; or, where there are `ends`,
    ends: tuple[int, ...]  # labels[k] as long as i < ends[k]
    eye: torch.Tensor  # K,K

    @classmethod
    def of(cls, model: Model, given: BulkJob) -> Plan:
        """Raises ConfigError, NotFoundError for labels and counts that cannot be used."""
        if "generate" not in model.family.capabilities():
            raise ConfigError(f"Found {given.model}, which only works on images; expected a model that generates.")
        ends: tuple[int, ...] = ()
        if given.counts is not None:
            wanted = {model.label(name): n for name, n in given.counts.items() if n}
            labels = tuple(sorted(wanted))
            ends = tuple(accumulate(wanted[label] for label in labels))
            if not ends or ends[-1] != given.n:
                raise ConfigError(f"Found counts of {ends[-1] if ends else 0:,} images and n={given.n:,}.")
        elif given.labels is not None:
            labels = tuple(model.label(name) for name in given.labels)
        else:
            labels = tuple(range(model.family.classes))
        return cls(given, model.classes, _folders(model.classes), labels, ends, torch.eye(model.family.classes))

    def label(self, i: int) -> int:
        return self.labels[bisect_right(self.ends, i) if self.ends else i % len(self.labels)]

    def name(self, i: int) -> str | None:
        return self.names[self.label(i)] if self.names else None

    def row(self, i: int, controls: Any) -> Row:
        return Row(self.eye[self.label(i)], self.given.seed + i, controls, "generate", {})

    def path(self, i: int) -> str:
        width = len(str(self.given.n - 1))
        folder = self.folders[self.label(i)] if self.names else "images"
        return f"{folder}/{i:0{width}d}-seed{self.given.seed + i}.{self.given.format}"


def _folders(names: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class: its name, as far as that is safe everywhere and no other's."""
    found: list[str] = []
    for label, name in enumerate(names):
        plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or f"class-{label}"
        taken = {folder.casefold() for folder in found}
        found.append(plain if plain.casefold() not in taken else f"{plain}-{label}")
    return tuple(found)


def _fresh(model: Model, given: BulkJob) -> dict[str, Any]:
    """Where one begins that was never begun: with the sizes that decide its bytes."""
    device = str(model.family.device.type)
    known = tuning.read(given.hash, device) if given.hash else None
    return {
        "done": 0,
        "batch": BATCH.get(device, BATCH_ELSEWHERE),
        "threads": known.threads if known is not None and device == "cpu" else 0,
        "zip": asdict(Mark()),
    }


def _encode(images: Images, recipes: Sequence[Mapping[str, Any]], format: str) -> list[bytes]:
    files = [png.encode(image, recipe) for image, recipe in zip(images, recipes, strict=True)]
    return files if format == "png" else [png.as_webp(file) for file in files]


def _append_manifest(out: StoredZip, plan: Plan, folder: Path) -> None:
    where = folder / "manifest.csv"
    with where.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("path", "label"))
        lines.writerows((plan.path(i), plan.name(i) or "") for i in range(plan.given.n))
    out.add_file("manifest.csv", where)
    where.unlink()


def _asked(given: BulkJob) -> dict[str, Any]:
    return given.model_dump(mode="json", include={"labels", "counts", "n", "seed", "format"})


def _check_room(folder: Path, size: int, done: int, n: int) -> None:
    """StorageError where what is missing will not fit on the disk."""
    need, free = size / done * (n - done), shutil.disk_usage(folder).free - SPARE
    if need > free:
        raise StorageError(
            f"Found {max(free, 0) / 1e9:.2f} GB of the disk free; expected {need / 1e9:.2f} GB for the other "
            f"{n - done:,} images. Free some space and resume, or ask for fewer."
        )


@contextmanager
def _alone(path: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Be the only attempt at work, after some patience with an earlier one's process that has yet to end."""
    with path.open("w") as file:
        patience = time.monotonic() + 2 * LEASE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop() or time.monotonic() > patience:
                    raise ConflictError("Found an earlier attempt's process still at work; try again.") from None
                time.sleep(0.2)
        yield


def _link(source: Path, target: Path) -> None:
    """The same file under another name, so that it is there for the next attempt, too; a copy where links are not."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
