"""`kartina features`: what a run's discriminator knows about classes, at few labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from kartina.cli.evaluate import bar
from kartina.cli.output import Json, out, print_json, table


def features(
    run: Annotated[
        str, typer.Argument(help="A run (id, number or folder) whose discriminator is made of convolutions.")
    ],
    data: Annotated[str | None, typer.Option(help="A data set. Default: the one the run learns from.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="How many labels, such as 25,100,all. Default: 25,50,100,1000,all as far as there are."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Subsets of labelled images at each number.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Classify with few labels: a linear SVM on the discriminator's features, beside raw pixels and a small CNN."""
    from kartina.handlers.features import METHODS, curves
    from kartina.training.loop import pick_device

    with bar() as report:
        found = curves(run, data, None if labels is None else counts(labels), seeds, pick_device(device), report.update)
    if json:
        return print_json(found)
    rows = [[f"{row['labels']:,}", *(_cell(row[method]) for method in METHODS)] for row in found["rows"]]
    title = f"{found['run']} on {found['data']}: accuracy on {found['test']:,} test images"
    table(title, [">labels", *(f">{method}" for method in METHODS)], rows)
    spread = f"+-: standard deviation over {seeds} subsets of labelled images. " if seeds > 1 else ""
    seen = "The discriminator was trained with labels itself." if found["labels_seen"] else ""
    out.print(
        f"{spread}{found['dimensions']:,} features of {found['layers']} layers. {seen}".strip(),
        highlight=False, soft_wrap=True, style="dim", markup=False,
    )  # fmt: skip


def counts(text: str) -> list[int | Literal["all"]]:
    """'25,100,all' -> [25, 100, 'all']; ConfigError for anything else."""
    from kartina.errors import ConfigError

    found: list[int | Literal["all"]] = []
    for word in (part.strip() for part in text.split(",")):
        if word == "all":
            found.append("all")
        elif word.isdecimal() and int(word) > 0:
            found.append(int(word))
        else:
            raise ConfigError(f"Found --labels {text}; expected numbers and all, such as 25,100,all.")
    return found


def _cell(found: dict[str, Any]) -> str:
    spread = "" if found["spread"] is None else f" +- {found['spread']:.3f}"
    return f"{found['accuracy']:.3f}{spread}"
