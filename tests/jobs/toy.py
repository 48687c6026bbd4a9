"""A worker and its children for tests of the executor: real processes that run a toy kind of job, and die on cue.

    python toy.py work [--lease S] [--poll S] [--until-idle]     a worker whose children are `toy.py child ...`

KARTINA_DEATHS names a folder: then a process kills itself with SIGKILL at a random one of its commits, before or after
it, and leaves a file there that says where; no more than KARTINA_DEATHS_LEFT of them do.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kartina.errors import DataError, StorageError
from kartina.jobs.child import run
from kartina.jobs.context import Context
from kartina.jobs.table import Jobs
from kartina.jobs.worker import Worker


def toy(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Count to n, saving every number, and write down what was counted. It may be told to misbehave."""
    counted: list[int] = job.saved.get("counted", [])
    trouble = spec.get("trouble")
    if trouble == "input":
        raise DataError("Found no number; expected one. Give one.")
    if trouble == "bug":
        raise RuntimeError("a toy that breaks")
    if trouble == "once" and job.attempt == 1:
        raise StorageError("Could not count: the disk is full.")
    if trouble == "die" or (trouble == "die once" and job.attempt == 1):
        os._exit(9)
    if trouble == "nan":
        return {"n": float("nan")}
    while len(counted) < spec["n"]:
        if trouble != "deaf":
            job.check()
        time.sleep(spec.get("pause", 0.02))
        counted = [*counted, len(counted)]
        (job.folder / "part").write_text(str(counted))
        job.save({"counted": counted})
        job.log(f"counted {counted[-1]}")
        job.progress(len(counted) / spec["n"], f"{len(counted)} of {spec['n']}", step=len(counted), steps=spec["n"])
    (job.folder / "part").unlink(missing_ok=True)
    (job.folder / "out.txt").write_text(f"job {job.id} attempt {job.attempt}: {counted}")
    return {"counted": counted}


def mortal(role: str) -> None:
    """Die at a random commit of this process's, before it or after it, unless enough have died."""
    folder = os.environ.get("KARTINA_DEATHS")
    if folder is None:
        return
    rng = random.SystemRandom()
    last, when = rng.randint(1, 20 if role == "child" else 80), rng.choice(("before", "after"))
    commits = 0

    def die(moment: str) -> None:
        if commits != last or moment != when:
            return
        if len(list(Path(folder).iterdir())) < int(os.environ["KARTINA_DEATHS_LEFT"]):
            (Path(folder) / f"{role}-{os.getpid()}-{when}-{last}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(sa.Engine, "commit")
    def before(connection: sa.Connection) -> None:
        nonlocal commits
        commits += 1
        die("before")

    @sa.event.listens_for(sa.pool.Pool, "checkin")
    def after(connection: object, record: object) -> None:
        die("after")


def main() -> int:
    role, words = sys.argv[1], sys.argv[2:]
    mortal(role)
    if role == "child":
        return run({"toy": toy}, words)
    parser = argparse.ArgumentParser()
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--poll", type=float, default=0.05)
    parser.add_argument("--greet", action="store_true")
    parser.add_argument("--until-idle", action="store_true")
    given = parser.parse_args(words)
    worker = Worker(
        Jobs.open(), [sys.executable, __file__, "child"], lease=given.lease, poll=given.poll, grace=given.grace
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    if given.greet:
        print("started", flush=True)
    worker.run(given.until_idle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
