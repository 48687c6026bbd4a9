"""The process that runs one attempt of a job of any kind: `kartina.handlers.child --job 12 ...`"""

from __future__ import annotations

from kartina import logs
from kartina.handlers.kinds import find
from kartina.jobs.child import run
from kartina.process import command_of
from kartina.settings import load

COMMAND = command_of("kartina.handlers.child")  # for `jobs.worker.Worker`


def main() -> int:
    logs.configure(load())
    return run(find)
