"""N images = N/2 + kill -9 + resume + N/2, bit for bit, for every family; and torn checkpoints."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kartina import registry
from kartina.errors import ConflictError, IntegrityError
from kartina.training import checkpoint
from kartina.training.loop import Trainer, train
from kartina.training.run import Run
from tests import tiny

# A fork of a process that has torch already: a new interpreter would import it, seconds for each of many kills.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "torch.utils.tensorboard"])


def die(home: str, id: str, mode: str, steps: int) -> None:
    """Train in this process until it kills itself, some steps after so many."""
    os.environ["KARTINA_HOME"] = home
    run, inner = Run.open(id), Trainer.step

    def step(self: Trainer) -> None:
        inner(self)
        if self.steps != steps:
            return
        self.save(run.path / "checkpoints")  # at an odd step, and two more steps, then death
        inner(self)
        inner(self)
        if mode == "during":  # in the middle of writing a checkpoint
            checkpoint.save_file = torn  # type: ignore[assignment]
            self.save(run.path / "checkpoints")
            raise AssertionError("it outlived the writing")
        os.kill(os.getpid(), signal.SIGKILL)

    def torn(tensors: dict[str, torch.Tensor], path: Path, real: Any = checkpoint.save_file) -> None:
        real(tensors, path)
        if "ema" in str(path):
            os.truncate(path, 100)
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.step = step  # type: ignore[method-assign]
    train(run)


def weights(run: Run) -> dict[str, torch.Tensor]:
    found = checkpoint.read(run.checkpoint())
    return {f"{g}/{k}": v for g, group in found.tensors.items() for k, v in group.items()}


def killed(run: Run, mode: str, step: int) -> None:
    process = FORKS.Process(target=die, args=(os.environ["KARTINA_HOME"], run.id, mode, step))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    process.close()


# The others too, in the long tests.
PAUSED = ("cgan", "dcgan", "improved_gan", "sgan", "r3gan")
KILLED = ("flow", "vae")


@pytest.mark.parametrize("mode", [pytest.param("after", marks=pytest.mark.slow), "during"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in KILLED else pytest.mark.slow) for n in (*registry.names(), "flow-pairs")],
)
def test_killed_and_resumed_equals_undisturbed(name: str, mode: str, home: Path) -> None:
    whole = tiny.run(name, home, n=8 * 20)
    assert train(whole) == "finished"
    broken = tiny.run(name, home, n=8 * 20)
    killed(broken, mode, 7)  # odd, and in the middle of a lazy phase's interval
    assert broken.status()["status"] == "interrupted"
    assert train(broken) == "finished"

    a, b = weights(whole), weights(broken)
    assert a.keys() == b.keys() and len(a) > 10
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different
    assert not list((broken.path / "checkpoints").glob(".tmp-*"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in PAUSED else pytest.mark.slow) for n in registry.names()]
)
def test_pausing_at_every_few_steps_changes_nothing(name: str, home: Path) -> None:
    whole, stopped = tiny.run(name, home, n=8 * 9), tiny.run(name, home, n=8 * 9)
    train(whole)
    results = []
    for _ in range(20):
        calls = iter([False, True])
        results.append(train(stopped, stop=lambda calls=calls: next(calls)))
        if results[-1] == "finished":
            break
    assert results.count("paused") >= 4 and results[-1] == "finished"
    assert all(torch.equal(v, weights(stopped)[k]) for k, v in weights(whole).items())
    images = [s["images"] for s in stopped.stats()]
    assert images == sorted(set(images)), "no line twice"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(home: Path) -> None:
    run = tiny.run("vae", home, n=64)
    calls = iter([False, False, True])
    train(run, stop=lambda: next(calls))
    first = run.checkpoint()
    train(run)
    newest = run.checkpoint()
    assert newest != first
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    assert run.checkpoint() == first
    with pytest.raises(IntegrityError, match="damaged checkpoint"):
        checkpoint.read(newest)
    (first / "state.json").unlink()
    with pytest.raises(IntegrityError, match="none of them whole"):  # and not: start over
        train(run)
    assert newest.is_dir() and first.is_dir()


def test_a_checkpoint_of_other_networks_is_refused_in_words(home: Path) -> None:
    run = tiny.run("vae", home, n=64)
    calls = iter([False, True])
    train(run, stop=lambda: next(calls))
    config = json.loads((run.path / "config.json").read_text())
    config["config"]["width"] = 16
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match="does not fit the networks"):
        train(Run.open(run.id))


def test_resuming_a_finished_run_changes_nothing(home: Path) -> None:
    run = tiny.run("vae", home, n=16)
    train(run)
    before = {p: p.stat().st_mtime_ns for p in (run.path / "checkpoints").rglob("*")}
    assert train(run) == "finished"
    assert before == {p: p.stat().st_mtime_ns for p in (run.path / "checkpoints").rglob("*")}


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    shared = torch.randn(3)
    path = checkpoint.write(tmp_path, {"model": {"a": shared, "b": shared}}, {"images": 1})
    assert torch.equal(checkpoint.read(path).tensors["model"]["b"], shared)


def test_two_processes_cannot_train_one_run(home: Path) -> None:
    run = tiny.run("vae", home)
    code = f"""
import sys, time
from kartina.training.run import Run
with Run.open({run.id!r}).lock():
    print("held", flush=True); time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(ConflictError, match="another process"):
                train(run)
        finally:
            holder.kill()


def test_a_run_of_another_version_is_refused_in_words(home: Path) -> None:
    run = tiny.run("vae", home)
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "format": 99, "kartina": "9.0"}))
    with pytest.raises(IntegrityError, match=r"format 99, made by kartina 9.0.*reads format 1"):
        Run.open(run.id)


def test_other_images_under_the_same_name_are_refused(home: Path) -> None:
    run = tiny.run("vae", home)
    data = home / "data" / "blobs" / "data.json"
    data.write_text(data.read_text().replace('"hash": "blobs"', '"hash": "other"'))
    with pytest.raises(IntegrityError, match="was trained on"):
        train(run)


def test_sigint_saves_and_exits(home: Path) -> None:
    run = tiny.run("flow", home, n=8 * 100_000)
    code = f"""
from kartina.training.loop import train, interruptible
from kartina.training.run import Run
with interruptible() as stop:
    print(train(Run.open({run.id!r}), watch=lambda p: print("at", p.images, flush=True), stop=stop))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline().startswith("at")
        os.kill(process.pid, signal.SIGINT)
        begun = time.monotonic()
        assert "paused" in process.stdout.read() and process.wait() == 0
        assert time.monotonic() - begun < 10
    status = run.status()
    assert status["status"] == "paused" and 0 < status["images"] < 8 * 100_000
    assert int(run.checkpoint().name) == status["images"]


def test_an_extended_run_resumes_bit_for_bit(home: Path) -> None:
    """64 images, extended to 128: at once, or killed on the way and resumed, the weights are the same."""
    whole, broken = (tiny.run("flow", home, decay="cosine") for _ in range(2))
    for run in (whole, broken):
        assert train(run) == "finished"
        assert run.extend(64).config.images == 64 and Run.open(run.id).status()["status"] == "finished"
        assert run.extend(128) == Run.open(run.id) == run.extend(100)
    found = Run.open(whole.id)
    assert (found.config.images, found.config.extended, found.status()["status"]) == (128, (64,), "paused")
    assert train(found) == "finished" and found.status()["images"] == 128

    halfway = Run.open(broken.id)
    seen: list[int] = []
    assert train(halfway, stop=lambda: seen.append(1) is None and len(seen) == 3) == "paused"
    assert 64 < halfway.status()["images"] < 128
    assert train(Run.open(broken.id)) == "finished"
    a, b = (checkpoint.read(Run.open(run.id).checkpoint()).tensors for run in (whole, broken))
    assert all(torch.equal(a[part][key], b[part][key]) for part in a for key in a[part])
    with found.lock(), pytest.raises(ConflictError, match="another process"):
        found.extend(256)
