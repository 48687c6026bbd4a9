"""`kartina sample`: images of chosen classes from a published model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kartina.cli.output import Json, out, print_json, progress


def sample(
    model: Annotated[str, typer.Argument(help="A model (name, name@2, hash), a run, or a folder.")],
    class_: Annotated[
        list[str] | None, typer.Option("--class", "-c", help="A class; repeatable. Default: all of them.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="How many images in all.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Image i has seed + i.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A control, such as guidance=2; repeatable.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="grid.png, or a folder for one PNG an image.")] = Path(
        "samples.png"
    ),
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images made together; changes nothing in them.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Draw images: the same model, seed and controls give the same pictures."""
    from kartina.handlers.load import load_any, parse_controls
    from kartina.training.loop import pick_device

    found = load_any(model, pick_device(device))
    with progress("drawing", n) as report:
        samples = found.sample(
            class_ or None,
            n=n,
            seed=seed,
            batch=batch,
            progress=lambda done: report(done, n),
            controls=parse_controls(set_),
        )
    path = samples.save(output)
    if json:
        labels = [samples.classes[i] if samples.classes else None for i in samples.labels]
        return print_json({"path": str(path), "n": n, "labels": labels, "seeds": [int(s) for s in samples.seeds]})
    out.print(f"Wrote {n} image{'s' if n > 1 else ''} to {path}", highlight=False, soft_wrap=True, markup=False)
