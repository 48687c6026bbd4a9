"""Use cases on bulk generation: estimate it, ask for it. What is made, and how, is the job's (`kartina.handlers.bulk`).

An estimate goes by what was measured: an earlier bulk generation of the model with the same controls; else what the
engine measured when it activated the model. Sizes go by the pictures in its package, which carry recipes, too.
"""

from __future__ import annotations

import secrets
import shutil
from asyncio import to_thread
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kartina.config import home
from kartina.errors import ConfigError, KartinaError, NoRoomError, NotFoundError
from kartina.jobs.table import Job
from kartina.services.access import Caller
from kartina.services.controls import check_controls
from kartina.services.estimates import Range
from kartina.services.jobs import Work, digest
from kartina.services.models import ModelInfo, Models
from kartina.serving.protocol import Engine
from kartina.storage.records import Format
from kartina.storage.usage import charge, hold

MAX_IMAGES = 1_000_000
ENTRY = 160  # bytes of a ZIP beside an image: its headers and its line of the manifest
RECIPE = 300  # bytes of a recipe
PIXEL = 1.1  # bytes of a PNG for each value of a pixel, where no picture tells better
SURE = 1.3  # factor within which a measured time is thought to be right
UNSURE = 3.0  # where it was measured under other circumstances
SIZES = 1.3  # factor within which the size is
SPARE = 2**26  # bytes of the disk that are left free


@dataclass(frozen=True)
class BulkSubmission:
    """What a caller asks for; None where it leaves the choice to the service."""

    model: str
    n: int | None = None  # None: what `counts` come to
    labels: tuple[str, ...] | None = None
    counts: dict[str, int] | None = None
    seed: int | None = None
    controls: dict[str, Any] = field(default_factory=dict)
    format: Format = "png"


@dataclass(frozen=True)
class Estimate:
    images: int
    seconds: Range | None  # None: nothing was measured
    bytes: Range
    free: int  # bytes of the disk
    basis: Literal["earlier job", "engine", "nothing"]

    @property
    def fits(self) -> bool:
        return self.bytes.high <= self.free


class Bulk:
    """Bulk generations of one database."""

    def __init__(self, models: Models, work: Work, engine: Engine):
        self.models = models
        self.work = work
        self.jobs = work.jobs
        self.engine = engine

    async def estimate(self, asked: BulkSubmission) -> Estimate:
        """Time and room for it. Raises NotFoundError, ConfigError."""
        info, spec = await to_thread(self._accept, asked)
        return await self._estimate(info, spec)

    async def submit(self, caller: Caller, asked: BulkSubmission, key: str | None = None) -> Job:
        """Queue it. Its images and bytes count from now on, until the job is deleted.

        Raises NotFoundError (model, class), ConfigError, QuotaError, NoRoomError, StorageError.
        """
        request = digest("bulk", **asdict(asked))
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        info, spec = await to_thread(self._accept, asked)
        size = await to_thread(_size, info, spec["n"])
        free = await to_thread(_free)
        steps = spec["controls"].get("steps", 1)
        work = spec["n"] * (steps if isinstance(steps, int) else 1)

        def count(c: Any, job: int) -> None:
            if size.value > free:
                raise NoRoomError(
                    f"Found {max(free, 0) / 1e9:.2f} GB of the disk free; expected about {size.value / 1e9:.2f} GB for "
                    f"{spec['n']:,} images. Free some space, or ask for fewer."
                )
            database = self.jobs.database
            charge(c, database, caller.owner, caller.quota, steps=work)
            hold(c, database, caller.owner, f"job:{job}", caller.quota, images=spec["n"], bytes=round(size.value))

        return await self.work.submit(caller, "bulk", spec, key, request, count)

    def _accept(self, asked: BulkSubmission) -> tuple[ModelInfo, dict[str, Any]]:
        """The job's spec, with nothing left open."""
        info = self.models.get(asked.model)
        task = info.tasks.get("generate")
        if task is None:
            have = ", ".join(info.tasks)
            raise NotFoundError(f"Found {info.ref}, which can {have}; expected a model that can generate.")
        labels, counts = self._classes(asked, info)
        n = asked.n if counts is None else sum(counts.values())
        if n is None or not 1 <= n <= MAX_IMAGES or (counts is not None and asked.n not in (None, n)):
            raise ConfigError(
                f"Found n={asked.n} and {'no counts' if counts is None else f'counts of {n:,} images'}; expected n or "
                f"counts, 1 to {MAX_IMAGES:,} images in all."
            )
        return info, {
            "model": info.ref,
            "hash": info.hash,
            "labels": None if labels is None else list(labels),
            "counts": counts,
            "n": n,
            "seed": secrets.randbelow(2**31) if asked.seed is None else asked.seed,
            "controls": check_controls(asked.controls, task.schema, task.defaults),
            "format": asked.format,
        }

    @staticmethod
    def _classes(asked: BulkSubmission, info: ModelInfo) -> tuple[tuple[str, ...] | None, dict[str, int] | None]:
        """Labels and counts in the model's spelling."""
        classes = info.spec.classes
        if (asked.labels or asked.counts) and not classes:
            raise ConfigError(f"Found labels; {info.ref} has no classes. Leave them out.")
        if asked.labels and asked.counts:
            raise ConfigError("Found labels and counts; expected one of them.")
        labels = None if asked.labels is None else tuple(classes[info.spec.label(name)] for name in asked.labels)
        if asked.counts is None:
            return labels, None
        counts: dict[str, int] = {}
        for name, count in asked.counts.items():
            label = classes[info.spec.label(name)]
            counts[label] = counts.get(label, 0) + count
        return labels, counts

    # -- estimate ----------------------------------------------------------------------------------------------------

    async def _estimate(self, info: ModelInfo, spec: dict[str, Any]) -> Estimate:
        size, free = await to_thread(_size, info, spec["n"]), await to_thread(_free)
        earlier = await to_thread(self._earlier_rate, spec)
        if earlier is not None:
            return Estimate(spec["n"], Range.about(spec["n"] / earlier, SURE), size, free, "earlier job")
        try:
            rate = (await self.engine.activate(str(info.path), info.hash)).rate
        except KartinaError:
            rate = 0.0
        steps = spec["controls"].get("steps", 1)
        steps = steps if isinstance(steps, int) else 1
        if not rate:
            return Estimate(spec["n"], None, size, free, "nothing")
        return Estimate(spec["n"], Range.about(spec["n"] * steps / rate, UNSURE), size, free, "engine")

    def _earlier_rate(self, spec: dict[str, Any]) -> float | None:
        """Images a second of the newest bulk generation of the same model with the same controls."""
        for job in self.jobs.recent("succeeded", limit=200):
            same = job.kind == "bulk" and all(job.spec.get(key) == spec[key] for key in ("hash", "controls", "format"))
            if same and job.result and job.result.get("rate"):
                return float(job.result["rate"])
        return None


def _size(info: ModelInfo, n: int) -> Range:
    """Bytes of the ZIP."""
    sizes = [_png_size(path) for path in info.class_images if path is not None]
    values = info.spec.channels * info.spec.height * info.spec.width
    each = sum(sizes) / len(sizes) if sizes else PIXEL * values + RECIPE
    return Range.about(n * (each + ENTRY), SIZES)


def _png_size(path: Path) -> int:
    """Of a picture as it would be in the ZIP: with a recipe."""
    content = path.read_bytes()
    return len(content) + (0 if b"kartina\0" in content else RECIPE)


def _free() -> int:
    return shutil.disk_usage(home()).free - SPARE
