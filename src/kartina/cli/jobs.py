"""`kartina jobs`: what is waiting, running and done; follow, cancel and resume it; a worker of your own."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from kartina.cli.output import Json, err, out, print_json, table
from kartina.errors import ConfigError

if TYPE_CHECKING:
    from kartina.jobs.table import Event, Job

jobs = typer.Typer(help="Jobs: list, show, follow, cancel and resume them; work them off.", no_args_is_help=True)

POLL = 0.5  # seconds between two looks of `follow`

Id = Annotated[int, typer.Argument(min=1, help="A job's number.")]


def submit(kind: str, spec: dict[str, Any], json: bool) -> None:
    """Queue a job and say so: what --detach does."""
    from kartina.jobs.table import Jobs

    job = Jobs.open().submit(kind, spec)
    if json:
        return print_json(describe(job))
    out.print(f"Queued job {job.id}. It runs when `kartina serve` or `kartina jobs work` does.", highlight=False)
    out.print(f"Follow: kartina jobs follow {job.id}", highlight=False)


def describe(job: Job, position: int | None = None) -> dict[str, Any]:
    """A job as JSON."""
    end = job.completed_at or time.time()
    return {
        "id": job.id,
        "kind": job.kind,
        "caller": job.caller,
        "spec": job.spec,
        "status": job.status,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "completed_at": _iso(job.completed_at),
        "queue_position": position,
        "progress": job.progress.model_dump(),
        "attempt": job.attempt,
        "saved": job.saved,
        "result": job.result,
        "outputs": _outputs(job),
        "error": job.error.model_dump() if job.error else None,
        "metrics": {
            "queue_ms": _ms(job.created_at, job.started_at),
            "execution_ms": _ms(job.started_at, end),
        },
    }


def _outputs(job: Job) -> list[dict[str, Any]]:
    """The committed files: name and bytes."""
    if job.output is None:
        return []
    root = job.folder / job.output
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [{"name": str(path.relative_to(root)), "size": path.stat().st_size} for path in files]


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 1)


def _what(job: Job) -> str:
    """A job's spec in a few words."""
    named = [str(job.spec[key]) for key in ("preset", "model", "run", "name", "data") if job.spec.get(key)]
    return " ".join(named)


@jobs.command("list")
def list_(
    status: Annotated[
        str | None, typer.Option(help="Only queued, running, succeeded, failed or canceled ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    """Jobs, the newest first."""
    from kartina.jobs.table import Jobs

    match status:
        case None | "queued" | "running" | "canceling" | "succeeded" | "failed" | "canceled":
            found = Jobs.open().recent(status, limit=limit)
        case _:
            raise ConfigError(f"Found --status {status}; expected queued, running, succeeded, failed or canceled.")
    if json:
        return print_json([describe(job) for job in found])
    rows = [
        (job.id, job.kind, _what(job), job.status, f"{job.progress.value:.0%}" if job.started_at else "",
         datetime.fromtimestamp(job.created_at).strftime("%Y-%m-%d %H:%M"), job.attempt)
        for job in found
    ]  # fmt: skip
    table("Jobs", [">id", "kind", "what", "status", ">done", "created", ">attempt"], rows)


@jobs.command("show")
def show(id: Id, json: Json = False) -> None:
    """One job: what was asked, how far it is, what came of it."""
    from kartina.jobs.table import Jobs

    known = Jobs.open()
    job = known.get(id)
    found = describe(job, known.position(id))
    if json:
        return print_json(found)
    rows = [(k, v) for k, v in found.items() if v not in (None, [], {}) and k not in ("spec", "progress", "metrics")]
    rows += [(f"spec.{k}", v) for k, v in job.spec.items() if v not in (None, [], {}, "")]
    rows += [("progress", f"{job.progress.value:.0%} {job.progress.text}")]
    table(f"Job {job.id}", ["", ""], rows)


@jobs.command("follow")
def follow(id: Id, json: Json = False) -> None:
    """Show what happens to a job until its end. Ctrl-C stops watching, not the job. --json: an event a line."""
    from kartina.jobs.table import Jobs

    known = Jobs.open()
    last = 0
    while True:
        job = known.get(id)  # before its events: when it is finished, they are complete
        for event in known.events(id, last):
            last = event.id
            _tell(event, json)
        if job.finished and last >= job.last_event:
            break
        time.sleep(POLL)
    if job.status != "succeeded":
        raise typer.Exit(1)


def _tell(event: Event, json: bool) -> None:
    if json:
        import json as encoder

        typer.echo(encoder.dumps(event.model_dump(), ensure_ascii=False))
        return
    match event.event:
        case "status":
            why = event.data.get("why") or (event.data.get("error") or {}).get("message") or ""
            out.print(f"{event.data['status']}{': ' if why else ''}{escape(why)}", highlight=False, soft_wrap=True)
        case "progress":
            out.print(f"{event.data['value']:>4.0%} {escape(event.data['text'])}", highlight=False, soft_wrap=True)
        case "log":
            style = "" if event.data["level"] == "info" else "yellow"
            out.print(escape(event.data["text"]), style=style, highlight=False, soft_wrap=True)


@jobs.command("cancel")
def cancel(id: Id, json: Json = False) -> None:
    """Cancel a job: at once while it waits, else as soon as it has saved what it has."""
    from kartina.jobs.table import Jobs

    _say(Jobs.open().cancel(id), json)


@jobs.command("resume")
def resume(id: Id, json: Json = False) -> None:
    """Queue a failed or canceled job again; it goes on from where it was."""
    from kartina.jobs.table import Jobs

    _say(Jobs.open().resume(id), json)


def _say(job: Job, json: bool) -> None:
    if json:
        return print_json(describe(job))
    out.print(f"Job {job.id} is {job.status}.", highlight=False)


@jobs.command("work")
def work(
    slots: Annotated[int, typer.Option(min=1, max=64, help="Jobs at a time, each with a process of its own.")] = 1,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no job is left.")] = False,
    lane: Annotated[
        str | None, typer.Option(help="Only jobs on data sets (data), or only all others (device).", show_default=False)
    ] = None,
    watch_stdin: Annotated[bool, typer.Option("--watch-stdin", hidden=True)] = False,
) -> None:
    """Run jobs until Ctrl-C, which gives running ones back to the queue. `kartina serve` does this too."""
    from kartina import logs

    logs.configure()
    if watch_stdin:
        _end_with_stdin()
    if lane not in (None, "data", "device"):
        raise ConfigError(f"Found --lane {lane}; expected data or device.")
    if slots > 1:
        _work_side_by_side(slots, until_idle, lane)
    else:
        _work(until_idle, lane)


def _work(until_idle: bool, lane: str | None) -> None:
    import signal

    from kartina.handlers.child import COMMAND
    from kartina.handlers.kinds import DATA
    from kartina.jobs.table import Jobs
    from kartina.jobs.worker import Worker

    kinds, without = DATA if lane == "data" else (), DATA if lane == "device" else ()
    worker = Worker(Jobs.open(), COMMAND, kinds=kinds, without=without)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(until_idle)


def _work_side_by_side(slots: int, until_idle: bool, lane: str | None) -> None:
    """A worker process for each slot; they end with this one."""
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "kartina.cli", "jobs", "work", "--watch-stdin"]
    command += ["--until-idle"] if until_idle else []
    command += ["--lane", lane] if lane is not None else []
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) for _ in range(slots)]

    def stop(*_: object) -> None:
        for worker in workers:
            worker.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    codes = [worker.wait() for worker in workers]
    if any(codes):
        err.print(f"[bold red]Error:[/] {sum(map(bool, codes))} of {slots} workers died.")
        raise typer.Exit(1)


def _end_with_stdin() -> None:
    """Whoever started this process holds the other end: when it is gone, so is the reason to run."""
    import os
    import threading

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="stdin").start()
