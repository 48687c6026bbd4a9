"""kartina data: inspect, import and list data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from kartina.cli.output import Json, out, print_json, progress, table
from kartina.data import catalogue, imageset, inspect, prepare

app = typer.Typer(help="Data sets: look at them, import them, list them.", no_args_is_help=True)

Source = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder, zip, idx, npz, CSV or JSONL.", show_default=False)
]
ClassNames = Annotated[str, typer.Option(help="a,b,c: names of the classes of idx and npz.", show_default=False)]
GroupBy = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="RE2's syntax; its first group, found in an image's path, names a group; a "
                 "group keeps to one split.", show_default=False),
]  # fmt: skip
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Use the images without classes.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Decoding processes.  [default: one a core]", show_default=False)
]


@app.command("inspect")
def inspect_command(
    path: Source,
    class_names: ClassNames = "",
    group_by: GroupBy = None,
    unlabelled: Unlabelled = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Count classes, splits and sizes; find corrupt files and duplicates; give advice. Writes nothing."""
    with progress("Looking") as report_progress:
        report = inspect.inspect_path(path, class_names=_names(class_names), group_by=group_by, unlabelled=unlabelled,
                                      workers=workers, progress=report_progress)  # fmt: skip
    if as_json:
        print_json(report.as_json())
        return
    what = "pairs" if report.paired else "images"
    out.print(f"[bold]{escape(report.source)}[/] ({report.kind}): {report.images:,} {what}")
    if report.classes:
        counts = report.classes_by_split
        rows = [(escape(c), *(f"{counts[s][c]:,}" for s in counts), f"{n:,}") for c, n in report.classes.items()]
        rows.append(("all", *(f"{sum(counts[s].values()):,}" for s in counts), f"{report.images:,}"))
        table("Classes", ("class", *(f">{s}" for s in counts), ">all"), rows)
    else:
        out.print("Splits: " + ", ".join(f"{s} {n:,}" for s, n in report.splits.items()))
    sizes = [f"{s} ({n:,})" for s, n in list(report.sizes.items())[:5]]
    out.print("Sizes:  " + ", ".join(sizes) + (", ..." if len(report.sizes) > 5 else ""))
    out.print("Modes:  " + ", ".join(f"{m} ({n:,})" for m, n in report.modes.items()))
    if report.problems:
        first = {p.kind: p for p in reversed(report.problems)}
        texts = {kind: f"{p.message}: {', '.join(p.paths[:3])}".removesuffix(": ") for kind, p in first.items()}
        rows = [(kind, f"{n:,}", escape(texts[kind])) for kind, n in report.problem_counts.items()]
        table("Problems", ("problem", ">times", "for example"), rows)
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
    as_json: Json = False,
) -> None:  # fmt: skip
    """Pack images into a data set. Missing val and test splits are made: 10% of train each, by class and group."""
    with progress("Packing") as report_progress:
        prepare.import_path(path, name, size=size, fit=fit, channels=channels, class_names=_names(class_names),
                            group_by=group_by, flip=flip, unlabelled=unlabelled, skip_bad=skip_bad, replace=replace,
                            seed=seed, workers=workers, progress=report_progress)  # fmt: skip
    about = imageset.record(name)
    if as_json:
        print_json(about)
        return
    spec = about["spec"]
    out.print(f"[bold]{name}[/]: {about['images']:,} images, {spec['width']} x {spec['height']} x {spec['channels']}, "
              f"{len(spec['classes'])} classes, {'flip-safe' if spec['flip_safe'] else 'not flip-safe'}")  # fmt: skip
    made = about["made"]["splits"]
    out.print("Splits: " + ", ".join(f"{s} {b - a:,} ({made[s]})" for s, (a, b) in about["bounds"].items()))
    if about["skipped"]:
        out.print(f"Skipped {len(about['skipped']):,} files that cannot be used; data.json lists them.")
    out.print(f"Hash:   {about['hash']}")


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """The data sets there are."""
    found = catalogue.overview()
    if as_json:
        print_json(found)
        return
    rows = []
    for d in found:
        if "problem" in d:
            rows.append((d["name"], *[""] * 6, escape(d["problem"])))
            continue
        splits = [f"{d['splits'].get(s, 0):,}" for s in imageset.SPLITS]
        size = f"{d['width']}x{d['height']}x{d['channels']}"
        classes = "pairs" if d["paired"] else str(len(d["classes"]))
        rows.append((d["name"], f"{d['images']:,}", size, classes, *splits, (d["hash"] or "")[:8]))
    table("Data sets", ("name", ">images", "size", ">classes", ">train", ">val", ">test", "hash"), rows)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []
