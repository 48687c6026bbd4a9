"""One of several processes that make a study's runs: `kartina.handlers.study_worker FOLDER`.

SIGTERM saves and ends it; so does the end of standard input, at once: whoever started it is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from kartina import logs
from kartina.errors import KartinaError
from kartina.handlers.study import evaluator
from kartina.settings import load
from kartina.study import trials
from kartina.study.folder import Study
from kartina.training.loop import interruptible


def _listen() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os._exit(1)


def main() -> int:
    logs.configure(load())
    threading.Thread(target=_listen, daemon=True, name="stdin").start()
    study = Study.open(sys.argv[1])
    with interruptible() as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it, which then tells us
        try:
            trials.work(study, evaluator(study), stop=stop, beside=True)
        except KartinaError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    return 0
