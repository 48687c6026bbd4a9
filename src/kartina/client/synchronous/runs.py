# Made from asynchronous/runs.py by scripts/unasync.py. Do not edit.

"""Training over HTTP: presets, runs and their curves, evaluations, studies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Unpack

from pydantic import JsonValue

from kartina.client import work_schemas as schemas
from kartina.client.inputs import EvaluationOptions, PublishOptions, RunOptions
from kartina.client.protocol import call
from kartina.client.synchronous.jobs import Job, start
from kartina.client.synchronous.transport import Transport
from kartina.errors import ConfigError

ESTIMATE = 300.0  # seconds: it is timed on the service's machine
REPORTS = {".html": "html", ".json": "json", ".csv": "csv"}


class Presets:
    """What can be trained: `client.presets`."""

    def __init__(self, http: Transport):
        self._http = http

    def get(self, name: str) -> schemas.PresetDetail:
        """A preset with its settings and their schemas."""
        return self._http.get(call("GET", "/v1/presets/{name}", name=name), schemas.PresetDetail)

    def list(self) -> list[schemas.PresetSummary]:
        found = self._http.get(call("GET", "/v1/presets"), schemas.PresetPage)
        return found.items


class Runs:
    """Trainings: `client.runs`. Each is worked on by a job, which tells how it goes."""

    def __init__(self, http: Transport):
        self._http = http

    def start(
        self, preset: str, data: str, *, wait: bool = False, idempotency_key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Job:  # fmt: skip
        """Train a preset on a data set, for a `budget` in seconds or for so many `images`."""
        body = {"preset": preset, "data": data, **options}
        return start(self._http, call("POST", "/v1/runs"), body, idempotency_key, wait)

    def estimate(self, preset: str, data: str, **options: Unpack[RunOptions]) -> schemas.RunEstimate:
        """What that run would take there, in time, disk and memory: timed for some seconds. Nothing is started."""
        body = {"preset": preset, "data": data, **options}
        asked = call("POST", "/v1/runs/estimate").but(json=body, timeout=ESTIMATE)
        return self._http.get(asked, schemas.RunEstimate)

    def get(self, name: str) -> schemas.RunDetail:
        """A run as it is now."""
        return self._http.get(call("GET", "/v1/runs/{name}", name=name), schemas.RunDetail)

    def stats(self, name: str, after: int = -1) -> Iterator[dict[str, float | None]]:
        """Its curves: what was measured after so many `images` seen, asked for page by page."""
        last: int | None = after
        while last is not None:
            asked = call("GET", "/v1/runs/{name}/stats", name=name).asking(after=last)
            found = self._http.get(asked, schemas.StatsPage)
            yield from found.items
            last = found.next_after

    def grid(self, name: str, images: int) -> bytes:
        """A PNG of samples of fixed seeds, as the run drew them after so many images (see `get(name).grids`)."""
        asked = call("GET", "/v1/runs/{name}/grids/{images}.png", name=name, images=images)
        return self._http.content(asked)

    def pause(self, name: str) -> Job:
        """Save a checkpoint and stop: the job ends canceled, and `resume` goes on."""
        found = self._http.get(call("POST", "/v1/runs/{name}/pause", name=name), schemas.WorkJob)
        return Job(found, self._http)

    def resume(self, name: str, *, wait: bool = False) -> Job:
        """Go on from its newest checkpoint, as if it had never stopped."""
        return start(self._http, call("POST", "/v1/runs/{name}/resume", name=name), None, None, wait)

    def estimate_resume(self, name: str) -> schemas.RunEstimate:
        """What is left of it would take there, in time, disk and memory: timed for some seconds. Nothing is started."""
        asked = call("POST", "/v1/runs/{name}/resume/estimate", name=name).but(timeout=ESTIMATE)
        return self._http.get(asked, schemas.RunEstimate)

    def extend(self, name: str, *, images: int | None = None, seconds: float | None = None, wait: bool = False) -> Job:
        """Train it longer than was asked for: by so many images, or as many as it has seen in so many seconds."""
        body = {"images": images, "seconds": seconds}
        return start(self._http, call("POST", "/v1/runs/{name}/extend", name=name), body, None, wait)

    def estimate_extension(
        self, name: str, *, images: int | None = None, seconds: float | None = None
    ) -> schemas.RunEstimate:
        """What would be left of it then would take there: timed for some seconds. Nothing is started."""
        body = {"images": images, "seconds": seconds}
        asked = call("POST", "/v1/runs/{name}/extend/estimate", name=name).but(json=body, timeout=ESTIMATE)
        return self._http.get(asked, schemas.RunEstimate)

    def publish(self, run: str, name: str, *, wait: bool = False, **options: Unpack[PublishOptions]) -> Job:
        """Make its newest checkpoint a version of the model `name`, measured for its card."""
        body = {"name": name, **options}
        return start(self._http, call("POST", "/v1/runs/{name}/publish", name=run), body, None, wait)

    def estimate_publication(
        self, run: str, name: str, **options: Unpack[PublishOptions]
    ) -> schemas.EvaluationEstimate:
        """What that publication would take there, in time and disk: timed for some seconds. Nothing is started."""
        body = {"name": name, **options}
        asked = call("POST", "/v1/runs/{name}/publish/estimate", name=run).but(json=body, timeout=ESTIMATE)
        return self._http.get(asked, schemas.EvaluationEstimate)

    def evaluate(
        self, *, model: str | None = None, run: str | None = None, wait: bool = False,
        **options: Unpack[EvaluationOptions],
    ) -> Job:  # fmt: skip
        """Measure a model or a run: the job's result has its numbers, each with interval, floor and identity."""
        body = {"model": model, "run": run, **options}
        return start(self._http, call("POST", "/v1/evaluations"), body, None, wait)

    def estimate_evaluation(
        self, *, model: str | None = None, run: str | None = None, **options: Unpack[EvaluationOptions]
    ) -> schemas.EvaluationEstimate:
        """What that evaluation would take there, in time and disk: timed for some seconds. Nothing is started."""
        body = {"model": model, "run": run, **options}
        asked = call("POST", "/v1/evaluations/estimate").but(json=body, timeout=ESTIMATE)
        return self._http.get(asked, schemas.EvaluationEstimate)

    def delete(self, name: str) -> None:
        """Delete a run that nothing trains. What was published of it stays."""
        self._http.delete(call("DELETE", "/v1/runs/{name}", name=name))

    def list(self) -> Iterator[schemas.RunSummary]:
        """Every run, newest first, asked for page by page."""
        return self._http.items(call("GET", "/v1/runs").asking(limit=100), schemas.RunPage)


class Studies:
    """Presets compared on equal budgets: `client.studies`."""

    def __init__(self, http: Transport):
        self._http = http

    def begin(self, spec: Mapping[str, JsonValue], *, wait: bool = False, idempotency_key: str | None = None) -> Job:
        """Begin a study; `spec` is what a STUDY.toml has."""
        return start(self._http, call("POST", "/v1/studies"), dict(spec), idempotency_key, wait)

    def estimate(self, spec: Mapping[str, JsonValue]) -> schemas.StudyEstimate:
        """What that study would take there, in time and disk: some seconds for each preset. Nothing is started."""
        asked = call("POST", "/v1/studies/estimate").but(json=dict(spec), timeout=ESTIMATE)
        return self._http.get(asked, schemas.StudyEstimate)

    def get(self, name: str) -> schemas.StudyDetail:
        """A study with its runs, the table so far, and its choice."""
        return self._http.get(call("GET", "/v1/studies/{name}", name=name), schemas.StudyDetail)

    def report(self, name: str, path: str | os.PathLike[str]) -> Path:
        """Save the report as .html, .json or .csv. Raises ConflictError before every run has ended."""
        file = Path(path)
        if file.suffix not in REPORTS:
            raise ConfigError(f"Found the file name {file.name!r}; expected one that ends in {', '.join(REPORTS)}.")
        asked = call("GET", "/v1/studies/{name}/report.{format}", name=name, format=REPORTS[file.suffix])
        return self._http.download(asked, file)

    def cancel(self, name: str) -> Job:
        """Stop it once the run at work has saved what it has."""
        found = self._http.get(call("POST", "/v1/studies/{name}/cancel", name=name), schemas.WorkJob)
        return Job(found, self._http)

    def resume(self, name: str, *, wait: bool = False) -> Job:
        """Make what is left of it."""
        return start(self._http, call("POST", "/v1/studies/{name}/resume", name=name), None, None, wait)

    def estimate_resume(self, name: str) -> schemas.StudyEstimate:
        """What is left of it would take there, in time and disk: some seconds for each preset. Nothing is started."""
        asked = call("POST", "/v1/studies/{name}/resume/estimate", name=name).but(timeout=ESTIMATE)
        return self._http.get(asked, schemas.StudyEstimate)

    def publish(
        self, study: str, *, data: str | None = None, name: str | None = None, licence: str | None = None,
        wait: bool = False,
    ) -> Job:  # fmt: skip
        """Publish what it chose: of each data set's winner the run with the median metric."""
        body = {"data": data, "name": name, "licence": licence}
        return start(self._http, call("POST", "/v1/studies/{name}/publish", name=study), body, None, wait)

    def estimate_publication(
        self, study: str, *, data: str | None = None, name: str | None = None
    ) -> schemas.EvaluationEstimate:
        """What publishing what it chose would take there, in time and disk: timed for some seconds. Nothing is
        started."""
        body = {"data": data, "name": name, "licence": None}
        asked = call("POST", "/v1/studies/{name}/publish/estimate", name=study).but(json=body, timeout=ESTIMATE)
        return self._http.get(asked, schemas.EvaluationEstimate)

    def list(self) -> Iterator[schemas.StudySummary]:
        """Every study by name, asked for page by page."""
        return self._http.items(call("GET", "/v1/studies").asking(limit=100), schemas.StudyPage)
