"""`kartina presets`, `kartina train`, `kartina runs`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kartina.cli.jobs import submit
from kartina.cli.output import Json, err, from_here, out, print_json, table

runs = typer.Typer(help="Trainings: list them, look at one.", no_args_is_help=True)


def presets(json: Json = False, measure: Annotated[bool, typer.Option(help="Time each preset here.")] = True) -> None:
    """List what can be trained: parameters, images a second on this machine. A name says family and size."""
    from kartina.training.catalogue import describe

    with_rates = describe(measure=measure, progress=lambda name: err.print(f"timing {name} ...", highlight=False))
    if json:
        return print_json(with_rates)
    rows = [(p["name"], f"{p['parameters'] / 1e6:.1f}M", p["img/s"] or "-", p["about"]) for p in with_rates]
    table("Presets", ["name", ">params", ">img/s", "what it is"], rows)


def train(
    preset: Annotated[str | None, typer.Argument(help="A preset (kartina presets).")] = None,
    data: Annotated[str | None, typer.Option(help="A data set (kartina data list).")] = None,
    budget: Annotated[str | None, typer.Option(help="Active time: 90s, 10m, 1h30m.")] = None,
    images: Annotated[str | None, typer.Option(help="Images to see: 5000, 200k, 2M.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset; repeatable.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Start from the weights of this model or run of the same family.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Learn from this model or run (presets that say so: kartina presets).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with this run (id or number).")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it as a job (kartina jobs), and return.")] = False,
    json: Json = False,
) -> None:
    """Train a generator. Ctrl-C saves and stops; --resume goes on (on a CPU, bit for bit)."""
    from kartina.errors import ConfigError
    from kartina.training import budget as budgets
    from kartina.training import transfer
    from kartina.training.loop import plan
    from kartina.training.run import Run

    if resume is not None:
        given = {"PRESET": preset, "--data": data, "--budget": budget, "--images": images, "--set": set_,
                 "--from": from_, "--teacher": teacher, "--device": device != "auto", "--dry-run": dry_run}  # fmt: skip
        extra = [k for k, v in given.items() if v]
        if extra:
            raise ConfigError(f"Found --resume with {', '.join(extra)}; a run keeps its settings: pass --resume alone.")
        found = Run.open(resume)
        return submit("train", {"run": found.id}, json) if detach else _follow(found, json)
    if preset is None or data is None:
        raise ConfigError("Found no preset or no data; expected: kartina train PRESET --data NAME --budget 10m.")
    if (budget is None) == (images is None):
        raise ConfigError("Expected one of --budget 10m and --images 200k, and only one.")
    if dry_run and detach:
        raise ConfigError("Found --dry-run with --detach; the one trains nothing, the other queues it. Choose one.")
    source = transfer.source(from_) if from_ is not None else None
    lesson = transfer.source(teacher) if teacher is not None else None
    if detach:
        seen = budgets.images(images) if images else None
        # Or say what is wrong.
        planned = plan(preset, data, images=seen or 1, settings=set_ or [], device=device, start=source, teacher=lesson)
        _tell_strange(lesson, planned)
        spec = {"preset": preset, "data": data, "images": seen, "settings": set_ or [], "start": from_here(from_),
                "teacher": from_here(teacher), "device": device,
                "budget": budgets.seconds(budget) if budget else None}  # fmt: skip
        return submit("train", spec, json)
    if budget and not json:
        err.print("Timing this machine ...", highlight=False)
    config = plan(
        preset,
        data,
        images=budgets.images(images) if images else None,
        budget=budgets.seconds(budget) if budget else None,
        settings=set_ or [],
        device=device,
        start=source,
        teacher=lesson,
    )
    if config.start is not None:
        err.print(transfer.line(config.start), highlight=False, markup=False, soft_wrap=True)
    _tell_strange(lesson, config)
    if dry_run:
        if json:
            return print_json(config.model_dump(mode="json"))
        nested = ("spec", "train", "config", "start")
        rows = [(k, v) for k, v in config.model_dump(mode="json").items() if k not in nested]
        rows += [(f"train.{k}", v) for k, v in config.train.model_dump().items()]
        rows += [(f"config.{k}", v) for k, v in config.config.items()]
        return table("Would train", ["setting", "value"], rows)
    _follow(transfer.create(config, source, lesson), json)


def _tell_strange(teacher: Any, config: Any) -> None:
    from kartina.training import transfer

    if teacher is not None and (told := transfer.strange(teacher, config)):
        err.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _follow(run: Any, json: bool) -> None:
    """Train with a live bar; the last line says where the run is and what to do next."""
    from kartina.serving.device import Gate
    from kartina.training import loop

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}  {task.fields[stats]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=err, disable=not err.is_terminal)
    task = bar.add_task(run.id, total=run.config.images, rate="", stats="")
    told: set[str] = set()

    def watch(p: loop.Progress) -> None:
        shown = "  ".join(f"{k} {v:.3g}" for k, v in list(p.stats.items())[:4])
        bar.update(task, completed=p.images, rate=f"{p.rate:.0f} img/s", stats=shown)
        for warning in p.warnings:
            kind = warning.split("(")[0]  # the figures in it change; say it once
            if kind not in told:
                told.add(kind)
                err.print(f"[yellow]Warning:[/] {escape(warning)}", highlight=False)

    with loop.interruptible() as stop, bar if err.is_terminal else Live(console=err, auto_refresh=False):
        result = loop.train(run, watch, stop, Gate(run.config.device, stop))
    status = run.status()
    if json:
        return print_json({"id": run.id, **{k: status[k] for k in ("status", "images", "seconds", "warnings")}})
    if result == "paused":
        out.print(f"Paused {run.id} at {status['images']:,} of {run.config.images:,} images; everything is saved.")
        out.print(f"Go on: kartina train --resume {run.id}", highlight=False)
    else:
        out.print(f"Finished {run.id}: {status['images']:,} images in {status['seconds']:.0f} s.", highlight=False)
        out.print(f"Look: {run.path / 'grids'}", highlight=False, soft_wrap=True, markup=False)
        out.print(f"Next: kartina publish {run.id} --name NAME", highlight=False)


def _row(run: Any) -> dict[str, Any]:
    status = run.status()
    return {
        "id": run.id,
        "preset": run.config.preset,
        "data": run.config.data,
        "images": status["images"],
        "total": run.config.images,
        "status": status["status"],
        "seconds": status["seconds"],
    }


@runs.command("list")
def list_(json: Json = False) -> None:
    """All runs, oldest first."""
    from kartina.errors import IntegrityError
    from kartina.training.folder import names
    from kartina.training.run import Run

    rows = []
    for name in names():
        try:
            rows.append(_row(Run.open(name)))
        except IntegrityError as error:
            err.print(f"[yellow]Warning:[/] {escape(str(error))}", highlight=False)
    if json:
        return print_json(rows)
    table(
        "Runs",
        ["id", "preset", "data", ">images", ">of", "status"],
        [(r["id"], r["preset"], r["data"], f"{r['images']:,}", f"{r['total']:,}", r["status"]) for r in rows],
    )


@runs.command("show")
def show(run: Annotated[str, typer.Argument(help="A run's id or number.")], json: Json = False) -> None:
    """One run: settings, progress, warnings, the last statistics."""
    from kartina.training.run import Run

    found = Run.open(run)
    status, stats = found.status(), found.stats()
    last: dict[str, Any] = {}
    for line in stats[-4:]:
        last |= line
    if json:
        return print_json(
            {**_row(found), "path": str(found.path), "warnings": status["warnings"], "error": status.get("error"),
             "config": found.config.model_dump(mode="json"), "stats": last}
        )  # fmt: skip
    row = _row(found)
    row |= {key: f"{row[key]:,}" for key in ("images", "total")} | {"seconds": f"{row['seconds']:,.0f}"}
    rows: list[tuple[str, Any]] = [*row.items(), ("path", found.path)]
    rows += [("warning", w) for w in status["warnings"]]
    rows += [("error", status["error"])] if status.get("error") else []
    names = {f"diversity/{i}": f"diversity/{name}" for i, name in enumerate(found.config.spec.classes)}
    rows += [(names.get(k, k), f"{v:.4g}") for k, v in last.items() if k not in ("images", "step")]
    table(found.id, ["", ""], rows)


@runs.command("extend")
def extend(
    run: Annotated[str, typer.Argument(help="A run's id or number.")],
    images: Annotated[str | None, typer.Option(help="So many images more: 5000, 200k.")] = None,
    time: Annotated[str | None, typer.Option(help="As many as it has seen in that time so far: 10m.")] = None,
    json: Json = False,
) -> None:
    """Let a run be longer than was asked for (a learning rate that falls rises again); train --resume then goes on."""
    from kartina.errors import ConfigError
    from kartina.training import budget as budgets
    from kartina.training.run import Run

    found = Run.open(run)
    if (images is None) == (time is None):
        raise ConfigError("Expected one of --images 200k and --time 10m, and only one.")
    more = budgets.images(images) if images else found.images_in(budgets.seconds(time or ""))
    longer = found.extend(found.config.images + more)
    if json:
        return print_json(_row(longer))
    out.print(f"Extended {longer.id} by {more:,} to {longer.config.images:,} images.", highlight=False)
    out.print(f"Go on: kartina train --resume {longer.id}", highlight=False)
