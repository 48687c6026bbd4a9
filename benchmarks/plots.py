"""What the benchmarks' plots have in common: dark text on white, numbers written out."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


def figure(panels: int = 1, width: float = 7.0) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, with one y axis."""
    made = Figure(figsize=(width * panels, 4.6), dpi=150, layout="constrained", facecolor="white")
    return made, list(made.subplots(1, panels, sharey=True, squeeze=False)[0])


def logarithmic(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of every decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def finish(axes: Axes) -> None:
    axes.grid(True, which="both", color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=9)
