"""The folder of a study, KARTINA_HOME/studies/NAME. Whatever is in it is whole: files are written beside and renamed.

    study.toml            as it was given
    plan.json             the plan, fixed at the start: the study, data hashes, threads
    counts/PAIR.json      the RunConfig of a preset on a data set, its images measured from the budget once
    runs/TRIAL/           a Run: what one training seed made
    points/TRIAL-IMAGES/  a Run with averaged weights alone, as they were at a checkpoint evaluation
    evaluations/TRIAL-IMAGES.json    that evaluation, on val
    finished/TRIAL.json   the checkpoint that was selected, its final numbers on val, what it cost
    failed/TRIAL.json     why a run failed, and what it cost
    choice.json           the verdicts, on val; written before test is opened
    test/opened.json      when, and by which version; test/TRIAL.json: the numbers
    pictures/             grids and nearest neighbours
    report/               index.html, report.json, report.csv
    claims/TRIAL          locked while a process works on it
    published.json        which model each data set's winner became

PAIR is ENTRY--DATA and TRIAL is ENTRY--DATA--seedN.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import kartina
from kartina import owners
from kartina.config import Frozen, RunConfig, explain, home, read
from kartina.data.imageset import ImageSet, Split, open_set
from kartina.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, disk_errors
from kartina.files import make_folder
from kartina.metrics.evaluate import how_many, labels_of
from kartina.study import spec as specs
from kartina.study.spec import Budget, Entry, Evaluation, StudySpec
from kartina.training import loop, transfer
from kartina.training.folder import write_json
from kartina.training.run import Run

FORMAT = 1


class DataFacts(Frozen):
    """What a data set was when the study began."""

    hash: str
    classes: tuple[str, ...]
    size: tuple[int, int, int]  # C,H,W
    splits: dict[str, int]  # images


class Plan(Frozen):
    """plan.json."""

    format: int = FORMAT
    kartina: str  # version
    created_at: str
    study: StudySpec
    device: str
    threads: int
    data: dict[str, DataFacts]


@dataclass(frozen=True)
class Trial:
    """One training of an entry on a data set."""

    entry: Entry
    data: str
    seed: int

    @property
    def pair(self) -> str:
        return f"{self.entry.key}--{self.data}"

    @property
    def id(self) -> str:
        return f"{self.pair}--seed{self.seed}"


@dataclass(frozen=True)
class Study:
    path: Path
    plan: Plan

    @property
    def name(self) -> str:
        return self.plan.study.name

    @property
    def spec(self) -> StudySpec:
        return self.plan.study

    def trials(self) -> list[Trial]:
        """Every run there is to be: all entries with the first seed, then with the second, ..."""
        return [Trial(entry, data, seed) for seed in self.spec.seeds for entry, data in self.spec.pairs()]

    def trial(self, key: str, data: str, seed: int) -> Trial:
        return next(t for t in self.trials() if (t.entry.key, t.data, t.seed) == (key, data, seed))

    def of(self, entry: Entry, data: str) -> list[Trial]:
        return [Trial(entry, data, seed) for seed in self.spec.seeds]

    # -- making and finding --------------------------------------------------------------------------------------

    @staticmethod
    def create(spec: StudySpec, text: str, counts_of: Study | None = None, owner: str = owners.LOCAL) -> Study:
        """Check the whole study and fix its plan; `owner` is whose it is. Raises ConfigError for what could not be
        trained or measured, NotFoundError for unknown presets and data, ConflictError where the name is taken.

        `counts_of` is a study whose measured image counts are taken, where preset, settings and data are the same.
        """
        where = folder(spec.name)
        if where.exists():
            raise ConflictError(
                f"Found a study called {spec.name!r} already; go on with it (--resume), or give yours another name."
            )
        plan, configs = lay_out(spec)
        with disk_errors("make the study's folder"):
            make_folder(where.parent)
            staging = Path(tempfile.mkdtemp(prefix=".new-", dir=where.parent))
            try:
                (staging / "study.toml").write_text(text, encoding="utf-8")
                owners.write(staging, owner)
                write_json(staging / "plan.json", plan.model_dump(mode="json"))
                if counts_of is not None:
                    (staging / "counts").mkdir()
                    for entry, data in spec.pairs():
                        pair = f"{entry.key}--{data}"
                        lent = counts_of.lend(pair, configs[pair], entry.budget(spec.budget))
                        write_json(staging / "counts" / f"{pair}.json", lent)
                staging.chmod(0o755)
                staging.rename(where)
            except OSError:
                if where.exists():
                    raise ConflictError(f"Found a study called {spec.name!r} that another process made.") from None
                raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return Study(where, plan)

    @staticmethod
    def open(ref: str | Path) -> Study:
        """Open a study by name or folder. Raises NotFoundError, IntegrityError."""
        path = Path(ref).absolute()
        if not (path / "plan.json").is_file():
            if str(ref) not in names():
                raise NotFoundError.named("study", str(ref), names(), "See `kartina study list`.")
            path = folder(str(ref))
        try:
            raw = json.loads((path / "plan.json").read_text())
            if isinstance(raw, dict) and raw.get("format") != FORMAT:
                raise IntegrityError(
                    f"Found study {path.name} of format {raw.get('format')}, made by kartina {raw.get('kartina', '?')};"
                    f" this version reads format {FORMAT}. Open it with the version that made it."
                )
            return Study(path, Plan.model_validate(raw))
        except (ValueError, ValidationError) as error:
            says = explain(error) if isinstance(error, ValidationError) else str(error)
            raise IntegrityError(
                f"Found study {path.name} with a plan.json that cannot be used ({says}). Restore it, or begin anew."
            ) from None

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the study for this process, and for those that inherit the file number it gives.

        Raises ConflictError when another process works on it.
        """
        with disk_errors("lock the study"), (self.path / ".lock").open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    f"Found another process at work on study {self.name}; stop that one first (Ctrl-C saves it)."
                ) from None
            yield f.fileno()

    # -- what is in it -------------------------------------------------------------------------------------------

    def read(self, *parts: str) -> Any:
        """The JSON of a file of the study; None where there is none."""
        path = self.path.joinpath(*parts)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise IntegrityError(f"Found {path} that cannot be read ({error}); delete it: it is made again.") from None

    def write(self, value: Any, *parts: str) -> None:
        """Write a JSON file of the study, whole or not at all."""
        path = self.path.joinpath(*parts)
        with disk_errors("record the study's results"):
            path.parent.mkdir(exist_ok=True)
            write_json(path, value)

    def count(self, pair: str) -> RunConfig | None:
        found = self.read("counts", f"{pair}.json")
        return None if found is None else read(RunConfig, found, f"counts/{pair}.json of study {self.name}")

    def lend(self, pair: str, config: RunConfig, budget: Budget) -> dict[str, Any]:
        """The measured config of a pair, for another study whose own would be `config` but for the images.

        Raises ConfigError where there is none, or where they differ.
        """
        found = self.count(pair)
        if found is None:
            raise ConfigError(f"Found no image count of {pair} in study {self.name}; let it measure that first.")
        entry = next(e for e, data in self.spec.pairs() if f"{e.key}--{data}" == pair)
        if compared(found) != compared(config) or entry.budget(self.spec.budget) != budget:
            raise ConfigError(
                f"Found {pair} in study {self.name} with other settings, data or budget; expected the same. Let this "
                "study measure its own counts."
            )
        return found.model_dump(mode="json")

    @contextmanager
    def claim(self, trial: Trial) -> Iterator[bool]:
        """Hold one trial for this process; False where another process has it. A process that ends lets go."""
        where = self.path / "claims"
        with disk_errors("claim a run"):
            where.mkdir(exist_ok=True)
            handle = (where / trial.id).open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def run(self, trial: Trial) -> Run | None:
        path = self.path / "runs" / trial.id
        return Run.open(path) if (path / "config.json").is_file() else None

    def point(self, trial: Trial, images: int) -> Path:
        return self.path / "points" / f"{trial.id}-{images}"

    def state(self, trial: Trial) -> str:
        """finished, failed, begun or waiting."""
        for state in ("finished", "failed"):
            if (self.path / state / f"{trial.id}.json").is_file():
                return state
        return "begun" if (self.path / "runs" / trial.id).is_dir() else "waiting"

    def states(self) -> dict[str, int]:
        """How many runs are in each state."""
        out = dict.fromkeys(("finished", "failed", "begun", "waiting"), 0)
        for trial in self.trials():
            out[self.state(trial)] += 1
        return out

    @property
    def complete(self) -> bool:
        states = self.states()
        return not states["begun"] and not states["waiting"] and not self.timed_beside()

    def timed_beside(self) -> list[Trial]:
        """The finished runs whose samplers were timed while other processes trained, and are to be timed alone."""
        found = [(trial, self.read("finished", f"{trial.id}.json")) for trial in self.trials()]
        return [trial for trial, one in found if one is not None and one["measured"].get("beside")]

    def open_data(self, name: str) -> ImageSet:
        """A data set of the study. Raises IntegrityError when the name now stands for other images."""
        found = open_set(name)
        if found.hash != self.plan.data[name].hash:
            raise IntegrityError(
                f"Found data set {name!r} with hash {found.hash[:12]}; study {self.name} began on "
                f"{self.plan.data[name].hash[:12]}. Import the original data again under that name."
            )
        return found


def folder(name: str) -> Path:
    return home() / "studies" / name


def names() -> list[str]:
    """Studies by name."""
    root = home() / "studies"
    found = [p.parent.name for p in root.glob("*/plan.json")] if root.is_dir() else []
    return sorted(name for name in found if re.fullmatch(specs.NAME, name))


def facts(data: ImageSet) -> DataFacts:
    splits = {split: stop - start for split, (start, stop) in data.bounds.items()}
    return DataFacts(hash=data.hash, classes=data.spec.classes, size=data.spec.shape, splits=splits)


def lay_out(spec: StudySpec) -> tuple[Plan, dict[str, RunConfig]]:
    """The plan of a study that begins now, and of each PAIR the config but for its images. Raises ConfigError and
    DataError for what could not be trained or measured, NotFoundError for unknown presets, data and weights."""
    check_extractor(spec.evaluation)
    sets = {name: open_set(name) for name in spec.data}
    for data in sets.values():
        check_data(spec, data)
    plan = Plan(
        kartina=kartina.__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        study=spec,
        device=loop.pick_device(spec.device),
        threads=spec.threads or loop.cores(),
        data={name: facts(data) for name, data in sets.items()},
    )
    return plan, {f"{entry.key}--{data}": check(spec, entry, data, plan) for entry, data in spec.pairs()}


def check(spec: StudySpec, entry: Entry, data: str, plan: Plan) -> RunConfig:
    """The config of an entry on a data set but for its images; raises what would go wrong later."""
    config = planned(spec, entry, data, plan, images=1)
    family = transfer.on_meta(config)
    capabilities = family.capabilities()
    if "generate" not in capabilities:
        raise ConfigError(
            f"Found {entry.name} in a study; {config.family} makes no images from labels alone, so it has no such "
            f"numbers. Compare presets that generate (kartina presets)."
        )
    read(capabilities["generate"].controls, entry.controls, f"controls of {entry.name}")
    return config


def check_data(spec: StudySpec, data: ImageSet) -> None:
    """Raise ConfigError, or DataError, for a data set on which runs could be made and not measured."""
    if len(data.spec.classes) < 2:
        raise ConfigError(
            f"Found {data.name!r} without classes; a study chooses by class agreement, which needs at least 2 of them."
        )
    if "val" not in data.bounds:
        raise ConfigError(f"Found no val split in {data.name!r}; a study selects and chooses on val. Import it again.")
    how, known = spec.evaluation, set(labels_of(data.part("train")).tolist())
    how_many(data, "val", min(how.samples, how.selection_samples or how.samples))
    held: tuple[Split, ...] = ("val", "test")
    for split in [split for split in held if split in data.bounds]:
        how_many(data, split, how.samples)
        unknown = set(labels_of(data.part(split)).tolist()) - known
        if unknown:
            names = ", ".join(data.spec.classes[label] for label in sorted(unknown))
            raise ConfigError(f"Found {names} in {split} of {data.name!r} and not in train; expected them in both.")


def check_extractor(how: Evaluation) -> None:
    """Raise ConfigError or NotFoundError where evaluations would find no extractor."""
    if how.extractor == "mobilenet" and how.weights is None:
        raise ConfigError("Found the extractor mobilenet without its file; name it: evaluation.weights = FILE.npz.")
    if how.extractor == "domain" and how.weights is not None:
        raise ConfigError("Found evaluation.weights with the domain extractor, which is trained on the data; drop it.")
    address = how.extractor == "inception" and (how.weights or "").startswith(("http://", "https://"))
    if how.weights is not None and not address and not Path(how.weights).expanduser().is_file():
        raise NotFoundError(f"Found no file {how.weights}; expected the weights of {how.extractor}.")


def planned(
    spec: StudySpec, entry: Entry, data: str, plan: Plan, images: int | None = None, budget: float | None = None
) -> RunConfig:
    """`training.loop.plan` of an entry on a data set, with the study's threads where none are set."""
    settings = spec.set(entry)
    if not any(s.startswith("threads=") for s in settings):
        settings.append(f"threads={plan.threads}")
    return loop.plan(entry.preset, data, images=images, budget=budget, settings=settings, device=plan.device)


def compared(config: RunConfig) -> dict[str, Any]:
    """What must be equal for two studies to share an image count (a time budget may leave room for fewer grids)."""
    found = config.model_dump(mode="json", exclude={"images", "budget", "kartina"})
    del found["train"]["grids"]
    return found


def same_study(study: Study, spec: StudySpec) -> None:
    """Raise ConflictError naming what differs where the file is no longer the study that was begun."""
    old, new = study.spec.model_dump(mode="json"), spec.model_dump(mode="json")
    unlike = [key for key in new if new[key] != old[key]]
    if unlike:
        raise ConflictError(
            f"Found another {', '.join(unlike)} in the file than study {study.name} began with. Its plan is fixed: "
            f"go on with it as it was (kartina study run {study.name} --resume), or give the changed one a new name.",
            details=[f"{key}: {_short(old[key])} became {_short(new[key])}" for key in unlike],
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:197] + "..."
