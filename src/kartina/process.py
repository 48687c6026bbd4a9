"""Python processes that others start: `python -m kartina.process MODULE ...` imports a module and calls its `main`.

    subprocess.Popen(command_of("kartina.serving.worker", "--socket", path))

Imports make some 300,000 objects that stay. To look through them for garbage takes a quarter of the time of a start;
and each full collection later, which is when a process stands still, would look through all of them again.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def command_of(module: str, *words: str) -> tuple[str, ...]:
    """The command line of a process that calls the `main()` of a module with these words."""
    return (sys.executable, "-m", "kartina.process", module, *words)


@contextmanager
def loading() -> Iterator[None]:
    """Without garbage collection, while a process loads what it needs; what there is afterwards is never looked at."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    with loading():
        _main = import_module(sys.argv.pop(1)).main
    sys.exit(_main())
