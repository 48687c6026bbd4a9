"""Kartina: labelled images in, the best conditional generator for them out.

    import kartina

    kartina.inspect("photos.zip")                            # what is in there, what is wrong with it
    kartina.import_data("photos.zip", name="photos", size=32)
    run = kartina.train("flow-32-cpu", "photos", budget="10m")
    kartina.evaluate(run.id, "photos")                       # numbers with floors and intervals
    model = kartina.load(run.id)                             # a run, or a published model: "name", "name@2"
    model.sample(["cat", "dog"], n=8, seed=7).save("grid.png")

Everything is imported when it is first used, so that `import kartina` stays quick and torch-free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {}
