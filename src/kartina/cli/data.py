"""kartina data: inspect, import and list data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kartina.data import catalogue, imageset, inspect, prepare

app = typer.Typer(help="Data sets: look at them, import them, list them.", no_args_is_help=True)

Source = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder, zip, idx, npz, CSV or JSONL.", show_default=False)
]
ClassNames = Annotated[str, typer.Option(help="a,b,c: names of the classes of idx and npz.", show_default=False)]
GroupBy = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="Its first group, found in an image's path, names a group; a group keeps to one "
                 "split.", show_default=False),
]  # fmt: skip
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Use the images without classes.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Decoding processes.  [default: one a core]", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


@app.command("inspect")
def inspect_command(
    path: Source,
    class_names: ClassNames = "",
    group_by: GroupBy = None,
    unlabelled: Unlabelled = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Count classes, splits and sizes; find corrupt files and duplicates; give advice. Writes nothing."""
    with _progress("Looking") as progress:
        report = inspect.inspect_path(path, class_names=_names(class_names), group_by=group_by, unlabelled=unlabelled,
                                      workers=workers, progress=progress)  # fmt: skip
    if as_json:
        _print_json(report.as_json())
        return
    out = Console()
    what = "pairs" if report.paired else "images"
    out.print(f"[bold]{escape(report.source)}[/] ({report.kind}): {report.images:,} {what}")
    if report.classes:
        out.print(_class_table(report.classes, report.classes_by_split))
    else:
        out.print("Splits: " + ", ".join(f"{s} {n:,}" for s, n in report.splits.items()))
    sizes = [f"{s} ({n:,})" for s, n in list(report.sizes.items())[:5]]
    out.print("Sizes:  " + ", ".join(sizes) + (", ..." if len(report.sizes) > 5 else ""))
    out.print("Modes:  " + ", ".join(f"{m} ({n:,})" for m, n in report.modes.items()))
    if report.problems:
        table = Table("problem", "times", "for example", title="Problems", title_justify="left")
        for kind, n in report.problem_counts.items():
            first = next(p for p in report.problems if p.kind == kind)
            table.add_row(kind, f"{n:,}", escape(f"{first.message}: {', '.join(first.paths[:3])}".removesuffix(": ")))
        out.print(table)
    for sentence in report.advice:
        out.print(f"• {escape(sentence)}")


@app.command("import")
def import_command(
    path: Source,
    name: Annotated[str, typer.Option(help="What to call the data set.", show_default=False)],
    size: Annotated[int | None, typer.Option(help="Pixels a side.  [default: the images' own when all are equal and "
                                                  "square, else 64]", show_default=False)] = None,
    fit: Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="crop: scale and cut the middle; pad: never "
                                                                        "enlarge, fill the rest; stretch")] = "crop",
    channels: Annotated[Literal["auto", "1", "3"], typer.Option(help="auto: 1 when all images are grey")] = "auto",
    class_names: ClassNames = "",
    group_by: GroupBy = None,
    flip: Annotated[Literal["auto", "on", "off"], typer.Option(help="Whether a mirrored image keeps its class; auto: "
                                                                    "no for digits, letters, left, right")] = "auto",
    unlabelled: Unlabelled = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out and record unusable files.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a data set of that name.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits that are made.")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Pack images into a data set. Missing val and test splits are made: 10% of train each, by class and group."""
    with _progress("Packing") as progress:
        prepare.import_path(path, name, size=size, fit=fit, channels=channels, class_names=_names(class_names),
                            group_by=group_by, flip=flip, unlabelled=unlabelled, skip_bad=skip_bad, replace=replace,
                            seed=seed, workers=workers, progress=progress)  # fmt: skip
    about = imageset.record(name)
    if as_json:
        _print_json(about)
        return
    out = Console()
    spec = about["spec"]
    out.print(f"[bold]{name}[/]: {about['images']:,} images, {spec['width']} x {spec['height']} x {spec['channels']}, "
              f"{len(spec['classes'])} classes, {'flip-safe' if spec['flip_safe'] else 'not flip-safe'}")  # fmt: skip
    out.print(
        "Splits: " + ", ".join(f"{s} {b - a:,} ({about['made']['splits'][s]})" for s, (a, b) in about["bounds"].items())
    )
    if about["skipped"]:
        out.print(f"Skipped {len(about['skipped']):,} files that cannot be used; data.json lists them.")
    out.print(f"Hash:   {about['hash']}")


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """The data sets there are."""
    found = catalogue.overview()
    if as_json:
        _print_json(found)
        return
    table = Table(*("name", "images", "size", "classes", "train", "val", "test", "hash"))
    for column in table.columns:
        column.no_wrap = True
    for d in found:
        if "problem" in d:
            table.add_row(d["name"], escape(d["problem"]))
            continue
        splits = [f"{d['splits'].get(s, 0):,}" for s in imageset.SPLITS]
        size = f"{d['width']}x{d['height']}x{d['channels']}"
        classes = "pairs" if d["paired"] else str(len(d["classes"]))
        table.add_row(d["name"], f"{d['images']:,}", size, classes, *splits, (d["hash"] or "")[:8])
    Console().print(table)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _class_table(classes: dict[str, int], by_split: dict[str, dict[str, int]]) -> Table:
    table = Table("class", *by_split, "all")
    for name, n in classes.items():
        table.add_row(escape(name), *(f"{counts[name]:,}" for counts in by_split.values()), f"{n:,}")
    totals = [f"{sum(counts.values()):,}" for counts in by_split.values()]
    table.add_section()
    table.add_row("", *totals, f"{sum(classes.values()):,}")
    return table


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, gone when it is done; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
