"""`kartina translate`, `kartina invert`: tasks that start from images of yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kartina.cli.output import Json, err, out, print_json, progress

NOTES = 5  # of what was done to inputs, shown one by one

ModelRef = Annotated[str, typer.Argument(metavar="MODEL", help="A model (name, name@2, hash), a run, or a folder.")]
Input = Annotated[Path, typer.Argument(metavar="INPUT", help="A JPEG, PNG or WebP image, or a folder of them.")]
Class = Annotated[
    list[str] | None, typer.Option("--class", "-c", help="A class, for a model that has some; repeatable.")
]
N = Annotated[int | None, typer.Option("-n", min=1, max=1_000_000, help="Images in all.  [default: one an input]")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Image i has seed + i.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A control, such as dropout=false; repeatable.")]
FitTo = Annotated[
    Literal["crop", "pad", "stretch"], typer.Option("--fit", help="How inputs are brought to the model's size.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="OUT.png, or a folder for one PNG an image.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def translate(
    model: ModelRef,
    image: Input,
    class_: Class = None,
    n: N = None,
    seed: Seed = 0,
    set_: Set = None,
    fit: FitTo = "crop",
    output: Output = Path("translated.png"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Turn an image into its counterpart, with a model that learnt from pairs; other seeds give other versions."""
    _run("translate", model, image, class_, n, seed, set_, fit, output, device, json)


def invert(
    model: ModelRef,
    image: Input,
    class_: Class = None,
    n: N = None,
    seed: Seed = 0,
    set_: Set = None,
    fit: FitTo = "crop",
    output: Output = Path("inverted.png"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Find the model's own picture that is nearest to an image."""
    _run("invert", model, image, class_, n, seed, set_, fit, output, device, json)


def _run(
    task: str,
    model: str,
    image: Path,
    classes: list[str] | None,
    n: int | None,
    seed: int,
    set_: list[str] | None,
    fit: Literal["crop", "pad", "stretch"],
    output: Path,
    device: str,
    json: bool,
) -> None:
    from kartina.handlers.load import load_any, parse_controls
    from kartina.training.loop import pick_device

    found = load_any(model, pick_device(device))
    with progress(task, n) as report:
        made = found.run(
            task,
            classes or None,
            n,
            seed,
            images=image,
            fit=fit,
            progress=lambda done: report(done, n),
            controls=parse_controls(set_),
        )
    path = made.save(output)
    if json:
        inputs = [{"name": given.name, "note": given.note, "sha256": given.sha256} for given in made.inputs]
        labels = [made.classes[i] if made.classes else None for i in made.labels]
        return print_json({"path": str(path), "task": task, "n": len(made), "inputs": inputs, "labels": labels,
                           "seeds": list(made.seeds)})  # fmt: skip
    notes = [f"{given.name}: {given.note}" for given in made.inputs if given.note]
    for note in notes[:NOTES]:
        err.print(note, highlight=False, soft_wrap=True, markup=False)
    if len(notes) > NOTES:
        err.print(f"... and {len(notes) - NOTES} more inputs were fitted.", highlight=False)
    count = f"{len(made)} image{'s' if len(made) > 1 else ''}"
    out.print(f"Wrote {count} to {path}", highlight=False, soft_wrap=True, markup=False)
