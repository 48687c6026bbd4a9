"""The process that runs one attempt of a job of any kind: python -m kartina.handlers.child --job 12 ..."""

from __future__ import annotations

import sys

from kartina import logs
from kartina.handlers.kinds import find
from kartina.jobs.child import run
from kartina.settings import load

COMMAND = (sys.executable, "-m", "kartina.handlers.child")  # for `jobs.worker.Worker`

if __name__ == "__main__":
    logs.configure(load())
    sys.exit(run(find))
