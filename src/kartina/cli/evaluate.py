"""`kartina evaluate`: the first numbers of a model or a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kartina.cli.jobs import submit
from kartina.cli.output import Json, err, out, print_json, table

NAMES = {"class_agreement": "class agreement", "coverage": "coverage", "diversity": "diversity", "fd": "FD-domain",
         "bits_per_dim": "bits/dim (ELBO)", "bits_per_dim_iw": "bits/dim (IWAE)"}  # fmt: skip


def evaluate(
    model: Annotated[str, typer.Argument(help="A model (name, name@2, hash, folder) or a run (id or number).")],
    data: Annotated[str | None, typer.Option(help="A data set. Default: the one the model was trained on.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test; test is for the last report only.")] = "val",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Generation seeds; two or more give an interval.")] = 3,
    samples: Annotated[int, typer.Option(min=1, max=10_000, help="Images per seed, at most the split's size.")] = 2000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    detach: Annotated[bool, typer.Option("--detach", help="Queue it as a job (kartina jobs), and return.")] = False,
    json: Json = False,
) -> None:
    """Measure a model: class agreement, coverage, diversity and FD-domain, each with floor and interval.

    A model that gives pixels' levels a likelihood (vae with likelihood=logistic) also gets its bits per dimension.
    """
    from kartina.handlers.evaluate import evaluate_ref
    from kartina.training.loop import pick_device

    if detach:
        from kartina.training.run import find

        find(model)  # or says what there is
        spec = {"model": model, "data": data, "split": check_split(split), "seeds": list(range(seeds)),
                "samples": samples, "device": device}  # fmt: skip
        return submit("evaluate", spec, json)
    with bar() as report:
        found = evaluate_ref(
            model, data, check_split(split), tuple(range(seeds)), samples, pick_device(device), progress=report.update
        )
    if json:
        return print_json(found)
    show_numbers(f"{found['model']} on {found['data']} ({found['split']})", found)


def check_split(split: str) -> Literal["train", "val", "test"]:
    from kartina.errors import ConfigError

    match split:
        case "train" | "val" | "test":
            return split
    raise ConfigError(f"Found --split {split}; expected train, val or test.")


class bar:
    """A bar on stderr for work that reports its share done and what it is doing."""

    def __init__(self) -> None:
        columns = (
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        self.progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self.task = self.progress.add_task("loading", total=1.0)

    def __enter__(self) -> bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def update(self, share: float, what: str) -> None:
        self.progress.update(self.task, completed=share, description=what)


def show_numbers(title: str, found: Mapping[str, Any]) -> None:
    """Metrics with interval, floor and control, then classes, the worst first."""
    control = found.get("control", {}).get("training copies", {})
    rows = [
        (
            NAMES.get(key, key),
            v.get("reason") or _number(v.get("value")),
            _interval(v.get("interval")),
            _number(v.get("floor")),
            _number(control.get(key)),
        )
        for key, v in found["metrics"].items()
    ]
    table(title, ["metric", ">value", ">95% interval", ">floor: real images", ">training copies"], rows)
    if not rows:
        out.print("No numbers: this model was not evaluated.", highlight=False)
        return
    identity = next(iter(found["metrics"].values())).get("identity", {})
    short = {k: v[:12] if isinstance(v, str) else v for k, v in identity.items() if k != "metric"}
    out.print(
        ", ".join(f"{k} {v}" for k, v in short.items()), highlight=False, soft_wrap=True, style="dim", markup=False
    )
    classes = [
        (
            row["class"],
            _number(row.get("agreement")),
            row.get("reason") or _number(row.get("coverage")),
            _number(row.get("diversity")),
            row.get("train"),
        )
        for row in found["per_class"]
    ]
    table("Per class, worst first", ["class", ">agreement", ">coverage", ">diversity", ">train images"], classes)


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} .. {pair[1]:.3f}"
