"""Families by name. A family registers itself with a decorator; third parties through an entry point.

    @register("vae")
    class VAE(Family): ...

    registry.family("vae")   registry.names()   registry.preset("vae-32-cpu")

The built-in families are imported explicitly (`kartina.generators`); a package of yours is found when it declares the
entry point group `kartina.families`, whose value names a module that registers on import.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from kartina.config import Preset
from kartina.errors import ConflictError, KartinaError, NotFoundError

F = TypeVar("F", bound=type[Any])

_families: dict[str, type[Any]] = {}
_loaded = False
_loading = threading.RLock()


def register(name: str) -> Callable[[F], F]:
    """Class decorator: make the family known as `name` (and its presets by theirs).

    Raises ConflictError when another class holds the name or one of the presets' names.
    """

    def add(cls: F) -> F:
        if name in _families:
            other = _families[name].__module__
            raise ConflictError(f"Found two families called {name!r}: in {other} and in {cls.__module__}.")
        cls.name = name
        taken = {p: other for other, family in _families.items() for p in family.presets}
        for preset in cls.presets:
            if preset in taken:
                raise ConflictError(f"Found the preset {preset!r} in two families: {taken[preset]} and {name}.")
        _families[name] = cls
        return cls

    return add


def unregister(name: str) -> None:
    """Forget a family (for tests and notebooks that define one twice)."""
    _families.pop(name, None)


def _load() -> None:
    global _loaded
    with _loading:  # a second thread waits until all are there
        if _loaded:
            return
        _loaded = True
        import_module("kartina.generators")
        for point in entry_points(group="kartina.families"):
            try:
                point.load()
            except (ImportError, AttributeError, SyntaxError, KartinaError) as error:
                warnings.warn(f"Left out the family {point.name!r} of {point.value}: {error}", stacklevel=3)


def names() -> list[str]:
    """The registered family names, sorted."""
    _load()
    return sorted(_families)


def family(name: str) -> type[Any]:
    """The family class called `name`; NotFoundError lists those there are."""
    _load()
    if name not in _families:
        raise NotFoundError.named("family", name, sorted(_families))
    return _families[name]


def presets() -> dict[str, tuple[str, Preset]]:
    """Every preset: name -> (family name, Preset), sorted by name."""
    _load()
    return dict(sorted((p, (f, preset)) for f, cls in _families.items() for p, preset in cls.presets.items()))


def preset(name: str) -> tuple[str, Preset]:
    """(family name, Preset) of the preset `name`; NotFoundError lists those there are."""
    known = presets()
    if name not in known:
        raise NotFoundError.named("preset", name, known, "See `kartina presets`.")
    return known[name]
