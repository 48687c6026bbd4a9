"""Training, evaluating and publishing as durable jobs: queued by the command line, killed, canceled and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from kartina import owners
from kartina.errors import ConfigError, NotFoundError
from kartina.handlers import jobs as handlers
from kartina.handlers.child import COMMAND
from kartina.handlers.kinds import KINDS, find
from kartina.handlers.specs import TrainJob
from kartina.handlers.study import begin
from kartina.jobs.context import Context, Interrupted
from kartina.jobs.table import Job, Jobs
from kartina.jobs.worker import Worker
from kartina.models import package
from kartina.models.model import save
from kartina.training import checkpoint
from kartina.training.folder import names
from kartina.training.loop import train
from kartina.training.run import Run
from tests import tiny
from tests.cli.conftest import Cli, cli  # noqa: F401  a fixture
from tests.engine import CARD, PROVENANCE
from tests.study import tiny_study
from tests.waiting import wait

TINY = ("width=8", "width_max=8", "threads=1", "batch=8", "grids=0", "precision=fp32", "checkpoint_every=0.2")
SPEC: dict[str, Any] = {"preset": "vae-32-cpu", "data": "blobs", "images": 200, "settings": list(TINY)}
SET = [word for pair in TINY for word in ("--set", pair)]


@pytest.fixture
def jobs(home: Path) -> Jobs:
    tiny.store(tiny.images(shape=tiny.spec(32)), home)
    return Jobs.open()


def claimed(jobs: Jobs, seconds: float = 600) -> tuple[Job, Context]:
    """The next attempt, in this process."""
    job = jobs.claim("here", seconds)
    assert job is not None
    return job, Context(jobs, job, job.lease)


def weights(run: str) -> dict[str, torch.Tensor]:
    return checkpoint.read(Run.open(run).checkpoint()).tensors["model"]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_data_set_of_the_same_name_that_is_anothers_is_not_there(jobs: Jobs, home: Path, kind: str) -> None:
    """The one that was meant was deleted since the job was asked for."""
    owners.write(home / "data" / "blobs", "key_b")
    for caller in ("key_a", "key_b"):
        spec = SPEC if kind == "train" else {"model": "toy", "data": "blobs"}
        jobs.submit(kind, spec, caller=caller)
        job, context = claimed(jobs)
        says = "data set" if caller == "key_a" else "model" if kind == "evaluate" else ""
        if says:
            with pytest.raises(NotFoundError, match=f"Found no {says}"):
                find(kind)(context, job.spec)
        else:
            assert handlers.train(context, job.spec)["images"] == 200


def test_every_kind_has_a_handler() -> None:
    assert {"train", "evaluate", "publish"} <= set(KINDS)
    assert all(callable(find(kind)) for kind in KINDS)
    with pytest.raises(NotFoundError, match="Did you mean 'train'"):
        find("trian")


def test_what_a_training_job_may_be_asked() -> None:
    assert TrainJob(run="1").run == "1"
    for wrong in ({}, {"preset": "p"}, {"preset": "p", "data": "d"}, {"preset": "p", "data": "d", "run": "1"},
                  {"preset": "p", "data": "d", "budget": 60, "images": 9}, {"run": "1", "colour": "red"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected preset, data|Extra inputs"):
            TrainJob.model_validate(wrong)


def test_a_teacher_of_other_images_is_told_of(jobs: Jobs, cli: Cli) -> None:  # noqa: F811
    """When it is queued, and in the job's log."""
    flow = tiny.sampler("flow", shape=tiny.spec(32), widths=(8, 16), attention=(1,), blocks=1)
    save(flow, "teacher", PROVENANCE, CARD)
    more = ["widths=[8,16]", "attention=[1]", "batch=4", "threads=1", "grids=0"]
    words = [word for one in more for word in ("--set", one)]
    said = cli("train", "meanflow-distil-32-cpu", "--data", "blobs", "--images", 4, "--teacher", "teacher", *words,
               "--detach")  # fmt: skip
    assert said.code == 0 and "teacher@1 learnt from other images" in said.err
    assert cli("jobs", "work", "--until-idle").code == 0
    logged = [event.data for event in jobs.events(1) if event.event == "log"]
    assert any("teacher@1 learnt from other images" in one["text"] and one["level"] == "warning" for one in logged)


def test_train_and_evaluate_detached(jobs: Jobs, cli: Cli) -> None:  # noqa: F811
    """--detach queues; a worker's child does the work; list, show and follow tell of it."""
    said = cli("train", "vae-32-cpu", "--data", "blobs", "--images", 200, *SET, "--detach")
    assert said.code == 0 and "Queued job 1" in said.out and "kartina jobs follow 1" in said.out
    queued = cli("jobs", "show", 1, "--json").json
    assert (queued["status"], queued["queue_position"], queued["kind"]) == ("queued", 1, "train")
    assert not names()
    assert cli("jobs", "work", "--until-idle").code == 0

    shown = cli("jobs", "show", 1, "--json").json
    assert shown["status"] == "succeeded" and shown["progress"]["value"] == 1 and shown["metrics"]["execution_ms"] > 0
    assert shown["result"]["status"] == "finished" and shown["result"]["images"] == 200
    (run,) = names()
    assert shown["result"]["run"] == run == shown["saved"]["run"] and Run.open(run).status()["status"] == "finished"

    queued = cli("evaluate", run, "--seeds", 2, "--samples", 20, "--detach", "--json").json
    assert queued["id"] == 2 and queued["status"] == "queued"
    resumed = cli("train", "--resume", 1, "--detach", "--json").json
    assert resumed["spec"] == {"run": run} and "canceled" in cli("jobs", "cancel", 3).out
    assert queued["spec"]["seeds"] == [0, 1] and "canceled" in cli("jobs", "cancel", 2).out

    listed = cli("jobs", "list")
    assert listed.code == 0 and "evaluate" in listed.out and "succeeded" in listed.out
    assert [job["id"] for job in cli("jobs", "list", "--json").json] == [3, 2, 1]
    assert cli("jobs", "list", "--status", "failed", "--json").json == []
    followed = cli("jobs", "follow", 1)
    assert followed.code == 0 and followed.out.splitlines()[0] == "queued"
    assert f"run {run}" in followed.out and followed.out.splitlines()[-1] == "succeeded"
    events = [json.loads(line) for line in cli("jobs", "follow", 1, "--json").out.splitlines()]
    assert [e["data"]["status"] for e in events if e["event"] == "status"] == ["queued", "running", "succeeded"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "vae-33", "--data", "blobs", "--images", 9], "no preset called 'vae-33'"),
        (["train", "vae-32-cpu", "--data", "blob", "--images", 9], "Did you mean 'blobs'"),
        (["train", "vae-32-cpu", "--data", "blobs", "--images", 9, "--set", "widht=3"], "no key called 'widht'"),
        (["train", "vae-32-cpu", "--data", "blobs", "--budget", "9 years"], "Found the budget"),
        (["train", "--resume", "7"], "no run called '7'"),
        (["evaluate", "nothing"], "no model or run called 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_queued(jobs: Jobs, cli: Cli, words: list[Any], says: str) -> None:  # noqa: F811
    said = cli(*words, "--detach")
    assert said.code == 2 and says in " ".join(said.err.split())
    assert jobs.recent() == []


def test_unknown_jobs_and_states_are_said_in_words(jobs: Jobs, cli: Cli) -> None:  # noqa: F811
    for verb in ("show", "follow", "cancel", "resume"):
        said = cli("jobs", verb, 9)
        assert said.code == 2 and "Found no job 9" in said.err
    assert "expected queued, running" in cli("jobs", "list", "--status", "done").err
    id = jobs.submit("train", {"preset": "vae-32-cpu"}).id
    assert cli("jobs", "work", "--until-idle", "--slots", 2).code == 0
    said = cli("jobs", "follow", id)
    assert said.code == 1 and "expected preset, data" in said.out, "a failed job is an exit code"
    assert "failed" in cli("jobs", "show", id).out
    assert cli("jobs", "resume", id, "--json").json["status"] == "queued"
    assert "canceled" in cli("jobs", "cancel", id).out


def test_verbs_that_need_no_database_load_none() -> None:
    code = "import sys, kartina.cli; kartina.cli._register(); print(*{'sqlalchemy', 'torch'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.slow
def test_a_killed_training_is_one_run_and_equal_bit_for_bit(jobs: Jobs) -> None:
    """kill -9 of the child once its run has a checkpoint; the next attempt goes on there."""
    spec = {**SPEC, "images": 1600}
    jobs.submit("train", spec)
    job, context = claimed(jobs)
    whole = handlers.train(context, spec)["run"]
    jobs.succeed(job.lease, {})
    broken = jobs.submit("train", spec).id
    worker = Worker(jobs, COMMAND, poll=0.05)
    thread = threading.Thread(target=worker.run, kwargs={"until_idle": True})
    thread.start()
    wait(lambda: jobs.get(broken).saved)
    run = Run.open(jobs.get(broken).saved["run"])
    wait(lambda: run.status()["images"] > 0)
    assert not jobs.get(broken).finished, "make the training longer"
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # an earlier child that has ended, and waits to be collected
            if "kartina.handlers.child" in child.cmdline():
                child.kill()
    thread.join()
    ended = jobs.get(broken)
    assert (ended.status, ended.attempt, len(names())) == ("succeeded", 2, 2)
    a, b = weights(whole), weights(ended.saved["run"])
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_kill_between_the_run_and_its_record_makes_no_second_run(jobs: Jobs) -> None:
    jobs.submit("train", SPEC)
    job, context = claimed(jobs, -1)
    made = handlers._new_run(context, TrainJob.model_validate(SPEC))  # and dies here
    job, context = claimed(jobs)
    assert job.attempt == 2 and job.saved == {}
    assert handlers.train(context, SPEC)["run"] == made.id and names() == [made.id]
    other = jobs.submit("train", SPEC)
    jobs.succeed(job.lease, {})
    _, context = claimed(jobs)
    assert context.id == other.id
    assert handlers.train(context, SPEC)["run"] != made.id, "another job has a run of its own"


@pytest.mark.slow
def test_a_canceled_training_pauses_and_can_be_resumed(jobs: Jobs, cli: Cli) -> None:  # noqa: F811
    id = jobs.submit("train", {**SPEC, "images": 10**7}).id
    process = subprocess.Popen([sys.executable, "-m", "kartina.cli", "jobs", "work"])
    try:
        wait(lambda: jobs.get(id).progress.step)
        assert "canceling" in cli("jobs", "cancel", id).out
        wait(lambda: jobs.get(id).finished)
        run = Run.open(jobs.get(id).saved["run"])
        images = run.status()["images"]
        assert jobs.get(id).status == "canceled" and run.status()["status"] == "paused" and images > 0
        assert "queued" in cli("jobs", "resume", id).out
        wait(lambda: run.status()["images"] > images)
        process.send_signal(signal.SIGTERM)  # and the worker gives it back
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    job = jobs.get(id)
    assert (job.status, job.attempt, job.saved) == ("queued", 2, {"run": run.id})
    assert run.status()["status"] == "paused" and names() == [run.id]


def test_a_publication_killed_before_its_commit_is_found_again(jobs: Jobs) -> None:
    jobs.submit("train", SPEC)
    job, context = claimed(jobs)
    run = handlers.train(context, SPEC)["run"]
    jobs.succeed(job.lease, {})
    spec = {"run": run, "name": "blobs", "evaluate": False, "device": "cpu"}

    first = jobs.submit("publish", spec)
    _, context = claimed(jobs, -1)
    made = handlers.publish(context, spec)  # and dies here
    again, context = claimed(jobs)
    assert again.id == first.id and again.saved == {"before": 1}
    assert handlers.publish(context, spec) == made == {"model": "blobs@1", "hash": made["hash"]}
    assert [str(p) for p in package.list_packages() if not p.bundled] == ["blobs@1"]
    jobs.succeed(again.lease, made)

    jobs.submit("publish", spec)
    _, context = claimed(jobs)
    assert handlers.publish(context, spec)["model"] == "blobs@2", "another job makes another version"


def test_evaluating_tells_numbers_and_stops_when_it_is_asked_to(
    jobs: Jobs, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
    run = tiny.run("vae", home, n=8)
    train(run)
    spec = {"model": run.id, "samples": 10, "seeds": [0, 1], "device": "cpu"}
    jobs.submit("evaluate", spec)
    job, context = claimed(jobs)
    found = handlers.evaluate(context, spec)
    assert found["model"] == run.id and 0 <= found["metrics"]["class_agreement"]["value"] <= 1
    assert jobs.get(job.id).progress.text, "it said how far it was"
    assert jobs.succeed(job.lease, found) and jobs.get(job.id).result == json.loads(json.dumps(found))
    context.interrupt()
    with pytest.raises(Interrupted):
        handlers.evaluate(context, spec)


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_interrupted(jobs: Jobs, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
    tiny_study.store(home)
    study = begin(tiny_study.write(home / "study.toml"))
    spec = {"study": study.name}
    jobs.submit("study", spec)
    _, context = claimed(jobs, -1)
    context.interrupt()
    with pytest.raises(Interrupted):
        handlers.study(context, spec)
    assert not study.complete
    job, context = claimed(jobs)
    found = handlers.study(context, spec)
    assert found == {"study": "blobs", "runs": study.states()} and study.complete
    assert jobs.get(job.id).progress.steps == 4


def test_a_wrong_spec_is_refused_in_words(jobs: Jobs) -> None:
    jobs.submit("evaluate", {})
    _, context = claimed(jobs)
    with pytest.raises(ConfigError, match=r"an evaluation job that cannot be used: model: field required"):
        handlers.evaluate(context, {})
