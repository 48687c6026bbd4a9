"""Every kind of job: its name, and where its handler is. A handler is loaded when a job of its kind runs.

A handler is a function (job: Context, spec: dict) -> result: dict, see `jobs.context`. It may be killed at any point
and is then called again with what it saved, in another process; what it makes goes to `job.folder`, or is found again.
"""

from __future__ import annotations

from importlib import import_module

from kartina.errors import NotFoundError
from kartina.jobs.child import Handler
from kartina.process import loading

KINDS = {
    "train": "kartina.handlers.jobs:train",
    "evaluate": "kartina.handlers.jobs:evaluate",
    "publish": "kartina.handlers.jobs:publish",
    "study": "kartina.handlers.jobs:study",
    "bulk": "kartina.handlers.bulk:bulk",
    "inspect": "kartina.handlers.datasets:inspect",
    "import": "kartina.handlers.datasets:import_data",
    "publish-study": "kartina.handlers.jobs:publish_study",
}
DATA = ("inspect", "import")  # kinds that need no device: a service runs them beside the others


def find(kind: str) -> Handler:
    """The handler of a kind of job. Raises NotFoundError."""
    if kind not in KINDS:
        raise NotFoundError.named("kind of job", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    with loading():
        handler: Handler = getattr(import_module(module), name)
    return handler
