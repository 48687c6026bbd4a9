"""`kartina evaluate`: the numbers of a model, a run, or anyone's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kartina.cli.jobs import submit
from kartina.cli.output import Json, err, from_here, out, print_json, table

NAMES = {"class_agreement": "class agreement", "coverage": "coverage", "diversity": "diversity", "fd": "FD-domain",
         "bits_per_dim": "bits/dim (ELBO)", "bits_per_dim_iw": "bits/dim (IWAE)"}  # fmt: skip
SPACES = ("fd", "fd_infinity", "kid", "is", "cas")  # named as their identity says


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|FOLDER|NPZ",
            help="A model (name, name@2, hash, folder), a run (id or number), or images: a folder of PNGs, an npz.",
        ),
    ],
    data: Annotated[str | None, typer.Option(help="A data set. Default: the one the model was trained on.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test; test is for the last report only.")] = "val",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Generation seeds; two or more give an interval.")] = 3,
    samples: Annotated[str, typer.Option(help="Images per seed, at most 10k and the split's size.")] = "2000",
    metrics: Annotated[
        str,
        typer.Option(
            help="class_agreement, diversity, cas; fd, fd_infinity, kid, is; coverage, precision, recall, "
            "density or prdc; memorisation; or all."
        ),
    ] = "class_agreement,coverage,diversity,fd",
    extractor: Annotated[str, typer.Option(help="The space of distances: domain, mobilenet or inception.")] = "domain",
    weights: Annotated[
        str | None, typer.Option(help="The extractor's file: mobilenet needs it, inception downloads its own once.")
    ] = None,
    per_class: Annotated[bool, typer.Option(help="Print the table of classes.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    detach: Annotated[bool, typer.Option("--detach", help="Queue it as a job (kartina jobs), and return.")] = False,
    json: Json = False,
) -> None:
    """Measure images against real ones: each number with its interval, its floor and what it was made with.

    Without more: class agreement, coverage, diversity and FD-domain. Images of your own, from any tool, need --data and
    the size of its images; folders named as its classes give them labels. Numbers compare when their identities are
    equal. A model that gives pixels' levels a likelihood (vae with likelihood=logistic) also gets its bits per
    dimension.
    """
    from kartina.errors import ConfigError
    from kartina.handlers.evaluate import evaluate_ref
    from kartina.metrics.evaluate import check_metrics, expand
    from kartina.metrics.protocol import LARGEST
    from kartina.training import budget
    from kartina.training.loop import pick_device

    keys = check_metrics(expand([name.strip() for name in metrics.split(",")]))
    count = budget.images(samples)
    if count > LARGEST:
        raise ConfigError(f"Found --samples {samples}; expected at most {LARGEST:,}.")
    if detach:
        from kartina.data.given import is_given
        from kartina.training.run import find

        given = is_given(Path(what).expanduser())
        if not given:
            find(what)  # or says what there is
        source = str(Path(what).expanduser().absolute()) if given else from_here(what)
        spec = {"model": source, "data": data, "split": check_split(split), "seeds": list(range(seeds)),
                "samples": count, "device": device, "metrics": list(keys), "extractor": extractor,
                "weights": from_here(weights, "file")}  # fmt: skip
        return submit("evaluate", spec, json)
    with bar() as report:
        found = evaluate_ref(
            what, data, check_split(split), tuple(range(seeds)), count, pick_device(device), progress=report.update,
            metrics=keys, extractor=extractor, weights=weights,
        )  # fmt: skip
    if json:
        return print_json(found)
    show_numbers(f"{found['model']} on {found['data']} ({found['split']})", found, per_class)


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


def show_numbers(title: str, found: Mapping[str, Any], per_class: bool = True) -> None:
    """Metrics with interval, floor and control, then classes, the worst first."""
    control = found.get("control", {}).get("training copies", {})
    rows = [
        (
            _named(key, v),
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
    short = {k: v[:12] if isinstance(v, str) and len(v) == 64 else v for k, v in identity.items() if k != "metric"}
    out.print(
        ", ".join(f"{k} {v}" for k, v in short.items()), highlight=False, soft_wrap=True, style="dim", markup=False
    )
    further = [key for key in ("kid", "cas") if any(key in row for row in found["per_class"])]
    classes = [
        (
            row["class"],
            _number(row.get("agreement")),
            row.get("reason") or _number(row.get("coverage")),
            _number(row.get("diversity")),
            *(_number(row.get(key)) for key in further),
            row.get("train"),
        )
        for row in found["per_class"]
    ]
    if per_class and classes:
        columns = [">agreement", ">coverage", ">diversity", *(f">{key}" for key in further), ">train images"]
        table("Per class, worst first", ["class", *columns], classes)


def _named(key: str, value: Mapping[str, Any]) -> str:
    """What a number is called: distances by their space, as its identity says."""
    said = value.get("identity", {}).get("metric")
    return str(said) if key in SPACES and said else NAMES.get(key, key)


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} .. {pair[1]:.3f}"
