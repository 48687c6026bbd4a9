"""The process that runs one attempt of a job, as its worker starts it.

    COMMAND --job 12 --owner NAME --attempt 3          standard input: a line to stop; its end: the worker is gone

It ends with 0 when what became of the attempt is in the table, with another code when it is not: the worker, or the
lease, sees to the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kartina.errors import ConflictError, KartinaError, NotFoundError, QuotaError, StorageError, UnavailableError
from kartina.files import sync
from kartina.jobs.context import Context, Interrupted, Lost
from kartina.jobs.table import Jobs, Lease

Handler = Callable[[Context, dict[str, Any]], dict[str, Any]]
Find = Callable[[str], Handler]  # the handler of a kind; raises NotFoundError

AGAIN = (ConflictError, StorageError, UnavailableError)  # errors that may be over by the next try
LOST = 3  # exit code: another worker has the job


def run(find: Find | Mapping[str, Handler], words: Sequence[str] | None = None) -> int:
    """Run the attempt that the command line names, with the handler of its kind; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run one attempt of a job")
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--owner", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    given = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which then tells us

    jobs = Jobs.open()
    job, lease = jobs.get(given.job), Lease(given.job, given.owner, given.attempt)
    context = Context(jobs, job, lease)
    threading.Thread(target=_listen, args=(context,), daemon=True, name="stdin").start()
    context.start_afresh()
    try:
        handler = _known(find, job.kind) if isinstance(find, Mapping) else find(job.kind)
        result = handler(context, job.spec)
        json.dumps(result, allow_nan=False)
        output = context.output
        if output is not None:
            _sync_all(context.folder)
        kept = jobs.succeed(lease, result, output) or jobs.release(lease)  # refused: it was being canceled
    except Interrupted:
        kept = jobs.release(lease)
    except Lost:
        kept = False
    except KartinaError as error:
        again = isinstance(error, AGAIN) and not isinstance(error, QuotaError)
        kept = jobs.fail(lease, error.code, str(error), again=again)
    except Exception as error:  # a handler may raise anything: the job fails, and its log has the whole story
        jobs.log(lease, traceback.format_exc(), "error")
        kept = jobs.fail(lease, "error", f"{type(error).__name__}: {error}"[:2000])
    return 0 if kept else LOST


def _known(handlers: Mapping[str, Handler], kind: str) -> Handler:
    if kind not in handlers:
        raise NotFoundError.named("kind of job", kind, handlers)
    return handlers[kind]


def _listen(context: Context) -> None:
    """A line asks for an end; when the worker is gone, another has the job soon, so nothing more is to be done here."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        context.interrupt()
    os._exit(1)


def _sync_all(folder: Path) -> None:
    """Bring every file of a folder, and the folder's own entry, to the disk."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)
