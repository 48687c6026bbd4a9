"""Kartina: labelled images in, the best conditional generator for them out.

    import kartina

    kartina.inspect("photos.zip")                          # what is in there, and what is wrong with it
    kartina.import_data("photos.zip", "photos", size=32)   # pack it
    run = kartina.train("flow-32-cpu", "photos", budget="10m")
    kartina.evaluate(run.id)                               # numbers with floors and intervals
    kartina.publish(run.id, "photos")                      # a package: name@version

    model = kartina.load("photos")                         # a package, or a run
    model.sample(["cat", "dog"], n=8, seed=7, guidance=2).save("grid.png")

That is the whole of it. Each name is imported when it is first used: `import kartina` is quick and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kartina.data.inspect import inspect_path as inspect
    from kartina.data.prepare import import_path as import_data
    from kartina.handlers.evaluate import evaluate_ref as evaluate
    from kartina.handlers.load import load_any as load
    from kartina.handlers.publish import publish
    from kartina.handlers.train import resume, train

__version__ = "0.1.0"

__all__ = ["__version__", "evaluate", "import_data", "inspect", "load", "publish", "resume", "train"]

_WHERE = {
    "inspect": ("kartina.data.inspect", "inspect_path"),
    "import_data": ("kartina.data.prepare", "import_path"),
    "train": ("kartina.handlers.train", "train"),
    "resume": ("kartina.handlers.train", "resume"),
    "evaluate": ("kartina.handlers.evaluate", "evaluate_ref"),
    "publish": ("kartina.handlers.publish", "publish"),
    "load": ("kartina.handlers.load", "load_any"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kartina' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
