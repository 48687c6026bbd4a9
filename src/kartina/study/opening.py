"""The test split: opened once, after every run has ended and the choice is written down.

choice.json is written before the first test image is looked at, so that test has no say in it; test/opened.json records
when that was. A report that is made again reads the numbers that are there.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import torch

import kartina
from kartina.errors import ConflictError
from kartina.study.folder import Study
from kartina.study.results import verdicts
from kartina.study.spec import TEST
from kartina.study.trials import Evaluate, Report, load_point


def choice(study: Study) -> dict[str, Any]:
    """The verdict for each data set, fixed when it is first asked for.

    Raises ConflictError while runs are still to be made.
    """
    found: dict[str, Any] | None = study.read("choice.json")
    if found is not None:
        return found
    if not study.complete:
        left = study.states()
        raise ConflictError(
            f"Found {left['begun'] + left['waiting']} runs of study {study.name} that have not ended, and "
            f"{len(study.timed_beside())} whose samplers are to be timed alone: kartina study run {study.name} --resume"
        )
    made = {name: verdict.json_shape() for name, verdict in verdicts(study).items()}
    study.write(made, "choice.json")
    return made


def open_test(study: Study, evaluate: Evaluate, progress: Report | None = None) -> bool:
    """Score every finished run on test, each once; False where no data set has such a split.

    Raises ConflictError while runs are still to be made.
    """
    choice(study)
    trials = [
        trial
        for trial in study.trials()
        if "test" in study.plan.data[trial.data].splits and study.state(trial) == "finished"
    ]
    if not trials:
        return False
    with study.lock():
        if study.read("test", "opened.json") is None:
            study.write(
                {"kartina": kartina.__version__, "seeds": list(study.spec.evaluation.seeds(TEST)),
                 "measured": {"at": datetime.now(UTC).isoformat(timespec="seconds")}},
                "test", "opened.json",
            )  # fmt: skip
        torch.set_num_threads(study.plan.threads)
        for k, trial in enumerate(trials):
            if study.read("test", f"{trial.id}.json") is not None:
                continue

            def tell(share: float, what: str, k: int = k, name: str = trial.id) -> None:
                if progress is not None:
                    progress((k + share) / len(trials), f"test, {name}: {what}")

            model, _ = load_point(study, trial, study.read("finished", f"{trial.id}.json")["selected"])
            begun = time.perf_counter()
            found = evaluate(
                model, study.open_data(trial.data), "test", study.spec.evaluation.seeds(TEST),
                study.spec.evaluation.samples, tell,
            )  # fmt: skip
            seconds = round(time.perf_counter() - begun, 3)
            study.write({**found, "measured": {"seconds": seconds}}, "test", f"{trial.id}.json")
    return True
