"""A study runs, fails, is killed and goes on; its test split is opened once; the median run is published."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from kartina import registry
from kartina.config import Preset
from kartina.errors import ConfigError, ConflictError, InputError, IntegrityError, NotFoundError
from kartina.generators.base import At, Batch, Loss, generate
from kartina.generators.vae import VAE
from kartina.handlers.study import begin, evaluator, publish, run, write_report
from kartina.models import package
from kartina.models.model import load
from kartina.study import results, spec
from kartina.study.folder import Study
from kartina.study.trials import count, points, select, work
from kartina.training import checkpoint
from kartina.training.loop import Trainer
from kartina.training.run import Run
from tests import tiny
from tests.study import tiny_study

ROOT = Path(__file__).resolve().parents[2]


def content(study: Study) -> dict[str, bytes]:
    """The weights that were evaluated and those that each run ended with, and every number but for measured parts."""
    found: dict[str, bytes] = {}
    last = [sorted(run.glob("checkpoints/*"))[-1] for run in (study.path / "runs").iterdir()]
    for path in (p for folder in (study.path / "points", *last) for p in sorted(folder.rglob("*.safetensors"))):
        found[str(path.relative_to(study.path))] = path.read_bytes()
    for folder in ("evaluations", "finished", "failed", "counts"):
        for path in sorted((study.path / folder).glob("*.json")):
            text = json.dumps(results.timeless(json.loads(path.read_text())), sort_keys=True)
            found[str(path.relative_to(study.path))] = text.encode()
    return found


# -- running ---------------------------------------------------------------------------------------------------------


def test_every_run_has_its_evaluations_and_ends(finished: Path) -> None:
    study = Study.open("blobs")
    assert study.complete and study.states() == {"finished": 4, "failed": 0, "begun": 0, "waiting": 0}
    for trial in study.trials():
        names = sorted(p.name for p in (study.path / "evaluations").glob(f"{trial.id}-*.json"))
        assert names == [f"{trial.id}-192.json", f"{trial.id}-384.json"]
        found = study.read("finished", f"{trial.id}.json")
        values = {int(n): v for n, v in found["values"].items()}
        assert found["selected"] == min(values, key=values.__getitem__) and set(values) == {192, 384}
        # Selected with one seed, scored with two others; the point that was selected is kept, alone.
        first = study.read("evaluations", f"{trial.id}-{found['selected']}.json")
        assert first["metrics"]["kid"]["identity"]["seeds"] == [100]
        assert found["metrics"]["kid"]["identity"]["seeds"] == [200, 201]
        assert [p.name for p in (study.path / "points").glob(f"{trial.id}-*")] == [f"{trial.id}-{found['selected']}"]
        assert found["measured"]["ms"] > 0 and found["measured"]["peak_memory"] > 10**7 and found["gflop"] > 0
        assert study.run(trial) is not None and study.run(trial).status()["images"] == 384  # type: ignore[union-attr]
    seeds = {t.seed: study.run(t).config for t in study.trials() if t.entry.key == "vae-32-cpu"}  # type: ignore[union-attr]
    assert seeds[0].train.seed == 0 and seeds[1].train.seed == 1
    assert seeds[1] == seeds[0].model_copy(update={"train": seeds[0].train.model_copy(update={"seed": 1})})


def test_points_are_the_runs_own_weights(finished: Path) -> None:
    study = Study.open("blobs")
    trial = study.trials()[0]
    selected = study.read("finished", f"{trial.id}.json")["selected"]
    point = Run.open(study.point(trial, selected))
    tensors = checkpoint.read(point.checkpoint()).tensors
    assert set(tensors) == {"ema"}
    whole = study.run(trial)
    assert whole is not None
    there = checkpoint.read(whole.path / "checkpoints" / f"{selected:012d}").tensors["ema"]
    assert all(torch.equal(v, there[k]) for k, v in tensors["ema"].items())


def test_a_run_that_was_trained_outside_its_study_is_said(finished: Path) -> None:
    study = Study.open("blobs")
    trial = study.trials()[0]
    for path in [study.path / "finished" / f"{trial.id}.json", *(study.path / "evaluations").glob(f"{trial.id}-*")]:
        path.unlink()
    with pytest.raises(IntegrityError, match="384 images, past its evaluation at 192"):
        run("blobs", resume=True)


def test_what_a_kill_left_is_removed(finished: Path) -> None:
    study = Study.open("blobs")
    trial = study.trials()[0]
    shutil.copytree(study.point(trial, study.read("finished", f"{trial.id}.json")["selected"]), study.point(trial, 7))
    (study.path / "points" / ".new-x").mkdir()
    (study.path / "finished" / ".x.json.99").write_text("{")
    run("blobs", resume=True)
    assert not study.point(trial, 7).exists() and not list(study.path.glob("*/.*"))


def test_resuming_a_finished_study_changes_nothing(finished: Path) -> None:
    study = Study.open("blobs")
    before = {p: p.stat().st_mtime_ns for p in study.path.rglob("*") if p.name != ".lock"}
    assert run("blobs", resume=True)[1] == "finished"
    assert run(finished / "study.toml", resume=True)[1] == "finished"
    assert before == {p: p.stat().st_mtime_ns for p in study.path.rglob("*") if p.name != ".lock"}
    with pytest.raises(ConflictError, match="already"):
        run(finished / "study.toml")
    with pytest.raises(NotFoundError, match="no file"):
        run("nothing.toml")


@pytest.mark.slow
def test_what_was_timed_beside_other_trainings_is_timed_alone_before_anything_is_chosen(finished: Path) -> None:
    study = Study.open("blobs")
    first, second = study.trials()[:2]
    before = study.read("finished", f"{second.id}.json")
    found = study.read("finished", f"{first.id}.json")
    found["measured"] |= {"ms": 1e9, "ms_batch": 1e9, "beside": True}
    study.write(found, "finished", f"{first.id}.json")
    assert not study.complete and study.timed_beside() == [first]
    with pytest.raises(ConflictError, match="1 whose samplers are to be timed alone"):
        publish("blobs")
    assert run("blobs", resume=True)[1] == "finished" and study.complete
    timed = study.read("finished", f"{first.id}.json")
    assert timed["measured"]["ms"] < 1e9 > timed["measured"]["ms_batch"] and timed["measured"]["beside"] is False
    assert results.timeless(timed) == results.timeless(found)
    assert study.read("finished", f"{second.id}.json") == before


@pytest.mark.slow
def test_image_counts_are_measured_once_and_can_be_lent(blobs: Path) -> None:
    text = tiny_study.TEXT.replace("images = 384", "minutes = 0.02").replace("seeds = [0, 1]", "seeds = [3, 4]")
    text = text.replace("checkpoints = 2", "checkpoints = 1")
    study, _ = run(tiny_study.write(blobs / "a.toml", text))
    for entry, data in study.spec.pairs():
        counts = {study.run(t).config.images for t in study.of(entry, data)}  # type: ignore[union-attr]
        found = study.count(f"{entry.key}--{data}")
        assert found is not None and counts == {found.images} and found.budget == pytest.approx(1.2)
    other = text.replace('"blobs"', '"again"', 1)
    again = Study.create(spec.parse(other), other, study)
    assert {p.name: p.read_text() for p in (again.path / "counts").iterdir()} == {
        p.name: p.read_text() for p in (study.path / "counts").iterdir()
    }
    narrow = "width = 8, width_max = 8}\n\n[[presets]]"
    for name, old, new in (
        ("wider", narrow, narrow.replace("8", "16")),
        ("longer", "minutes = 0.02", "minutes = 0.03"),
    ):
        text = other.replace('"again"', f'"{name}"').replace(old, new)
        assert text.count(new) == 1
        with pytest.raises(ConfigError, match="other settings, data or budget"):
            run(tiny_study.write(blobs / "other.toml", text), counts_of="blobs")
        assert not (blobs / "studies" / name).exists()


def test_counts_are_lent_only_to_a_study_that_was_not_begun(blobs: Path) -> None:
    begin(tiny_study.write(blobs / "a.toml"))
    second = tiny_study.write(blobs / "b.toml", tiny_study.TEXT.replace('"blobs"', '"second"', 1))
    with pytest.raises(ConfigError, match="no image count of"):  # it was not begun: the counts are looked for
        begin(second, resume=True, counts_of="blobs")
    begin(second)
    for source in (second, "second"):
        with pytest.raises(ConfigError, match="--counts-of for a study that was begun"):
            begin(source, resume=True, counts_of="blobs")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """A VAE whose loss is NaN from the 15th step on: after its first evaluation."""

    class Poisoned(VAE):
        presets: ClassVar = {"poisoned-32": Preset(32, "a VAE that fails")}

        def loss(self, phase: str, batch: Batch, at: At) -> Loss:
            found = super().loss(phase, batch, at)
            return found if at.step < 15 else Loss(found.total * float("nan"))

    registry.register("poisoned")(Poisoned)
    yield
    registry.unregister("poisoned")


def test_what_fails_while_it_is_timed_has_failed_and_the_others_are_timed(
    blobs: Path, poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_study.TEXT.replace("images = 384", "minutes = 0.02") + tiny_study.LOST
    study = Study.create(spec.parse(text), text)

    def fails(self: Trainer) -> None:
        if self.config.preset == "poisoned-32":
            raise ConfigError("Found too little memory.")
        step(self)

    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", fails)
    count(study, evaluator(study))
    assert study.states() == {"finished": 0, "failed": 1, "begun": 0, "waiting": 5}
    assert "too little memory" in study.read("failed", "wild--blobs--seed0.json")["error"]
    assert len(list((study.path / "counts").iterdir())) == 2


def test_a_run_that_fails_is_recorded_with_its_cost_and_the_others_go_on(blobs: Path, poisoned: None) -> None:
    text = tiny_study.TEXT.replace("seeds = [0, 1]", "seeds = [0]") + tiny_study.LOST
    study, result = run(tiny_study.write(blobs / "study.toml", text))
    assert result == "finished" and study.states() == {"finished": 2, "failed": 1, "begun": 0, "waiting": 0}
    failed = study.read("failed", "wild--blobs--seed0.json")
    assert failed["kind"] == "diverged" and "expected a finite number" in failed["error"]
    assert failed["measured"]["trained"] > 0 and failed["images"] == 192
    report = write_report("blobs", test=False)
    found = json.loads(Path(report["files"]["report.json"]).read_text())
    (row,) = found["failed"]
    assert row["label"] == "wild" and row["seed"] == 0 and row["measured"]["trained"] > 0
    verdict = report["verdicts"]["blobs"]
    failing = [c["name"] for c in verdict["conditions"]["wild"] if not c["holds"]]
    assert "failed" in failing and verdict["winner"] != "wild"
    assert "wild" in Path(report["files"]["index.html"]).read_text().split("Failed runs")[1]
    assert run("blobs", resume=True)[1] == "finished", "a failed run is not tried again"


def test_too_few_images_for_the_evaluations(blobs: Path) -> None:
    config = tiny.run_config("vae", tiny_study.blobs(), n=20)
    assert points(config, (0.5, 1.0)) == [16, 24]
    with pytest.raises(ConfigError, match="at least 64"):
        points(config, (0.125, 0.25, 0.5, 1.0))


def test_selecting() -> None:
    assert select({8: 2.0, 16: 1.0, 32: 1.5}) == 16
    assert select({8: 1.0, 16: 1.0}) == 16, "of equals the later"
    assert select({8: None, 16: float("nan")}) == 16
    assert select({8: 0.5, 16: None}) == 8


# -- stopping and killing --------------------------------------------------------------------------------------------


def command(home: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "KARTINA_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "kartina.cli", "study", "run", *words], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def files(home: Path) -> int:
    """JSON files of its studies; folders come and go meanwhile, which os.walk does not mind."""
    return sum(name.endswith(".json") for _, _, names in os.walk(home / "studies") for name in names)


@pytest.mark.slow
def test_killed_three_times_and_resumed_equals_undisturbed(whole: Path, blobs: Path) -> None:
    """At three moments that differ each time the test runs: some files further, and a little later."""
    rng = np.random.default_rng()
    toml = str(tiny_study.write(blobs / "study.toml"))
    moments = []
    for _ in range(3):
        process = command(blobs, toml, "--resume")
        wanted = files(blobs) + int(rng.integers(1, 8))
        deadline = time.monotonic() + 200
        while process.poll() is None and files(blobs) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        delay = float(rng.uniform(0, 0.3))
        time.sleep(delay)
        moments.append((wanted, round(delay, 3)))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    process = command(blobs, toml, "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, (moments, err)

    disturbed = Study.open("blobs")
    os.environ["KARTINA_HOME"] = str(whole)  # put back by the fixture
    undisturbed = Study.open("blobs")
    a, b = content(undisturbed), content(disturbed)
    assert a.keys() == b.keys() and len(a) > 20, moments
    assert [k for k in a if a[k] != b[k]] == [], moments
    one, two = (results.timeless(results.gather(s)) for s in (undisturbed, disturbed))
    assert one == two, moments
    assert not [p for p in disturbed.path.rglob("*") if ".new-" in p.name or ".tmp-" in p.name]


def test_ctrl_c_saves_and_resume_goes_on(blobs: Path) -> None:
    text = tiny_study.TEXT.replace("images = 384", "images = 400_000")
    toml = str(tiny_study.write(blobs / "study.toml", text))
    process = command(blobs, toml)
    runs = blobs / "studies" / "blobs" / "runs"
    while process.poll() is None and not any("stats.jsonl" in names for _, _, names in os.walk(runs)):
        time.sleep(0.05)
    time.sleep(1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 0 and time.monotonic() - begun < 60, err
    assert "Paused blobs: 0 of 4 runs finished" in out and "kartina study run blobs --resume" in out
    study = Study.open("blobs")
    assert study.states() == {"finished": 0, "failed": 0, "begun": 1, "waiting": 3}
    (path,) = runs.iterdir()
    found = Run.open(path)
    assert found.status()["status"] == "paused" and int(found.checkpoint().name) == found.status()["images"] > 0


def test_two_processes_cannot_work_on_one_study(finished: Path) -> None:
    study = Study.open("blobs")
    (study.path / "finished" / f"{study.trials()[0].id}.json").unlink()
    with study.lock(), pytest.raises(ConflictError, match="another process"):
        run("blobs", resume=True)


@pytest.mark.slow
def test_stopping_during_an_evaluation_writes_nothing_of_it(blobs: Path) -> None:
    asked = False

    def watch(p: Any) -> None:
        nonlocal asked
        asked = asked or "evaluating" in p.what

    study, result = run(tiny_study.write(blobs / "study.toml"), watch=watch, stop=lambda: asked)
    assert result == "paused" and not (study.path / "evaluations").exists()
    asked = False
    again, result = run("blobs", resume=True, watch=watch, stop=lambda: False)
    assert result == "finished" and again.complete


# -- the report ------------------------------------------------------------------------------------------------------


def test_the_test_split_is_opened_once_after_the_choice(finished: Path) -> None:
    study = Study.open("blobs")
    first = write_report("blobs", test=False)
    assert first["test"] is False and not (study.path / "test").exists() and study.read("choice.json") is not None
    opened = write_report("blobs")
    assert opened["test"] is True
    record = study.read("test", "opened.json")
    assert record["seeds"] == [300, 301] and record["measured"]["at"]
    numbers = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (study.path / "test").iterdir()}
    assert len(numbers) == 5
    found = json.loads(Path(opened["files"]["report.json"]).read_text())
    identity = found["data"][0]["entries"][0]["test"]["kid"]["identity"]
    assert identity["split"] == "test" and identity["seeds"] == [300, 301]
    # A kill in the middle of it: what is missing is made, what is there is not made again.
    lost = study.path / "test" / f"{study.trials()[2].id}.json"
    before = results.timeless(json.loads(lost.read_text()))
    lost.unlink()
    write_report("blobs")
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (study.path / "test").iterdir()}
    assert {n for n in numbers if numbers[n] != after[n]} <= {lost.name}
    assert results.timeless(json.loads(lost.read_text())) == before


def test_the_choice_is_not_made_again(finished: Path) -> None:
    study = Study.open("blobs")
    chosen = write_report("blobs", test=False)["verdicts"]
    other = {"blobs": {**chosen["blobs"], "reason": "as it was written down"}}
    study.write(other, "choice.json")
    report = write_report("blobs", test=False)
    assert report["verdicts"] == other
    assert json.loads(Path(report["files"]["report.json"]).read_text())["data"][0]["verdict"] == other["blobs"]


def test_test_stays_closed_while_runs_are_to_be_made(finished: Path) -> None:
    study = Study.open("blobs")
    (study.path / "finished" / f"{study.trials()[-1].id}.json").unlink()
    found = write_report("blobs")
    assert found["complete"] is False and found["test"] is False and not (study.path / "test").exists()
    assert "preliminary" in Path(found["files"]["index.html"]).read_text()
    with pytest.raises(ConflictError, match="have not ended"):
        publish("blobs")


class Page(HTMLParser):
    """What a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster")]
        assert not [k for k, _ in attrs if k.startswith("on")], "an event handler is a script"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_no_network_and_no_script(reported: Path, opened: Path, tmp_path: Path) -> None:
    found = write_report("blobs", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"index.html", "report.json", "report.csv"}
    text = Path(found["files"]["index.html"]).read_text()
    page = Page()
    page.feed(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert page.references and all(r.startswith(("data:image/png;base64,", "#")) for r in page.references)
    assert not re.findall(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert page.tags.count("svg") == 6 and page.tags.count("img") == 5
    # Labels are shown as they are, and never as markup.
    assert "small" not in [t for t in page.tags if t == "dcgan"] and "DCGAN &lt;small&gt;" in text
    shown = "".join(page.text)
    for words in ("DCGAN <small>", "real images (floor)", "training copies (control)", "Failed runs", "Make it again",
                  "kartina study run", "On test, opened once", "What it cost"):  # fmt: skip
        assert words in shown, words
    assert str(opened) not in text and str(reported) not in text, "no path of this machine"


def test_json_and_csv_say_the_same(opened: Path) -> None:
    files = write_report("blobs")["files"]
    found = json.loads(Path(files["report.json"]).read_text())
    lines = list(csv.DictReader(Path(files["report.csv"]).read_text().splitlines()))
    (data,) = found["data"]
    values = {(r["label"], r["split"], r["metric"]): float(r["value"]) for r in lines if r["row"] == "entry"}
    for entry in data["entries"]:
        for split in ("val", "test"):
            assert set(entry[split]) == set(found["study"]["evaluation"]["metrics"])
            for key, one in entry[split].items():
                assert values[entry["label"], split, key] == one["value"]
                assert np.mean(one["runs"]) == pytest.approx(one["value"])
    controls = {r["metric"] for r in lines if r["row"] == "control" and r["split"] == "test"}
    assert controls == set(data["control"]["training copies"])
    copies = data["control"]["training copies"]
    assert copies["memorisation"] == 1.0 and copies["kid"] < min(e["val"]["kid"]["value"] for e in data["entries"])
    order = [entry["val"]["kid"]["value"] for entry in data["entries"]]
    assert order == sorted(order)
    worst = [results.worst(row) for row in data["entries"][0]["per_class"]]
    assert worst == sorted(worst) and len(worst) == 3


@pytest.mark.parametrize("split", ["val", "test"])
def test_unlike_numbers_are_refused(opened: Path, split: str) -> None:
    """Of both runs of one entry, so that it is the entries that differ."""
    study = Study.open("blobs")
    where = "finished" if split == "val" else "test"
    for trial in study.of(study.spec.presets[1], "blobs"):
        found = study.read(where, f"{trial.id}.json")
        for one in found["metrics"].values():
            one["identity"]["extractor_hash"] = "another"
        study.write(found, where, f"{trial.id}.json")
    with pytest.raises(InputError, match=r"vae-32-cpu and of DCGAN <small> .*not made alike.*extractor_hash"):
        write_report("blobs", test=False)


# -- publishing ------------------------------------------------------------------------------------------------------


def test_the_median_run_is_published_with_its_card(finished: Path) -> None:
    study = Study.open("blobs")
    (made,) = publish("blobs", licence="CC0-1.0")
    verdict = study.read("choice.json")["blobs"]
    trial = study.trial(verdict["winner"], "blobs", verdict["seed"])
    both = [(t.seed, study.read("finished", f"{t.id}.json")) for t in study.of(trial.entry, "blobs")]
    finals = {seed: found["metrics"]["kid"]["value"] for seed, found in both}
    assert finals[trial.seed] == min(finals.values()), "of two, the lower"
    assert made["new"] and made["seed"] == trial.seed and made["label"] == trial.entry.name
    where = package.find(made["ref"])
    card, manifest = package.read_card(where.path), package.read_manifest(where.path)
    assert card["study"]["name"] == "blobs" and card["study"]["reason"] == verdict["reason"]
    assert card["metrics"]["coverage"]["identity"]["split"] == "val" and card["licence"] == "CC0-1.0"
    assert manifest.provenance.seed == trial.seed and manifest.provenance.images == made["images"]

    # Its weights are those of the point, rounded to half precision; and the entry's controls are its defaults.
    point = Run.open(study.point(trial, made["images"])).ema()
    model = load(where)
    for (name, a), b in zip(point.state_dict().items(), model.family.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4), name
    defaults = model.controls().model_dump()
    assert all(defaults[k] == v for k, v in trial.entry.controls.items())
    assert generate(model.family, model.rows([0], 1, 0)).images.shape == (1, 1, 32, 32)

    (again,) = publish("blobs")
    assert again["ref"] == made["ref"] and not again["new"], "not twice"
    (study.path / "published.json").unlink()
    (after,) = publish("blobs")
    assert after["ref"] == made["ref"] and study.read("published.json") is not None, "nor after a kill before that"
    (named,) = publish("blobs", name="mine")
    assert named["ref"] == "mine@1"


def test_what_cannot_be_published_is_said(finished: Path) -> None:
    plan = Study.open("blobs").path / "plan.json"
    plan.write_text(plan.read_text().replace('"latency_ms": null', '"latency_ms": 0.000001'))
    with pytest.raises(ConfigError, match="nothing qualifies") as error:
        publish("blobs")
    assert error.value.details[0].startswith("blobs: Nothing qualifies.") and "latency" in error.value.details[0]
    with pytest.raises(NotFoundError, match="data set called 'blob'"):
        publish("blobs", data="blob")
    assert "Nothing qualifies" in Path(write_report("blobs", test=False)["files"]["index.html"]).read_text()


# -- side by side ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_workers_killed_and_gone_on_with_equal_one_process(whole: Path, blobs: Path) -> None:
    """The processes share the runs out; kill -9 of the first process ends them all, and the study can go on."""
    toml = str(tiny_study.write(blobs / "study.toml"))
    process = command(blobs, toml, "--resume", "--workers", "3")
    deadline = time.monotonic() + 200
    while process.poll() is None and files(blobs) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # it alone
    process.communicate(timeout=60)  # its workers hold the pipes until they have ended
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"

    process = command(blobs, toml, "--resume", "--workers", "3", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["runs"] == {"finished": 4, "failed": 0, "begun": 0, "waiting": 0}
    shared = Study.open("blobs")
    told = [shared.read("finished", f"{trial.id}.json")["measured"] for trial in shared.trials()]
    assert [one["beside"] for one in told] == [False] * 4 and all(one["ms"] > 0 for one in told)
    os.environ["KARTINA_HOME"] = str(whole)  # put back by the fixture
    a, b = content(Study.open("blobs")), content(shared)
    assert a.keys() == b.keys() and [k for k in a if a[k] != b[k]] == []


@pytest.mark.slow
def test_a_claimed_run_is_left_to_its_process(blobs: Path) -> None:
    study = begin(tiny_study.write(blobs / "study.toml"))
    first, *others = study.trials()
    with study.claim(first) as mine, study.claim(first) as twice:
        assert mine and not twice
        assert work(study, evaluator(study)) == "finished"
    assert study.state(first) == "waiting" and {study.state(t) for t in others} == {"finished"}


@pytest.mark.slow
def test_an_entry_with_images_of_its_own(blobs: Path) -> None:
    text = tiny_study.TEXT.replace('preset = "vae-32-cpu"\n', 'preset = "vae-32-cpu"\nimages = 192\n')
    study, _ = run(tiny_study.write(blobs / "study.toml", text))
    counts = {t.entry.key: study.run(t).config.images for t in study.trials()}  # type: ignore[union-attr]
    assert counts == {"vae-32-cpu": 192, "dcgan-small": 384}
