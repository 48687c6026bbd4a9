"""`kartina publish`: a run becomes a model."""

from __future__ import annotations

from typing import Annotated

import typer

from kartina.cli.evaluate import bar, show_numbers
from kartina.cli.output import Json, out, print_json


def publish(
    run: Annotated[str, typer.Argument(help="A run (id, number or folder).")],
    name: Annotated[str, typer.Option(help="The model's name: a-z, 0-9, '.', '_', '-'.")],
    licence: Annotated[str | None, typer.Option(help="Under which the model may be used, such as CC0-1.0.")] = None,
    about: Annotated[str, typer.Option(help="One line for the card.")] = "",
    evaluate: Annotated[bool, typer.Option(help="Measure it on val for the card.")] = True,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Generation seeds of the numbers.")] = 3,
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Images per generation seed.")] = 2000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Make a run's model a package that can be served and shared: weights, card, numbers, samples."""
    from kartina.handlers.publish import publish as do
    from kartina.models import package
    from kartina.training.loop import pick_device

    with bar() as report:
        found = do(run, name, licence, about, evaluate=evaluate, seeds=tuple(range(seeds)), samples=samples,
                   device=pick_device(device), progress=report.update)  # fmt: skip
    manifest, card = package.read_manifest(found.path), package.read_card(found.path)
    if json:
        return print_json({"ref": str(found), "name": found.name, "version": found.version, "hash": manifest.hash,
                           "path": str(found.path), "card": card})  # fmt: skip
    show_numbers(f"{found}, on val", card)
    out.print(f"Published {found} ({manifest.hash[:12]}) in {found.path}", highlight=False, soft_wrap=True)
    out.print(f"Next: kartina sample {found.name}   or   kartina serve", highlight=False)
