"""`kartina publish`: a run becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kartina.cli.evaluate import bar, show_numbers
from kartina.cli.output import Json, out, print_json, table
from kartina.errors import ConfigError


def publish(
    run: Annotated[str, typer.Argument(help="A run (id, number or folder).")],
    name: Annotated[str, typer.Option(help="The model's name: a-z, 0-9, '.', '_', '-'.")],
    licence: Annotated[str | None, typer.Option(help="Under which the model may be used, such as CC0-1.0.")] = None,
    about: Annotated[str, typer.Option(help="One line for the card.")] = "",
    evaluate: Annotated[bool, typer.Option(help="Measure it on val for the card.")] = True,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Generation seeds of the numbers.")] = 3,
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Images per generation seed.")] = 2000,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A default control of the model, such as guidance=2; repeatable.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Choose the other default controls by numbers on val.")
    ] = False,
    with_training: Annotated[
        bool, typer.Option("--with-training", help="Keep what only trains (a discriminator), for train --from.")
    ] = False,
    average: Annotated[
        list[str] | None,
        typer.Option(help="Average its weights with this run's, which went on from the same start; repeatable."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the stored weights: fp16 or fp32.")] = "fp16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Make a run's model a package that can be served and shared: weights, card, numbers, samples."""
    from kartina.handlers.load import parse_controls
    from kartina.handlers.publish import publish as do
    from kartina.models import package
    from kartina.training.loop import pick_device

    if precision not in ("fp16", "fp32"):
        raise ConfigError(f"Found --precision {precision}; expected fp16 or fp32.")
    with bar() as report:
        found = do(run, name, licence, about, evaluate=evaluate, seeds=tuple(range(seeds)), samples=samples,
                   controls=parse_controls(set_ or []), sweep=sweep, with_training=with_training, average=average or (),
                   precision="fp32" if precision == "fp32" else "fp16",
                   device=pick_device(device), progress=report.update)  # fmt: skip
    manifest, card = package.read_manifest(found.path), package.read_card(found.path)
    if json:
        return print_json({"ref": str(found), "name": found.name, "version": found.version, "hash": manifest.hash,
                           "path": str(found.path), "card": card})  # fmt: skip
    if "sweep" in card:
        show_sweep(card["sweep"])
    show_numbers(f"{found}, on val", card)
    out.print(
        f"Published {found} ({manifest.hash[:12]}) in {found.path}", highlight=False, soft_wrap=True, markup=False
    )
    out.print(f"Next: kartina sample {found.name}   or   kartina serve", highlight=False)


def show_sweep(found: Mapping[str, Any]) -> None:
    """The candidates in the order tried, the chosen one marked; or why there are none."""
    if not found["candidates"]:
        out.print(f"Nothing was swept: {found['reason']}", highlight=False, markup=False)
        return
    names = list(found["chosen"])
    rows = [
        (*(c["controls"][name] for name in names), f"{c['fd']:.3f}",
         "-" if c["class_agreement"] is None else f"{c['class_agreement']:.3f}",
         f"{c['coverage']:.3f}", f"{c['ms']:.1f}", f"{c['gflop']:.3f}",
         "chosen" if c["controls"] == found["chosen"] else "" if c["admissible"] else "loses too much")
        for c in found["candidates"]
    ]  # fmt: skip
    columns = [*(f">{name}" for name in names), ">FD-domain", ">agreement", ">coverage", ">ms", ">GFLOP", ""]
    table(f"Sweep on {found['split']}: {found['n']} images each, seed {found['seeds'][0]}", columns, rows)
