"""`kartina translate | upscale | colorize | transform | inpaint | invert | morph` start from images of yours,
`interpolate` between two seeds or classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from kartina.cli.output import Json, err, out, print_json, progress

NOTES = 5  # of what was done to inputs, shown one by one

ModelRef = Annotated[str, typer.Argument(metavar="MODEL", help="A model (name, name@2, hash), a run, or a folder.")]
Input = Annotated[list[Path], typer.Argument(metavar="INPUT...", help="JPEG, PNG or WebP images, or folders of them.")]
Class = Annotated[
    list[str] | None, typer.Option("--class", "-c", help="A class, for a model that has some; repeatable.")
]
N = Annotated[int | None, typer.Option("-n", min=1, max=1_000_000, help="Images in all.  [default: one an input]")]
NOfClasses = Annotated[
    int | None, typer.Option("-n", min=1, max=1_000_000, help="Images in all.  [default: one a class]")
]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Image i has seed + i.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A control, such as dropout=false; repeatable.")]
FitTo = Annotated[
    Literal["crop", "pad", "stretch"], typer.Option("--fit", help="How inputs are brought to the model's size.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="OUT.png, or a folder for one PNG an image.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def _verb(task: str, output: str, about: str) -> Callable[..., None]:
    """A verb that takes images, and no more than all of them do."""

    def verb(
        model: ModelRef,
        image: Input,
        class_: Class = None,
        n: N = None,
        seed: Seed = 0,
        set_: Set = None,
        fit: FitTo = "crop",
        output: Output = Path(output),
        device: Device = "auto",
        json: Json = False,
    ) -> None:
        _run(task, model, image, class_, n, seed, set_, fit, output, device, json)

    verb.__name__, verb.__doc__ = task, about
    return verb


translate = _verb(
    "translate",
    "translated.png",
    "Turn an image into its counterpart, with a model that learnt from pairs; other seeds give other versions.",
)
upscale = _verb(
    "upscale",
    "upscaled.png",
    "Make an image larger, with a model that learnt to; one that is as large already is made small first.",
)
colorize = _verb(
    "colorize",
    "coloured.png",
    "Give an image colours, with a model that learnt to; those it has are not looked at.",
)
transform = _verb(
    "transform",
    "transformed.png",
    "Turn an image into one of a class: --set strength=0 keeps it as it is, strength=1 keeps nothing of it.",
)
invert = _verb("invert", "inverted.png", "Find the model's own picture that is nearest to an image.")


def inpaint(
    model: ModelRef,
    image: Input,
    mask: Annotated[
        list[Path], typer.Option(help="An image of what to do: white is made anew, black stays. Repeatable, in turn.")
    ],
    class_: Class = None,
    n: N = None,
    seed: Seed = 0,
    set_: Set = None,
    fit: FitTo = "crop",
    output: Output = Path("inpainted.png"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Make a part of an image anew, as of a class; the rest stays as it is, byte for byte."""
    _run("inpaint", model, image, class_, n, seed, set_, fit, output, device, json, masks=mask)


def interpolate(
    model: ModelRef,
    class_: Class = None,
    n: NOfClasses = None,
    seed: Seed = 0,
    set_: Set = None,
    output: Output = Path("between.png"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Make images on the way from their seeds or classes to others: --set to_seed=7, to_class=boot, share=0.5."""
    _run("interpolate", model, None, class_, n, seed, set_, "crop", output, device, json)


def morph(
    model: ModelRef,
    image: Input,
    to: Annotated[list[Path], typer.Option(help="Image to go to. Repeatable: one for each input, in turn.")],
    class_: Class = None,
    n: N = None,
    seed: Seed = 0,
    set_: Set = None,
    fit: FitTo = "crop",
    output: Output = Path("morphed.png"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Make images on the way from one image to another: --set share=0.25, to_class=boot for one of another class."""
    _run("morph", model, image, class_, n, seed, set_, fit, output, device, json, to_images=to)


def _run(
    task: str,
    model: str,
    image: list[Path] | None,
    classes: list[str] | None,
    n: int | None,
    seed: int,
    set_: list[str] | None,
    fit: Literal["crop", "pad", "stretch"],
    output: Path,
    device: str,
    json: bool,
    masks: list[Path] | None = None,
    to_images: list[Path] | None = None,
) -> None:
    from kartina.handlers.load import load_any, parse_controls
    from kartina.models.samples import check_output
    from kartina.training.loop import pick_device

    check_output(output, [*(image or []), *(masks or []), *(to_images or [])])
    found = load_any(model, pick_device(device))
    with progress(task, n) as report:
        made = found.run(
            task,
            classes or None,
            n,
            seed,
            images=image,
            to_images=to_images,
            masks=masks,
            fit=fit,
            progress=lambda done: report(done, n),
            controls=parse_controls(set_),
        )
    path = made.save(output)
    given = [(kind, one) for kind, several in made.inputs.items() for one in several]
    if json:
        inputs = [{"kind": kind, "name": one.name, "note": one.note, "sha256": one.sha256} for kind, one in given]
        labels = [made.classes[i] if made.classes else None for i in made.labels]
        return print_json({"path": str(path), "task": task, "n": len(made), "inputs": inputs, "labels": labels,
                           "seeds": list(made.seeds)})  # fmt: skip
    notes = [f"{one.name}: {one.note}" for _, one in given if one.note]
    for note in notes[:NOTES]:
        err.print(note, highlight=False, soft_wrap=True, markup=False)
    if len(notes) > NOTES:
        err.print(f"... and {len(notes) - NOTES} more inputs were fitted.", highlight=False)
    count = f"{len(made)} image{'s' if len(made) > 1 else ''}"
    out.print(f"Wrote {count} to {path}", highlight=False, soft_wrap=True, markup=False)
