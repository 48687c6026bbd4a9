"""The report: one HTML page that needs no network and no script, and the same as JSON and CSV.

`results.gather` finds what is known, `pictures` draws, `plots` makes SVG; here they become a page. The template escapes
whatever it is given; SVG made here is the only markup that passes.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kartina.errors import disk_errors
from kartina.study import pictures, plots, results
from kartina.study.folder import Study
from kartina.study.plots import Point, Series

Report = Callable[[float, str], None]

TITLES = {
    "kid": "KID", "fd": "FD", "fd_infinity": "FD extrapolated", "is": "IS", "class_agreement": "class agreement",
    "coverage": "coverage", "density": "density", "precision": "precision", "recall": "recall",
    "diversity": "diversity", "cas": "CAS", "memorisation": "flagged copies", "copies": "close copies",
    "latency": "latency, ms", "failed": "failed runs",
}  # fmt: skip


def write(study: Study, out: Path | None = None, progress: Report | None = None) -> dict[str, Path]:
    """Write index.html, report.json and report.csv into `out` (default: the study's report folder)."""
    found = results.gather(study)
    looks = draw(study, found, progress)
    where = out or study.path / "report"
    texts = {
        "index.html": page(study, found, looks),
        "report.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        "report.csv": table(found),
    }
    with disk_errors("write the report"):
        where.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temp = where / f".{name}.{os.getpid()}"
            temp.write_text(text, encoding="utf-8")
            temp.replace(where / name)
    return {name: where / name for name in texts}


def draw(study: Study, found: Mapping[str, Any], progress: Report | None = None) -> dict[tuple[str, str], Any]:
    """(data, entry key) -> Looks of its median run; (data, "") -> a grid of real images."""
    out: dict[tuple[str, str], Any] = {}
    shown = [(one, entry) for one in found["data"] for entry in one["entries"] if entry["median_seed"] is not None]
    galleries: dict[str, pictures.Gallery] = {}
    for k, (one, entry) in enumerate(shown):
        name = one["name"]
        if progress is not None:
            progress(k / len(shown), f"drawing {entry['label']} on {name}")
        if name not in galleries:
            galleries[name] = pictures.Gallery.of(study.open_data(name))
            out[name, ""] = pictures.real_grid(study, galleries[name].data)
        trial = study.trial(entry["key"], name, entry["median_seed"])
        selected = next(run["selected"] for run in entry["runs"] if run["seed"] == trial.seed)
        out[name, entry["key"]] = galleries[name].look(study, trial, selected)
    return out


# -- CSV -------------------------------------------------------------------------------------------------------------

COLUMNS = ("data", "split", "row", "label", "preset", "seed", "metric", "value", "low", "high", "floor", "retraining",
           "resampling", "n", "m", "extractor")  # fmt: skip


def table(found: Mapping[str, Any]) -> str:
    """One line for each number: of entries (mean over runs), of single runs, of the training copies."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    for one in found["data"]:
        name = one["name"]
        for entry in one["entries"]:
            for split in ("val", "test"):
                for key, v in entry[split].items():
                    low, high = v["interval"] or ("", "")
                    i = v["identity"]
                    out.writerow([name, split, "entry", entry["label"], entry["preset"], "", key, v["value"], low, high,
                                  _blank(v["floor"]), _blank(v["retraining"]), _blank(v["resampling"]), i["n"], i["m"],
                                  i["extractor"]])  # fmt: skip
            for run in entry["runs"]:
                for key, value in run["val"].items():
                    out.writerow([name, "val", "run", entry["label"], entry["preset"], run["seed"], key, _blank(value),
                                  *[""] * 8])  # fmt: skip
        for split, control in (("val", one["control"]), ("test", (one["test"] or {}).get("control", {}))):
            for label, values in control.items():
                for key, value in values.items():
                    out.writerow([name, split, "control", label, "", "", key, _blank(value), *[""] * 8])
    return text.getvalue()


def _blank(x: Any) -> Any:
    return "" if x is None else x


# -- HTML ------------------------------------------------------------------------------------------------------------


def page(study: Study, found: Mapping[str, Any], looks: Mapping[tuple[str, str], Any]) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("kartina.study", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    titles = called(found)
    environment.filters.update(
        sig=sig, half=half, count=lambda n: f"{n:,}", duration=duration, memory=memory,
        metric=lambda key: titles.get(key, key),
    )  # fmt: skip
    sections = [section(study, one, looks, titles) for one in found["data"]]
    text = environment.get_template("report.html.j2").render(
        found=found,
        spec=study.spec,
        plan=study.plan,
        sections=sections,
        toml=(study.path / "study.toml").read_text(encoding="utf-8"),
        metrics=ordered(study.spec.evaluation.metrics, study.spec.choose.metric),
        chosen_by=study.spec.choose.metric,
        counts={pair: c.images for pair in _pairs(study) if (c := study.count(pair)) is not None},
    )
    return text


def _pairs(study: Study) -> list[str]:
    return [f"{entry.key}--{data}" for entry, data in study.spec.pairs()]


def section(
    study: Study, one: Mapping[str, Any], looks: Mapping[tuple[str, str], Any], titles: Mapping[str, str]
) -> dict[str, Any]:
    """What the template shows of one data set."""
    order = [entry.key for entry, data in study.spec.pairs() if data == one["name"]]
    colour = {key: k for k, key in enumerate(order)}
    scored = [entry for entry in one["entries"] if entry["val"]]
    metric = study.spec.choose.metric
    shown = []
    for entry in scored:
        look = looks.get((one["name"], entry["key"]))
        if look is not None:
            pngs = {"grid": image(look.grid), "neighbours": image(look.neighbours)}
            near = {"distances": look.distances, "usual": look.usual}
            shown.append({"entry": entry, "colour": colour[entry["key"]], **pngs, **near})
    real = looks.get((one["name"], ""))
    return {
        "one": one,
        "colour": colour,
        "scored": scored,
        "plots": [Markup(text) for text in learning(scored, colour, one["floor"], titles)],
        "pareto": Markup(latency(scored, colour, metric, one["floor"].get(metric), titles[metric])) if scored else None,
        "precision_recall": precision_recall(scored, colour, one["floor"]),
        "heat": heat(scored),
        "conditions": asked(one["verdict"]),
        "checked": {}
        if one["verdict"] is None
        else {key: {c["name"]: c for c in found} for key, found in one["verdict"]["conditions"].items()},
        "looks": shown,
        "real": None if real is None else image(real),
        "splits": [("test", one["test"]["floor"], one["test"]["control"])] if one["test"] else [],
    }


def asked(verdict: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rule's conditions, each with the limit in words."""
    out: dict[str, dict[str, Any]] = {}
    for found in (verdict or {"conditions": {}})["conditions"].values():
        for c in found:
            if c["limit"] is not None and (c["name"] not in out or out[c["name"]]["limit"] is None):
                words = "at least" if c["name"] in ("class_agreement", "coverage") else "at most"
                unit = " ms" if c["name"] == "latency" else ""
                out[c["name"]] = {"name": c["name"], "limit": c["limit"], "asked": f"{words} {sig(c['limit'])}{unit}"}
    return list(out.values())


def learning(
    scored: Sequence[Mapping[str, Any]], colour: Mapping[str, int], floor: Mapping[str, Any], titles: Mapping[str, str]
) -> list[str]:
    """KID and FD on val against images seen and against active minutes, with the range over training seeds."""
    out = []
    for metric in ("kid", "fd"):
        if not any(metric in p for entry in scored for p in entry["curve"]):
            continue
        for against, label in (("images", "images seen"), ("minutes", "active minutes of training")):
            series = [Series(e["label"], colour[e["key"]], band(e["curve"], metric, against)) for e in scored]
            title = f"{titles[metric]} on val against {label}"
            out.append(plots.curves(title, series, label, f"{titles[metric]} on val", floor.get(metric)))
    return out


def band(curve: Sequence[Mapping[str, Any]], metric: str, against: str) -> tuple[Point, ...]:
    """The mean over seeds at each evaluation, and the lowest and highest of them."""
    steps: dict[int, list[Mapping[str, Any]]] = {}
    for p in curve:
        steps.setdefault(p["images"], []).append(p)
    out = []
    for images, group in sorted(steps.items()):
        ys = [p[metric] for p in group if p.get(metric) is not None]
        if ys:
            x = images if against == "images" else float(np.mean([p["measured"]["seconds"] for p in group])) / 60
            out.append(Point(x, float(np.mean(ys)), y_range=(min(ys), max(ys)) if len(ys) > 1 else None))
    return tuple(out)


def latency(
    scored: Sequence[Mapping[str, Any]], colour: Mapping[str, int], metric: str, floor: float | None, title: str
) -> str:
    """Quality against latency, with the range over runs; the line joins those that nothing beats in both."""

    def point(entry: Mapping[str, Any]) -> Point:
        found = entry["val"][metric]
        return Point(entry["measured"]["ms"], found["value"], y_range=(min(found["runs"]), max(found["runs"])))

    series = [Series(e["label"], colour[e["key"]], (point(e),)) for e in scored if metric in e["val"]]
    labels = f"{title} on val against latency", "milliseconds for one image alone", f"{title} on val"
    return plots.scatter(labels[0], series, *labels[1:], log_x=True, log_y=True, floor=floor, front=True)


def precision_recall(
    scored: Sequence[Mapping[str, Any]], colour: Mapping[str, int], floor: Mapping[str, Any]
) -> Markup | None:
    both = [e for e in scored if "precision" in e["val"] and "recall" in e["val"]]
    if not both:
        return None
    series = [
        Series(
            e["label"],
            colour[e["key"]],
            (Point(e["val"]["recall"]["value"], e["val"]["precision"]["value"]),),
            tuple(zip(e["val"]["recall"]["runs"], e["val"]["precision"]["runs"], strict=True)),
        )
        for e in both
    ]
    known = floor.get("recall"), floor.get("precision")
    at = (float(known[0]), float(known[1])) if known[0] is not None and known[1] is not None else None
    return Markup(plots.scatter("Precision against recall on val", series, "recall: how much of the data it makes",
                                "precision: how much of it looks real", floor_point=at))  # fmt: skip


def heat(scored: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each class, the worst first by its mean over entries: the lowest of its three shares for each entry."""
    rows: dict[str, list[tuple[float, str] | None]] = {}
    for k, entry in enumerate(scored):
        for row in entry["per_class"]:
            known = [(row[m], m) for m in ("agreement", "coverage", "diversity") if row.get(m) is not None]
            rows.setdefault(row["class"], [None] * len(scored))[k] = min(known) if known else None
    out = [{"class": name, "cells": cells, "mean": _mean(c[0] for c in cells if c)} for name, cells in rows.items()]
    return sorted(out, key=lambda row: (row["mean"], row["class"]))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else 0.0


def image(picture: pictures.Picture) -> dict[str, Any]:
    """A picture as a data URI with its size."""
    data = base64.b64encode(picture.path.read_bytes()).decode()
    return {"src": f"data:image/png;base64,{data}", "width": picture.width, "height": picture.height}


def sig(x: float | None, digits: int = 3) -> str:
    """A number as a table shows it: significant digits, no exponent for usual sizes; a dash for none."""
    if x is None:
        return "–"
    if x == 0:
        return "0"
    size = abs(x)
    if size >= 1e6 or size < 1e-5:
        return f"{x:.{digits - 1}e}"
    places = max(0, digits - 1 - int(np.floor(np.log10(size))))
    return f"{x:.{places}f}".replace("-", "−")


def half(pair: Sequence[float]) -> str:
    """An interval as what stands on either side of the mean."""
    return f"± {sig((pair[1] - pair[0]) / 2, 2)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.2f} h"


def memory(size: float | None) -> str:
    if not size:
        return "–"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def called(found: Mapping[str, Any]) -> dict[str, str]:
    """What metrics are called: distances after the space that they were measured in."""
    out = dict(TITLES)
    for key in ("kid", "fd"):
        values = [entry["val"][key] for one in found["data"] for entry in one["entries"] if key in entry["val"]]
        if values:
            out[key] = values[0]["identity"]["metric"]
    return out


def ordered(metrics: Sequence[str], first: str) -> list[str]:
    """The columns of a leaderboard: what it is ordered by, then as TITLES has them."""
    return sorted(metrics, key=lambda m: (m != first, list(TITLES).index(m)))
