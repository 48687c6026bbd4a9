"""`kartina study`: compare generators on equal budgets, report, choose, publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kartina.cli.evaluate import bar
from kartina.cli.jobs import submit
from kartina.cli.output import Json, err, out, print_json, table
from kartina.errors import ConfigError, IntegrityError

study = typer.Typer(help="Studies: presets x data x seeds on equal budgets; a report; a choice.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(help="A study's name or folder.")]


@study.command()
def run(
    file: Annotated[str, typer.Argument(help="STUDY.toml; with --resume a study's name or folder will do.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on; begin where there is nothing yet.")] = False,
    counts_of: Annotated[
        str | None, typer.Option(help="Take the measured image counts of this study instead of timing this machine.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Runs made at a time, each in a process of its own (for a GPU).")
    ] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it as a job (kartina jobs), and return.")] = False,
    json: Json = False,
) -> None:
    """Train and evaluate everything that is left of a study. Ctrl-C saves and stops; --resume goes on."""
    if detach and workers > 1:
        raise ConfigError(
            "Found --workers with --detach; a queued study makes its runs one by one. Leave one of them out."
        )
    if detach:
        from kartina.handlers.study import begin

        return submit("study", {"study": begin(file, resume=resume, counts_of=counts_of).name}, json)
    from kartina.handlers.study import run as do
    from kartina.training.loop import interruptible

    with interruptible() as stop, _bars() as watch:
        found, result = do(file, resume=resume, counts_of=counts_of, workers=workers, watch=watch, stop=stop)
    states = found.states()
    if json:
        return print_json({"name": found.name, "path": str(found.path), "status": result, "runs": states})
    done = f"{states['finished']} of {sum(states.values())} runs finished, {states['failed']} failed"
    if result == "paused":
        out.print(f"Paused {found.name}: {done}; everything is saved.", highlight=False)
        out.print(f"Go on: kartina study run {found.name} --resume", highlight=False)
    else:
        out.print(f"Finished {found.name}: {done}.", highlight=False)
        out.print(f"Next: kartina study report {found.name}", highlight=False)


class _bars:
    """Two bars on stderr: the runs of the study, and the one at work. A line for each when it is no terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[done]}"), TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
        )  # fmt: skip
        self.progress = Progress(*columns, console=err, disable=not err.is_terminal)
        self.all = self.progress.add_task("study", total=1.0, done="", what="")
        self.one = self.progress.add_task("run", total=1.0, done="", what="")
        self.last = ""

    def __enter__(self) -> Any:
        self.progress.start()
        return self.watch

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def watch(self, p: Any) -> None:
        failed = f", {p.failed} failed" if p.failed else ""
        self.progress.update(self.all, completed=(p.done + p.share) / p.total, done=f"{p.done}/{p.total}{failed}")
        self.progress.update(self.one, completed=p.share, done=f"{p.share:.0%}", what=p.what, description=p.trial)
        if p.trial != self.last and not err.is_terminal:
            err.print(f"run {p.done + 1} of {p.total}: {p.trial}", highlight=False, markup=False, soft_wrap=True)
        self.last = p.trial


@study.command()
def report(
    ref: Ref,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder; default: report/ in the study's own.")
    ] = None,
    test: Annotated[bool, typer.Option(help="Open the test split (once) where every run has ended.")] = True,
    json: Json = False,
) -> None:
    """Write the report: one HTML page, and the same as JSON and CSV."""
    from kartina.handlers.study import write_report

    with bar() as progress:
        found = write_report(ref, output, test=test, progress=progress.update)
    if json:
        return print_json(found)
    for data, verdict in found["verdicts"].items():
        out.print(f"{data}: {verdict['reason']}", highlight=False, markup=False, soft_wrap=True)
    if not found["complete"]:
        out.print("Preliminary: runs are still to be made, and the test split stays closed.", highlight=False)
    out.print(f"Wrote {found['files']['index.html']}", highlight=False, markup=False, soft_wrap=True)


@study.command("list")
def list_(json: Json = False) -> None:
    """All studies and how far they are."""
    from kartina.study.folder import Study, names

    found = {}
    for name in names():
        try:
            found[name] = Study.open(name).states()
        except IntegrityError as error:
            err.print(f"[yellow]Warning:[/] {escape(str(error))}", highlight=False)
    if json:
        return print_json([{"name": name, **states} for name, states in found.items()])
    rows = [
        (name, sum(s.values()), s["finished"], s["failed"], s["begun"] + s["waiting"]) for name, s in found.items()
    ]  # fmt: skip
    table("Studies", ["name", ">runs", ">finished", ">failed", ">to do"], rows)


@study.command()
def publish(
    ref: Ref,
    data: Annotated[str | None, typer.Option(help="Only the winner on this data set.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; default: after its data and family.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which the model may be used, such as CC0-1.0.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Publish what the study chose: of each winner the run with the median metric, with its card."""
    from kartina.handlers.study import publish as do
    from kartina.training.loop import pick_device

    with bar() as progress:
        found = do(ref, data=data, name=name, licence=licence, device=pick_device(device), progress=progress.update)
    if json:
        return print_json(found)
    for one in found:
        done = "Published" if one["new"] else "Found published already:"
        out.print(f"{done} {one['ref']}: {one['label']} on {one['data']}, training seed {one['seed']}", highlight=False,
                  markup=False, soft_wrap=True)  # fmt: skip
