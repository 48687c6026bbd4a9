"""What every verb shares: JSON or a table on stdout, progress on stderr, an error as one sentence and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kartina.errors import KartinaError

out = Console()  # results
err = Console(stderr=True)  # progress and errors

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; a column whose name starts with '>' is right-aligned. The first stays whole."""
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for k, column in enumerate(columns):
        side: Literal["right", "left"] = "right" if column.startswith(">") else "left"
        grid.add_column(column.lstrip(">"), justify=side, overflow="fold", no_wrap=k == 0)
    for row in rows:
        grid.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(grid)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr, drawn only in a terminal; yields report(done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(label, total=total)

        def report(done: int, of: int | None = None) -> None:
            bar.update(task, completed=done, total=of if of is not None else total)

        yield report


def fail(error: KartinaError) -> None:
    """Print an error for a person: the sentence, then its details."""
    err.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    details = [line for line in error.details if line not in str(error)]
    for line in details[:50]:
        err.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if len(details) > 50:
        err.print(f"  ... and {len(details) - 50} more", highlight=False)


def from_here(given: str | None, kind: Literal["file", "name"] = "name") -> str | None:
    """A path as another process finds it, whose folder is another one; a name or an address as it is. Where names are
    expected, a path is what has a slash."""
    if given is None:
        return None
    path = Path(given).expanduser()
    is_path = path.exists() if kind == "file" else path.exists() and path.name != given
    return str(path.absolute()) if is_path else given
