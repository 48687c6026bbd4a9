"""`kartina presets | train | runs | sample` as a user runs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from kartina.cli.output import from_here
from kartina.training.run import Run
from tests import tiny

TINY = ["--set", "width=8", "--set", "width_max=8", "--set", "threads=1", "--set", "batch=8", "--set", "grids=2"]


@pytest.fixture
def blobs(home: Path) -> Path:
    tiny.store(tiny.images(shape=tiny.spec(32)), home)
    return home


@pytest.mark.slow
def test_presets(cli) -> None:
    found = cli("presets", "--json", "--no-measure")
    assert found.code == 0
    names = {p["name"]: p for p in found.json}
    assert {"vae-32-cpu", "dcgan-32-cpu", "flow-32-cpu"} <= set(names)
    assert all({"name", "family", "size", "parameters", "img/s"} <= set(p) for p in found.json)
    assert "flow-32-cpu" in cli("presets", "--no-measure").out
    for one in found.json:  # the table has neither family nor size: both are in the name
        assert one["name"].startswith(one["family"].replace("_", "-")) and str(one["size"]) in one["name"].split("-")


def test_train_resume_sample(cli, blobs: Path, tmp_path: Path) -> None:
    done = cli("train", "vae-32-cpu", "--data", "blobs", "--images", 200, *TINY, "--json")
    assert done.code == 0 and done.json["status"] == "finished" and done.json["images"] == 200
    run = done.json["id"]
    again = cli("train", "--resume", run)
    assert again.code == 0 and "Finished" in again.out and "kartina publish" in again.out

    (listed,) = cli("runs", "list", "--json").json
    assert {k: listed[k] for k in ("id", "preset", "data", "images", "status")} == {
        "id": run, "preset": "vae-32-cpu", "data": "blobs", "images": 200, "status": "finished",
    }  # fmt: skip
    shown = cli("runs", "show", "1", "--json").json
    assert shown["config"]["config"]["width"] == 8 and shown["stats"]["elbo"] < 0
    told = cli("runs", "show", run).out
    assert "elbo" in told and "diversity/a" in told and "diversity/0" not in told
    folder = Run.open(run).path
    assert len(list((folder / "grids").glob("*.png"))) == 2 and list((folder / "tensorboard").iterdir())

    grid = tmp_path / "grid.png"
    assert cli("sample", run, "--class", "a", "--class", "b", "-n", 8, "--seed", 7, "-o", grid).code == 0
    with Image.open(grid) as image:
        assert image.width > 64
    first = cli("sample", run, "-c", "a", "-n", 3, "--seed", 7, "--batch", 1, "-o", tmp_path / "one", "--json").json
    assert first["labels"] == ["a"] * 3 and first["seeds"] == [7, 8, 9]
    cli("sample", run, "-c", "a", "-n", 3, "--seed", 7, "-o", tmp_path / "two")
    files = [sorted((tmp_path / d).glob("*.png")) for d in ("one", "two")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]] and len(files[0]) == 3
    hashes = [[hashlib.sha256(Image.open(f).tobytes()).hexdigest() for f in group] for group in files]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3

    assert cli("runs", "extend", run).code == 2 and cli("runs", "extend", run, "--time", "soon").code == 2
    longer = cli("runs", "extend", run, "--images", 80, "--json").json
    assert (longer["total"], longer["images"], longer["status"]) == (280, 200, "paused")
    assert cli("train", "--resume", run, "--json").json["images"] == 280


def test_dry_run_leaves_nothing(cli, blobs: Path) -> None:
    planned = cli("train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--dry-run", "--json")
    assert planned.json["images"] == 1000 and planned.json["spec"]["classes"] == ["a", "b", "c"]
    assert "lr" in cli("train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--dry-run").out
    assert not (blobs / "runs").exists()
    both = cli("train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--dry-run", "--detach")
    assert both.code == 2 and "--dry-run with --detach" in both.err
    for extra in (("--dry-run",), ("--device", "cpu")):
        kept = cli("train", "--resume", "1", *extra)
        assert kept.code == 2 and f"--resume with {extra[0]}" in kept.err


def test_a_path_is_found_from_another_folder(blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job is told to read, it reads in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "w.npz").touch()
    assert from_here("models/a") == str(tmp_path / "models" / "a") and from_here(None) is None
    assert from_here("w.npz") == "w.npz", "a name, which a file happens to have, too"
    assert from_here("w.npz", "file") == str(tmp_path / "w.npz") and from_here("https://x/w", "file") == "https://x/w"


def test_a_time_budget(cli, blobs: Path) -> None:
    done = cli("train", "vae-32-cpu", "--data", "blobs", "--budget", "3s", *TINY, "--json").json
    assert done["status"] == "finished" and 0.5 < done["seconds"] < 6


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "vae-32-cpu", "--data", "blobs"], "one of --budget 10m and --images 200k"),
        (["train", "--data", "blobs", "--budget", "1m"], "no preset"),
        (["train", "vae-32-cpu", "--data", "blob", "--budget", "1m"], "Did you mean 'blobs'"),
        (["train", "vae32", "--data", "blobs", "--budget", "1m"], "preset called 'vae32'"),
        (["train", "vae-64-cpu", "--data", "blobs", "--budget", "1m"], "Import the data again with --size 64"),
        (["train", "vae-32-cpu", "--data", "blobs", "--budget", "soon"], "expected a time such as"),
        (["train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--set", "widht=3"], "Did you mean 'width'"),
        (["train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--set", "width"], "expected key=value"),
        (["train", "vae-32-cpu", "--data", "blobs", "--images", "1k", "--device", "mps"], "this machine has"),
        (["train", "--resume", "9"], "no run called '9'"),
        (["train", "--resume", "9", "--data", "blobs"], "pass --resume alone"),
        (["runs", "show", "nothing"], "no run called 'nothing'"),
        (["sample", "nothing"], "no model or run called 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(cli, blobs: Path, args: list[str], says: str) -> None:
    found = cli(*args)
    assert found.code == 2 and says in " ".join(found.err.split()) and found.out == ""
    assert not (blobs / "runs").exists() or not any((blobs / "runs").iterdir())


def test_sampling_errors_leave_no_file(cli, blobs: Path, tmp_path: Path) -> None:
    run = cli("train", "vae-32-cpu", "--data", "blobs", "--images", 16, *TINY, "--json").json["id"]
    for args, says in (
        (["--class", "d"], "class called 'd'; there are: a, b, c"),
        (["--set", "spred=1"], "spred"),
        (["--set", "spread=9"], "spread"),
        (["--set", "spread"], "expected key=value"),
        (["--set", "seed=7"], "seed: no such key"),
        (["--set", "task=x"], "task: no such key"),
    ):
        found = cli("sample", run, *args, "-o", tmp_path / "x.png")
        assert found.code == 2 and says in " ".join(found.err.split())
        assert not (tmp_path / "x.png").exists()


def test_a_run_of_another_version_is_listed_as_a_warning(cli, blobs: Path) -> None:
    run = cli("train", "vae-32-cpu", "--data", "blobs", "--images", 16, *TINY, "--json").json["id"]
    config = Run.open(run).path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format": 9}))
    listed = cli("runs", "list", "--json")
    assert listed.json == [] and "format 9" in listed.err
    assert cli("train", "--resume", run).code == 2
