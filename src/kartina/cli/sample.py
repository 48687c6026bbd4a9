"""`kartina sample`: images of chosen classes from a published model or a run: a grid, a folder, or a data set's ZIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kartina.cli.output import Json, out, print_json, progress
from kartina.errors import ConfigError

if TYPE_CHECKING:
    from kartina.handlers.specs import BulkJob
    from kartina.models.model import Model


def sample(
    model: Annotated[str, typer.Argument(help="A model (name, name@2, hash), a run, or a folder.")],
    class_: Annotated[
        list[str] | None, typer.Option("--class", "-c", help="A class; repeatable. Default: all of them.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="How many images in all.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Image i has seed + i.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A control, such as guidance=2; repeatable.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="grid.png; a folder of PNGs; or a.zip, a data set of any size. Default: samples.png."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images made together; changes nothing in them.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    count: Annotated[
        list[str] | None, typer.Option(metavar="CLASS=N", help="So many of a class, instead of -n; for a ZIP.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Queue it as a job that makes a ZIP; see `kartina jobs`.")
    ] = False,
    json: Json = False,
) -> None:
    """Draw images: the same model, seed and controls give the same pictures."""
    from kartina.handlers.load import load_any, parse_controls
    from kartina.models.samples import check_output
    from kartina.training.loop import pick_device

    if detach and output is not None:
        raise ConfigError(
            f"Found -o {output} with --detach; the job keeps its ZIP, and `kartina jobs show` says where."
        )
    output = output or Path("samples.png")
    if detach:
        return _detach(model, class_, n, seed, parse_controls(set_), count, device, json)
    found = load_any(model, pick_device(device))
    if output.suffix.lower() == ".zip":
        return _zip(found, _asked(found, class_, n, seed, parse_controls(set_), count), output, json)
    if count:
        raise ConfigError("Found --count without a ZIP; expected -o NAME.zip, or --detach.")
    check_output(output)
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


def _asked(
    found: Model,
    classes: list[str] | None,
    n: int,
    seed: int,
    controls: dict[str, Any],
    count: list[str] | None,
    **more: Any,
) -> BulkJob:
    """What a ZIP is to hold, checked."""
    from kartina.handlers.bulk import Plan
    from kartina.handlers.specs import BulkJob

    counts = _counts(count)
    if counts and classes:
        raise ConfigError("Found --class and --count; expected one of them.")
    given = BulkJob(
        model=found.ref,
        hash=found.manifest.hash if found.manifest else "",
        labels=tuple(classes) if classes else None,
        counts=counts,
        n=sum(counts.values()) if counts else n,
        seed=seed,
        controls=controls,
        **more,
    )
    Plan.of(found, given)
    found.controls("generate", **controls)
    return given


def _counts(pairs: list[str] | None) -> dict[str, int] | None:
    counts: dict[str, int] = {}
    for pair in pairs or ():
        name, _, text = pair.rpartition("=")
        if not name or not text.isdecimal():
            raise ConfigError(f"Found --count {pair!r}; expected CLASS=N, such as cat=500.")
        counts[name] = int(text)
    return counts or None


def _zip(found: Model, given: BulkJob, output: Path, json: bool) -> None:
    """Make the ZIP beside its place, then move it there."""
    import tempfile

    from kartina.errors import disk_errors
    from kartina.handlers.bulk import NAME, make

    with disk_errors(f"write {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kartina-", dir=output.parent) as work:
            with progress("drawing", given.n) as report:
                size, rate = make(found, given, Path(work), report=lambda done, rate: report(done, given.n))
            (Path(work) / NAME).replace(output)
    if json:
        return print_json({"path": str(output), "n": given.n, "bytes": size, "rate": round(rate, 1)})
    out.print(f"Wrote {given.n:,} images to {output} ({size / 1e6:,.1f} MB)", highlight=False, soft_wrap=True)
    out.print("Use them: kartina data import FILE.zip --name NAME", highlight=False, markup=False)


def _detach(
    model: str,
    classes: list[str] | None,
    n: int,
    seed: int,
    controls: dict[str, Any],
    count: list[str] | None,
    device: str,
    json: bool,
) -> None:
    from kartina.cli.jobs import submit
    from kartina.models import model as models
    from kartina.models import package

    ref = package.find(model)
    asked = _asked(models.load(ref), classes, n, seed, controls, count, device=device)
    where = {} if ref in package.list_packages() else {"model": str(ref.path)}  # a folder, found from anywhere
    submit("bulk", asked.model_copy(update=where).model_dump(), json)
