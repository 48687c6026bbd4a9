"""From a trained run to a package with numbers, through the handlers and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from kartina.cli.evaluate import evaluate
from kartina.cli.models import models
from kartina.cli.publish import publish
from kartina.data.imageset import open_set
from kartina.errors import ConfigError, ConflictError, DataError, IntegrityError, NotFoundError
from kartina.generators.base import from_uint8
from kartina.handlers.evaluate import evaluate_model, evaluate_ref, generator, likelihood
from kartina.handlers.load import load_any
from kartina.handlers.publish import publish as publish_run
from kartina.metrics.evaluate import stratified
from kartina.models import package, png
from kartina.training.loop import plan, train
from kartina.training.run import Run

app = Typer()
app.command("publish")(publish)
app.command("evaluate")(evaluate)
app.add_typer(models, name="models")
QUICK = ["--seeds", "2", "--samples", "60", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A VAE that has seen a few digits, in one home for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
        config = plan("vae-32-cpu", "digits", images=256, settings=["batch=32", "width=16", "threads=1"], device="cpu")
        made = Run.create(config)
        assert train(made) == "finished"
        yield made


@pytest.fixture(autouse=True)
def same_home(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_HOME", str(run.path.parent.parent))


def call(*words: str) -> str:
    found = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_publish_writes_a_whole_package(run: Run) -> None:
    printed = json.loads(
        call("publish", run.id, "--name", "d", "--licence", "CC0-1.0", "--about", "x", *QUICK, "--json")
    )
    assert (printed["ref"], printed["name"], printed["version"]) == ("d@1", "d", 1)
    path, card = Path(printed["path"]), printed["card"]
    files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    weights = [f"{part}.safetensors" for part in package.read_manifest(path).parts]
    assert files == sorted(
        ["card.json", "model.json", "samples.png", *weights, *(f"classes/{i}.png" for i in range(10))]
    )
    assert (
        card["licence"] == "CC0-1.0"
        and card["data"]["name"] == "digits"
        and sum(card["data"]["counts"].values()) > 1000
    )
    assert card["budget"]["images"] == 256
    assert list(card["metrics"]) == ["class_agreement", "coverage", "diversity", "fd"]
    for value in card["metrics"].values():
        assert set(value) == {"value", "interval", "floor", "identity"}
        assert value["identity"]["split"] == "val" and value["identity"]["n"] == 60
    assert len(card["per_class"]) == 10 and "training copies" in card["control"]
    recipe = png.read_recipe((path / "classes" / "3.png").read_bytes())
    assert recipe is not None and (recipe["label"], recipe["seed"], recipe["model"]) == ("3", 3, "d@1")
    assert recipe["hash"] == printed["hash"]

    # What was packaged samples like the run itself.
    ours, theirs = (load_any(ref).sample(["3"], n=2, seed=5).images for ref in ("d", run.id))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_list_show_and_rm(run: Run) -> None:
    publish_run(run.id, "gone", evaluate=False)
    publish_run(run.id, "gone", evaluate=False)
    listed = [row["ref"] for row in json.loads(call("models", "list", "--json")) if not row["bundled"]]
    assert listed[-2:] == ["gone@2", "gone@1"]
    shown = json.loads(call("models", "show", "gone@1", "--json"))
    assert shown["card"]["metrics"] == {} and shown["manifest"]["name"] == "gone"
    assert "gone@2" in call("models", "list") and "was not evaluated" in call("models", "show", "gone")
    assert json.loads(call("models", "rm", "gone", "--json")) == {"removed": "gone@2"}
    assert "Removed gone@1" in call("models", "rm", "gone")
    with pytest.raises(NotFoundError, match="gone"):
        package.find("gone")
    bundled = [p for p in package.list_packages() if p.bundled]
    for found in bundled[:1]:
        with pytest.raises(ConflictError):
            package.remove(str(found))


def test_evaluate_prints_numbers_and_json(run: Run) -> None:
    shares: list[float] = []
    found = evaluate_ref(run.id, seeds=(0, 1), samples=60, progress=lambda share, what: shares.append(share))
    assert (found["model"], found["data"], found["split"]) == (run.id, "digits", "val")
    assert shares == sorted(shares) and shares[-1] == 1
    printed = json.loads(call("evaluate", run.id, "--data", "digits", *QUICK, "--json"))
    assert printed["metrics"] == found["metrics"]  # the same seeds, the same numbers
    text = call("evaluate", run.id, *QUICK)
    for word in ("class agreement", "coverage", "diversity", "FD-domain", "floor", "training copies", "worst first"):
        assert word in text
    with pytest.raises(ConfigError, match="train, val or test"):
        CliRunner().invoke(app, ["evaluate", run.id, "--split", "best"], catch_exceptions=False)


def test_bits_per_dim_stand_beside_the_numbers_of_a_model_that_has_them() -> None:
    settings = ["batch=32", "width=8", "width_max=16", "threads=1"]
    logistic = Run.create(plan("vae-32-bits-cpu", "digits", images=256, settings=settings, device="cpu"))
    assert train(logistic) == "finished"
    publish_run(logistic.id, "bits", seeds=(0, 1), samples=60)
    card = json.loads((package.find("bits").path / "card.json").read_text())
    assert list(card["metrics"]) == [
        "class_agreement",
        "coverage",
        "diversity",
        "fd",
        "bits_per_dim",
        "bits_per_dim_iw",
    ]

    # By hand: the same images, the same draws of the published weights.
    model, held = load_any("bits"), open_set("digits").part("val")
    picked = stratified(held.labels, 60)
    x, y = from_uint8(torch.from_numpy(held.images[picked])), torch.eye(10)[torch.from_numpy(held.labels[picked])]
    for key, k in (("bits_per_dim", 1), ("bits_per_dim_iw", 10)):
        with torch.inference_mode():
            of_seeds = [model.family.bits(x, y, k, torch.Generator().manual_seed(s)).mean().item() for s in (0, 1)]
        found = card["metrics"][key]
        assert found["value"] == pytest.approx(np.mean(of_seeds), rel=1e-6)
        assert found["interval"][0] < found["value"] < found["interval"][1] and found["floor"] is None
        identity = found["identity"]
        assert (identity["metric"], identity["n"], identity["split"]) == (f"bits/dim K={k}", 60, "val")
    assert card["metrics"]["bits_per_dim_iw"]["value"] < card["metrics"]["bits_per_dim"]["value"]
    text = call("evaluate", "bits", *QUICK)
    assert "bits/dim (ELBO)" in text and "bits/dim (IWAE)" in text


def test_a_model_without_levels_has_no_bits(run: Run) -> None:
    assert likelihood(load_any(run.id)) is None


def test_seeds_share_no_image(run: Run) -> None:
    make = generator(load_any(run.id))
    labels = np.array([3, 3, 3])
    first, again, second = make(labels, 0), make(labels, 0), make(labels, 1)
    assert (first == again).all()
    assert not any((a == b).all() for a in first for b in second)


def test_wrong_requests_leave_nothing(run: Run) -> None:
    before = sorted((run.path.parent.parent / "models").rglob("*"))
    with pytest.raises(ConfigError, match="model name"):
        publish_run(run.id, "No Good")
    with pytest.raises(NotFoundError, match="run"):
        publish_run("no-such-run", "x")
    with pytest.raises(NotFoundError):
        evaluate_ref("no-such-model")
    model = load_any(run.id)
    data = run.data()
    other = data.spec.model_copy(update={"classes": tuple("abcdefghij")})
    with pytest.raises(DataError, match="expected the same"):
        evaluate_model(model, replace(data, spec=other))
    config = json.loads((run.path / "config.json").read_text())
    copy = run.path.parent / "9999-changed"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps({**config, "data_hash": "0" * 64}))
    with pytest.raises(IntegrityError, match="hash"):
        publish_run(copy, "x")
    assert sorted((run.path.parent.parent / "models").rglob("*")) == before


def test_the_weights_of_several_runs_are_averaged(run: Run) -> None:
    made = [run]
    for change in ({"seed": 1}, {"seed": 2}):
        config = run.config.model_copy(update={"train": run.config.train.model_copy(update=change)})
        made.append(Run.create(config))
        assert train(made[-1]) == "finished"
    found = publish_run(run.id, "soup", evaluate=False, precision="fp32", average=[one.id for one in made[1:]])
    weights = [one.ema().state_dict() for one in made]
    for name, value in load_any(str(found)).family.named_parameters():  # statistics are gathered anew
        mean = sum(one[name].double() for one in weights) / 3
        assert torch.allclose(value.double(), mean, atol=1e-7), name
    assert package.read_card(found.path)["averaged"] == [one.id for one in made]

    assert "Published two@1" in call("publish", run.id, "--name", "two", "--average", made[1].id, "--no-evaluate")
    with pytest.raises(ConfigError, match="a run twice"):
        publish_run(run.id, "twice", evaluate=False, average=[run.id])
    with pytest.raises(ConfigError, match="with_training"):
        publish_run(run.id, "trains", evaluate=False, average=[made[1].id], with_training=True)
    wide = plan("vae-32-cpu", "digits", images=32, settings=["batch=32", "width=24", "threads=1"], device="cpu")
    other = Run.create(wide)
    train(other)
    with pytest.raises(ConfigError, match="whose networks are not those of"):
        publish_run(run.id, "unlike", evaluate=False, average=[other.id])
    assert not (package.folder() / "unlike").exists()
