"""Use cases on data sets: import an upload, look at it first; list, show, browse and delete what there is.

A data set is a folder of KARTINA_HOME (`kartina.data.imageset`), and its owner's alone; the embedded `digits` is
everybody's. Archives are read by jobs, in processes of their own: this one only looks into packed images.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kartina import owners
from kartina.config import home
from kartina.data import catalogue, digits, imageset, prepare
from kartina.data.imageset import ImageSet
from kartina.data.paths import SPLITS, Split
from kartina.errors import ConfigError, ConflictError, IntegrityError, KartinaError, NotFoundError, StorageError
from kartina.jobs.table import Job, Jobs
from kartina.models.png import to_pil
from kartina.services.access import Caller
from kartina.storage.uploads import Uploads
from kartina.storage.usage import hold_folder, let_go, things
from kartina.training.folder import RunFolder

TIME = 120.0  # seconds that making the embedded set may take


@dataclass(frozen=True)
class Options:
    """How an archive is read: those of `kartina data import`."""

    class_names: tuple[str, ...] = ()
    group_by: str | None = None
    unlabelled: bool = False


@dataclass(frozen=True)
class ImportOptions(Options):
    size: int | None = None
    fit: str = "crop"
    channels: str = "auto"
    flip: str = "auto"
    skip_bad: bool = False
    replace: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """A data set as its record tells of it."""

    name: str
    record: Mapping[str, Any]
    report: Mapping[str, Any] | None  # of the look before its import
    own: bool  # the caller's; else everybody's


@dataclass(frozen=True)
class Member:
    """An image of a data set."""

    index: int
    split: Split
    label: str | None


@dataclass(frozen=True)
class Datasets:
    """The data sets in KARTINA_HOME. Methods block; call them from a thread."""

    uploads: Uploads
    jobs: Jobs

    # -- make --------------------------------------------------------------------------------------------------------

    def look(self, caller: Caller, upload: str, options: Options, key: str | None = None) -> Job:
        """Queue a look at an upload: the job's result is the report. Raises NotFoundError, ConflictError (it is not
        whole), QuotaError, KeyReusedError, StorageError."""
        return self._submit(caller, "inspect", {"upload": upload, **asdict(options)}, key)

    def add(
        self,
        caller: Caller,
        name: str,
        options: ImportOptions,
        *,
        upload: str | None = None,
        bulk: str | None = None,
        key: str | None = None,
    ) -> Job:
        """Queue the import of an upload, or of what a bulk generation made. An upload goes with its import.

        Raises DataError and ConflictError for the name, and as `look`.
        """
        if (upload is None) == (bulk is None):
            raise ConfigError("Found both or none of upload and bulk; expected one of them.")
        if bulk is not None and not (bulk.isascii() and bulk.isdigit() and len(bulk) < 10):
            raise NotFoundError(f"Found no bulk generation {bulk!r}.")
        source = {"upload": upload} if bulk is None else {"bulk": int(bulk)}
        return self._submit(caller, "import", {"name": name, **asdict(options), **source}, key)

    def _submit(self, caller: Caller, kind: str, spec: dict[str, Any], key: str | None) -> Job:
        """Queue a job, unless there is one of that key; checked in the same transaction."""

        def check(c: Any, job: int) -> None:
            if "name" in spec:
                self._free(caller, spec["name"], spec["replace"])
            if "bulk" in spec:
                self._bulk(caller, spec["bulk"])
                return
            found = self.uploads.read(c, caller.owner, spec["upload"])
            if not found.complete:
                raise ConflictError(
                    f"Found {found.received:,} of the {found.bytes:,} bytes of the upload {found.id}; expected all of "
                    "them. Send the rest first."
                )
            self.uploads.use(c, found.id, job)

        mine = None if key is None else f"{caller.owner}:{key}"
        return self.jobs.submit(kind, spec, caller=caller.owner, most=caller.quota.jobs, key=mine, also=check)

    def _free(self, caller: Caller, name: str, replace: bool) -> None:
        """Raises DataError for a name that cannot be used, ConflictError for one that is taken."""
        prepare.check_name(name, replace=True)
        there = imageset.folder(name)
        if there.exists() and not (replace and owners.sees(there, caller.owner)):
            how = ", or pass replace" if owners.sees(there, caller.owner) else ""
            raise ConflictError(f"Found a data set called {name!r} already; choose another name{how}.")

    def _bulk(self, caller: Caller, id: int) -> None:
        missing = NotFoundError(f"Found no bulk generation '{id}'.")
        try:
            job = self.jobs.get(id)
        except NotFoundError:
            raise missing from None
        if job.caller != caller.owner or job.kind != "bulk":
            raise missing
        if job.status != "succeeded":
            raise ConflictError(f"Found the bulk generation {id} {job.status}; expected one that has succeeded.")

    # -- look --------------------------------------------------------------------------------------------------------

    def get(self, owner: str, name: str) -> Found:
        """Raises NotFoundError, also for somebody else's, and IntegrityError."""
        self._check(owner, name)
        return self._found(owner, name)

    def page(
        self, owner: str, name: str, split: Split | None, label: str | None, limit: int, after: int | None
    ) -> tuple[list[Member], int | None]:
        """Images by their place, after the place `after`; of one split and class where they are given.

        Raises NotFoundError (data set, class).
        """
        data = self.open(owner, name)
        classes = data.spec.classes
        wanted = None if label is None else data.spec.label(label)
        found: list[Member] = []
        for part in SPLITS:
            start, stop = data.bounds.get(part, (0, 0))
            start = start if after is None else max(start, after + 1)
            if part != (split or part) or start >= stop:
                continue
            if data.labels is None or wanted is None:
                index = range(start, min(stop, start + limit + 1 - len(found)))
            else:
                here = np.flatnonzero(data.labels[start:stop] == wanted)[: limit + 1 - len(found)]
                index = (here + start).tolist()
            for i in index:
                found.append(Member(i, part, None if data.labels is None else classes[int(data.labels[i])]))
        return found[:limit], found[limit - 1].index if len(found) > limit else None

    def image(self, owner: str, name: str, index: int, source: bool = False) -> bytes:
        """An image, or of pairs what it is made from, as PNG. It is what was imported: no marker, no recipe."""
        data = self.open(owner, name)
        pixels = data.sources if source else data.images
        if pixels is None:
            raise NotFoundError(f"Found no sources in {name!r}; only pairs have them.")
        if not 0 <= index < len(pixels):
            raise NotFoundError(f"Found no image {index} in {name!r}; it has {len(pixels):,}.")
        return _png(pixels[index])

    def class_image(self, owner: str, name: str, label: int) -> bytes:
        """The first training image of a class. Raises NotFoundError."""
        data = self.open(owner, name)
        if data.labels is None or not 0 <= label < len(data.spec.classes):
            raise NotFoundError(f"Found no class {label} in {name!r}, which has {len(data.spec.classes)} classes.")
        start, stop = data.bounds["train"]
        found = np.flatnonzero(data.labels[start:stop] == label)[:1]
        if not len(found):
            raise NotFoundError(f"Found no training image of class {label} in {name!r}.")
        return _png(data.images[start + int(found[0])])

    def open(self, owner: str, name: str) -> ImageSet:
        """The images, memory-mapped. Raises NotFoundError, IntegrityError."""
        self._check(owner, name)
        return imageset.open_set(name)

    def _sees(self, owner: str, name: str) -> bool:
        return name == digits.NAME or owners.sees(imageset.folder(name), owner)

    def _check(self, owner: str, name: str) -> None:
        there = imageset.NAME.fullmatch(name) and (imageset.folder(name) / "data.json").is_file()
        if name == digits.NAME and not there:
            _make_digits()
        elif not there or not self._sees(owner, name):
            raise NotFoundError(f"Found no data set {name!r}.")

    def _found(self, owner: str, name: str) -> Found:
        own = name != digits.NAME and owners.sees(imageset.folder(name), owner)
        return Found(name, record(name), _report(imageset.folder(name) / "report.json"), own)

    def list(self, owner: str, limit: int, cursor: str | None) -> tuple[list[Found], str | None]:
        """A page of the data sets that the owner sees, by name, and the cursor of the next one. What cannot be read is
        left out; ask for it by name."""
        names = [name for name in imageset.names() if (cursor is None or name > cursor) and self._sees(owner, name)]
        found: list[Found] = []
        for name in names:
            if len(found) == limit:
                return found, found[-1].name
            try:
                found.append(self._found(owner, name))
            except (IntegrityError, NotFoundError):
                continue
        return found, None

    def recount(self) -> None:
        """Count data sets for what they are: those removed by hand for nothing, and what a job that was killed would
        have made or replaced."""
        with self.uploads.database.write() as c:
            coming = {job.spec.get("name") for job in self.jobs.unfinished_of("import")}
            for thing in things(c, "dataset:"):
                name = thing.partition(":")[2]
                if name not in coming:
                    hold_folder(c, self.uploads.database, thing, imageset.folder(name))

    # -- delete ------------------------------------------------------------------------------------------------------

    def delete(self, owner: str, name: str) -> None:
        """Raises NotFoundError, ConflictError (embedded, or in use by an unfinished job), StorageError."""
        self._check(owner, name)
        for job in self.jobs.active(owner):
            if name in _used_by(job):
                raise ConflictError(f"Found {name!r} in use by job {job.id}; wait for it, or cancel it.")
        prepare.remove(name)
        with self.uploads.database.write() as c:
            let_go(c, self.uploads.database, f"dataset:{name}")


def _used_by(job: Job) -> set[str]:
    """The names of the data sets that a job reads or makes: those it was given, and its run's or its study's."""
    spec = job.spec
    found = {spec.get("data"), spec["name"] if job.kind == "import" else None}
    for run in (job.saved.get("run"), spec.get("run"), spec.get("model")):
        with suppress(KartinaError):  # a model is no run
            found.add(None if run is None else RunFolder.open(run).config.data)
    if study := spec.get("study"):
        with suppress(OSError, ValueError, KeyError):
            found |= set(json.loads((home() / "studies" / study / "plan.json").read_text())["data"])
    return {name for name in found if name is not None}


def record(name: str) -> dict[str, Any]:
    """A set's data.json, with what older ones may lack. Raises NotFoundError, IntegrityError."""
    if name == digits.NAME and not (imageset.folder(name) / "data.json").is_file():
        return _unmade_digits()
    found = {"hash": None, "counts": {}, "made": {}, "skipped": [], "created_at": None, **imageset.record(name)}
    missing = [key for key in ("images", "spec", "bounds") if key not in found]
    if missing:
        raise IntegrityError(
            f"Found {name}/data.json without {', '.join(missing)}; import the data again, with replace."
        )
    return found


def _png(pixels: Any) -> bytes:
    out = io.BytesIO()
    to_pil(np.asarray(pixels)).save(out, "PNG")
    return out.getvalue()


def _report(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _unmade_digits() -> dict[str, Any]:
    """The record of the embedded set, as far as it is known before it was ever used."""
    about = next(one for one in catalogue.overview() if one["name"] == digits.NAME)
    bounds, at = {}, 0
    for split, n in about["splits"].items():
        bounds[split] = [at, at + n]
        at += n
    spec = {k: about[k] for k in ("height", "width", "channels", "classes", "paired", "flip_safe")}
    return {"name": digits.NAME, "hash": None, "images": about["images"], "spec": spec, "bounds": bounds, "counts": {},
            "made": {"from": "embedded", "file": "scikit-learn"}, "skipped": [], "created_at": None}  # fmt: skip


def _make_digits() -> None:
    """Make the embedded set by a process of its own: it loads scikit-learn, which this one shall not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    code = "from kartina.data.digits import import_digits; import_digits()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=TIME, check=False
        )
    except subprocess.TimeoutExpired:
        raise StorageError("Could not make the embedded data set in time; try again.") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason was told"]
        raise StorageError(f"Could not make the embedded data set: {reason[0][:500]}")
