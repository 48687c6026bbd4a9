"""Use case: run a study, report it, publish what it chose."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kartina.data.imageset import ImageSet, Split
from kartina.errors import ConfigError, NotFoundError, UnavailableError
from kartina.handlers.evaluate import Progress, evaluate_model
from kartina.handlers.publish import made_of
from kartina.handlers.publish import publish as publish_run
from kartina.models import package
from kartina.models.model import Model
from kartina.process import command_of
from kartina.study import opening, report, spec, trials
from kartina.study.folder import Study, Trial, folder, same_study
from kartina.study.spec import SCORE
from kartina.study.trials import Evaluate
from kartina.training.run import Run


def run(
    source: str | Path,
    *,
    resume: bool = False,
    counts_of: str | Path | None = None,
    workers: int = 1,
    watch: trials.Watch | None = None,
    stop: trials.Stop | None = None,
) -> tuple[Study, str]:
    """Run the study of a TOML file to its end, or to where `stop` asks it to pause: (study, "finished" or "paused").

    `workers` runs are made at a time, each in a process of its own: small networks leave most of a GPU idle.

    `resume` goes on with the study of that name (its name or folder will do as `source`), or begins it where there is
    none yet. `counts_of` is another study whose measured image counts are taken. Raises ConflictError where a study of
    that name exists and `resume` is off, or its file has changed.
    """
    study = begin(source, resume=resume, counts_of=counts_of)
    if workers > 1:
        return study, side_by_side(study, workers, watch, stop)
    return study, trials.run(study, evaluator(study), watch, stop)


def side_by_side(study: Study, workers: int, watch: trials.Watch | None = None, stop: trials.Stop | None = None) -> str:
    """`trials.run` by several processes, each of which takes runs that no other has taken.

    They inherit the lock on the study, so that nobody else begins on it while one of them lives, and end when this
    process ends, however it does. Raises UnavailableError where one of them died of something that is no run's failure.
    """
    with study.lock() as held:
        trials.sweep(study)
        trials.count(study, evaluator(study), watch)
        command = command_of("kartina.handlers.study_worker", str(study.path))
        team = [subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(held,)) for _ in range(workers)]
        asked = False
        try:
            while any(process.poll() is None for process in team):
                time.sleep(0.5)
                if watch is not None:
                    watch(_together(study))
                if stop is not None and stop() and not asked:
                    asked = True
                    for process in team:
                        process.send_signal(signal.SIGTERM)
        finally:
            for process in team:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()
        states = study.states()
        if not states["begun"] and not states["waiting"]:
            return trials.time_samplers(study, watch, stop)
    if asked:
        return "paused"
    codes = [process.returncode for process in team]
    raise UnavailableError(
        f"Found {workers} workers of study {study.name} ended, with {codes}, before its runs were made; see above for "
        f"what they said, then go on: kartina study run {study.name} --resume"
    )


def _together(study: Study) -> trials.Progress:
    """How far all workers are, told of the runs that they have begun."""
    found = [(trial, study.state(trial)) for trial in study.trials()]
    done = sum(state in trials.ENDED for _, state in found)
    begun = [trial for trial, state in found if state == "begun"]
    shares = [run.status().get("images", 0) / run.config.images for t in begun if (run := study.run(t)) is not None]
    what = f"{len(begun)} runs at work, trained by {', '.join(f'{share:.0%}' for share in shares[:12])}"
    return trials.Progress(
        done, len(found), f"{len(begun)} runs", trials.TRAINING * sum(shares), what,
        sum(state == "failed" for _, state in found),
    )  # fmt: skip


def begin(source: str | Path, *, resume: bool = False, counts_of: str | Path | None = None) -> Study:
    """The study that `run` would run, its plan made where there is none yet; nothing is trained."""
    path = Path(source)
    if resume and not path.is_file():
        _check_counts(counts_of)
        return Study.open(source)
    if not path.is_file():
        raise NotFoundError(f"Found no file {str(source)!r}; expected a study's TOML file. See docs/guides/study.md.")
    wanted, text = spec.load(path)
    if resume and (folder(wanted.name) / "plan.json").is_file():
        _check_counts(counts_of)
        found = Study.open(wanted.name)
        same_study(found, wanted)
        return found
    return Study.create(wanted, text, None if counts_of is None else Study.open(counts_of))


def _check_counts(of: str | Path | None) -> None:
    """Raise ConfigError where counts are named for a study that was begun."""
    if of is not None:
        raise ConfigError("Found --counts-of for a study that was begun, and has its counts; drop it to go on.")


def evaluator(study: Study) -> Evaluate:
    """How the study's runs are measured: `evaluate_model` with what STUDY.toml says."""
    how = study.spec.evaluation

    def evaluate(
        model: Model, data: ImageSet, split: Split, seeds: Sequence[int], samples: int, progress: Progress | None
    ) -> dict[str, Any]:
        return evaluate_model(
            model, data, split, seeds, samples, how.batch, progress,
            metrics=how.metrics, extractor=how.extractor, weights=how.weights,
        )  # fmt: skip

    return evaluate


def write_report(
    ref: str | Path, out: Path | None = None, *, test: bool = True, progress: Progress | None = None
) -> dict[str, Any]:
    """Write a study's report: {"study", "files", "complete", "test", "verdicts"}.

    Where every run has ended, the choice is written down and then the test split is opened, once; `test` off leaves it
    closed. Raises NotFoundError for an unknown study.
    """
    study = Study.open(ref)
    opened = study.read("test", "opened.json") is not None
    if study.complete and test:
        opened = opening.open_test(study, evaluator(study), progress)
    files = report.write(study, out, progress)
    return {
        "study": study.name,
        "complete": study.complete,
        "test": opened,
        "files": {name: str(path) for name, path in files.items()},
        "verdicts": opening.choice(study) if study.complete else {},
    }


def publish(
    ref: str | Path,
    *,
    data: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Publish the median-seed run of each data set's winner (or of `data` alone): [{"data", "ref", "label", "seed"}].

    A model is called `name`, or after its data and family. What was published already is not published again. Raises
    ConflictError while runs are to be made, ConfigError where nothing qualifies.
    """
    study = Study.open(ref)
    wanted = winners(study, data, name)
    out = []
    for k, one in enumerate(wanted):

        def report_share(share: float, what: str, k: int = k, one: str = one) -> None:
            if progress is not None:
                progress((k + share) / len(wanted), f"{one}: {what}")

        out.append(_publish(study, one, wanted[one], name, licence, device, report_share))
    return out


def winners(study: Study, data: str | None = None, name: str | None = None) -> dict[str, dict[str, Any]]:
    """The verdict of each data set whose winner would be published (or of `data` alone), as `name`.

    Raises NotFoundError, ConflictError while runs are to be made, ConfigError where nothing qualifies.
    """
    chosen = opening.choice(study)
    if data is not None and data not in chosen:
        raise NotFoundError.named("data set", data, chosen, f"Those are the data of study {study.name}.")
    wanted = [data] if data is not None else [one for one in chosen if chosen[one]["winner"] is not None]
    lost = [one for one in wanted if chosen[one]["winner"] is None]
    if lost or not wanted:
        raise ConfigError(
            f"Found nothing to publish of study {study.name} on {', '.join(lost or chosen)}: nothing qualifies by its "
            f"rule. See its report for the conditions; `kartina publish` publishes any run.",
            details=[f"{one}: {chosen[one]['reason']}" for one in lost or chosen],
        )
    if name is not None and len(wanted) > 1:
        raise ConfigError(f"Found one --name for {len(wanted)} models; name one of {', '.join(wanted)} with --data.")
    return {one: chosen[one] for one in wanted}


def unpublished(study: Study, data: str | None = None, name: str | None = None) -> list[Trial]:
    """The runs of `winners` that are no packages yet."""
    found = winners(study, data, name).items()
    return [_trial(study, one, verdict) for one, verdict in found if _published(study, one, name) is None]


def _publish(
    study: Study, data: str, verdict: dict[str, Any], name: str | None, licence: str | None, device: str,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """One winner as a package, unless it is one already."""
    before = _published(study, data, name)
    if before is not None:
        return {**before, "new": False}
    trial = _trial(study, data, verdict)
    selected, point = chosen_point(study, trial)
    config = study.count(trial.pair)
    assert config is not None
    how = study.spec.evaluation
    called = name or f"{data}-{config.family}".replace("_", "-")
    made = made_of(Run.open(point), called) or publish_run(  # it may be there: killed before that was written down
        point,
        called,
        licence,
        f"{trial.entry.name}, chosen by the study {study.name}",
        seeds=how.seeds(SCORE),
        samples=how.samples,
        defaults={"generate": dict(trial.entry.controls)} if trial.entry.controls else None,
        device=device,
        progress=progress,
        extra={"study": {"name": study.name, "reason": verdict["reason"], "rule": study.spec.choose.model_dump(),
                         "seed": trial.seed, "seeds": list(study.spec.seeds)}},
    )  # fmt: skip
    record = {"data": data, "ref": str(made), "label": trial.entry.name, "seed": trial.seed, "images": selected}
    study.write({**(study.read("published.json") or {}), data: record}, "published.json")
    return {**record, "new": True}


def _trial(study: Study, data: str, verdict: dict[str, Any]) -> Trial:
    return study.trial(verdict["winner"], data, verdict["seed"])


def chosen_point(study: Study, trial: Trial) -> tuple[int, Path]:
    """The images that the point had seen which was selected of a finished run, and its folder."""
    selected = int(study.read("finished", f"{trial.id}.json")["selected"])
    return selected, study.point(trial, selected)


def _published(study: Study, data: str, name: str | None) -> dict[str, Any] | None:
    """What is recorded of the package that a data set's winner is already, under this name or any."""
    found: dict[str, Any] | None = (study.read("published.json") or {}).get(data)
    wanted = found is not None and (name is None or found["ref"].split("@")[0] == name) and _exists(found["ref"])
    return found if wanted else None


def _exists(ref: str) -> bool:
    try:
        package.find(ref)
    except NotFoundError:
        return False
    return True
