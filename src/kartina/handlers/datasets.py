"""Jobs on data sets: look at an upload, import one. Archives come from strangers, so they are read with little memory.

Nothing is unpacked: images are decoded one by one out of the archive, by processes that inherit this one's bound on
memory. An import that was killed begins anew, or finds the data set that it had already made: its folder names the job.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kartina.config import home, read
from kartina.data import imageset, prepare
from kartina.data.archive import MAX_ENTRIES
from kartina.data.inspect import Report, inspect_source
from kartina.data.sources import Source, open_source
from kartina.errors import ConflictError, DataError
from kartina.handlers.specs import ImportJob, InspectJob
from kartina.jobs.context import Context
from kartina.jobs.table import Jobs
from kartina.storage.keys import Keys
from kartina.storage.uploads import Uploads, remove_files
from kartina.storage.usage import NONE, Quota, hold, hold_folder

MARK = "job.json"  # in a data set's folder: the job that made it
UPLOADED = 200_000  # entries of an uploaded archive
CLASSES = 10_000
NAMES = 500_000  # letters of all class names
MEMORY = 2 << 30  # bytes that reading an archive may take, over what the process has at its start
LOOK = 0.4  # of an import's progress, and about that of its time
SURE = 1.5  # factor by which an import may take longer than is foretold
PROBLEMS, PATHS, LENGTH = 50, 3, 200  # of one kind, of one problem, of a text: what is told over HTTP


def inspect(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """What an upload holds: `kartina data inspect`'s report, its lists cut short; "import": what that will take."""
    given = read(InspectJob, spec, "an inspection job")
    upload = Uploads(job.database).get(job.caller, given.upload)
    begun = time.perf_counter()
    source = _open(upload.path, given.class_names, given.group_by, given.unlabelled)
    report = inspect_source(source, progress=_share(job, "looking", 0.0, 1.0))
    return {**told(report), "import": _forecast(source, report, time.perf_counter() - begun)}


def _forecast(source: Source, report: Report, looked: float) -> dict[str, Any]:
    """What an import of what was looked at for so many seconds will take here, as the API's estimates say it."""
    value, needed, free = looked / LOOK, prepare.room(source, report.size), shutil.disk_usage(home()).free
    basis = (
        f"{len(source):,} {'pairs' if source.paired else 'images'} were looked at here in {looked:.1f} s; an import "
        f"looks again and then packs them, at {report.size} x {report.size} pixels unless told otherwise."
    )
    return {
        "wall_seconds": {"value": value, "low": looked, "high": value * SURE},
        "disk": {"needed": needed, "free": free, "enough": free >= needed},
        "basis": basis,
    }


def import_data(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Make a data set. Returns {"dataset", "hash", "images", "skipped"}."""
    given = read(ImportJob, spec, "an import job")
    try:
        if not _made_by(job, given.name):
            _import(job, given)
    except ConflictError as error:
        raise DataError(str(error)) from None  # another try would find the name taken, too
    finally:
        recount(job, given.name)
    if given.upload is not None:
        _let_go(job, given.upload)
    about = imageset.record(given.name)
    return {
        "dataset": given.name,
        "hash": about["hash"],
        "images": about["images"],
        "skipped": len(about["skipped"]),
    }


def _let_go(job: Context, upload: str) -> None:
    """Remove an upload that was imported, unless another job is to read it: then the last import does."""
    uploads = Uploads(job.database)
    with job.database.write() as c:
        if uploads.busy(c, upload, but=job.id) is not None:
            return
        uploads.delete(c, upload)
    remove_files(upload)


def _import(job: Context, given: ImportJob) -> None:
    prepare.check_name(given.name, given.replace)
    if given.upload is not None:
        path, most = Uploads(job.database).get(job.caller, given.upload).path, UPLOADED
    else:
        path, most = _bulk(job, given.bulk or 0), MAX_ENTRIES
    source = _open(path, given.class_names, given.group_by, given.unlabelled, most)
    report = told(inspect_source(source, progress=_share(job, "looking", 0.0, LOOK)))
    quota = _quota(job)

    def room(size: int) -> None:
        with job.database.write() as c:
            hold(c, job.database, job.caller, thing(given.name), quota, bytes=size)

    prepare.import_source(
        source,
        given.name,
        size=given.size,
        fit=given.fit,
        channels=given.channels,
        flip=given.flip,
        skip_bad=given.skip_bad,
        replace=given.replace,
        seed=given.seed,
        by=prepare.Maker(job.caller, room),
        more={MARK: json.dumps(_mark(job)).encode(), "report.json": json.dumps(report).encode()},
        progress=_share(job, "packing", LOOK, 1.0),
    )


def _bulk(job: Context, id: int) -> Path:
    """The ZIP that a bulk generation of the same caller made."""
    made = Jobs(job.database).get(id)
    path = made.folder / (made.output or "") / "images.zip"
    if made.caller != job.caller or made.output is None or not path.is_file():
        raise DataError(f"Found no finished bulk generation {id}; it was deleted meanwhile.")
    return path


def _quota(job: Context) -> Quota:
    key = Keys(job.database).by_id(job.caller)
    return NONE if key is None else key.quota


def thing(name: str) -> str:
    """What a data set is called among the things that are held."""
    return f"dataset:{name}"


def recount(job: Context, name: str) -> None:
    """Count a data set for what it takes on the disk, whoever made it: the one that was not replaced, too."""
    with job.database.write() as c:
        hold_folder(c, job.database, thing(name), imageset.folder(name))


def _mark(job: Context) -> dict[str, Any]:
    return {"job": job.id, "created_at": job.created_at}


def _made_by(job: Context, name: str) -> bool:
    """Whether the data set of that name is this job's."""
    try:
        found: bool = json.loads((imageset.folder(name) / MARK).read_text()) == _mark(job)
    except (OSError, ValueError):
        return False
    return found


# -- reading strangers' archives ---------------------------------------------------------------------------------------


def _open(
    path: Path, class_names: Sequence[str], group_by: str | None, unlabelled: bool, most: int = UPLOADED
) -> Source:
    """The source, read within bounds on memory. Raises DataError."""
    _bound_memory()
    source = open_source(path, class_names=class_names, group_by=group_by, unlabelled=unlabelled, max_entries=most)
    if len(source.classes) > CLASSES or sum(map(len, source.classes)) > NAMES:
        raise DataError(
            f"Found {len(source.classes):,} classes in {source.title}; expected at most {CLASSES:,}, whose names have "
            f"at most {NAMES:,} letters together. Put the images of a class into one folder."
        )
    return source


def _bound_memory() -> None:
    """From now on this process, and those that it starts, have so much memory of their own, and no more."""
    if sys.platform != "linux":
        return
    lines = Path("/proc/self/status").read_text().splitlines()
    have = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = have + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _share(job: Context, what: str, start: float, stop: float) -> Callable[[int, int], None]:
    """Progress of a part of the work; it is also where a cancel gets through."""

    def progress(done: int, total: int) -> None:
        job.check()
        value = start + (stop - start) * done / max(total, 1)
        job.progress(value, f"{what}: {done:,} of {total:,} images", step=done, steps=total)

    return progress


def told(report: Report) -> dict[str, Any]:
    """A report as JSON, its lists and texts cut to what a program can be sent."""
    found = report.as_json()
    seen: dict[str, int] = {}
    problems = []
    for problem in found["problems"]:
        seen[problem["kind"]] = seen.get(problem["kind"], 0) + 1
        if seen[problem["kind"]] <= PROBLEMS:
            paths = [path[:LENGTH] for path in problem["paths"][:PATHS]]
            problems.append({**problem, "paths": paths, "message": problem["message"][:500]})
    ignored = sorted(found["ignored"].items(), key=lambda item: -item[1])[:PROBLEMS]
    return {**found, "problems": problems, "ignored": {name[:LENGTH]: n for name, n in ignored}}
