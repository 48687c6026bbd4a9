"""`kartina features` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kartina.handlers.features import MOST, _subsets, extractor
from kartina.training import checkpoint
from kartina.training.run import Run
from tests import tiny

TINY = ["--set", "threads=1", "--set", "batch=16", "--set", "grids=0", "--set", "width=8", "--set", "width_max=16"]


@pytest.fixture
def blobs(home: Path) -> Path:
    tiny.store(tiny.images(shape=tiny.spec(32)), home)
    return home


@pytest.mark.slow
def test_features_beat_chance_on_digits(cli, home: Path) -> None:
    run = cli("train", "dcgan-32-cpu", "--data", "digits", "--images", 160, *TINY, "--json").json["id"]
    found = cli("features", run, "--data", "digits", "--labels", "20", "--seeds", 1, "--json").json
    assert found["run"] == run and found["data"] == "digits" and found["test"] == 179 and found["train"] == 1439
    assert found["layers"] == 3 and found["dimensions"] == 16 * (8 + 16 + 16) and found["labels_seen"]
    (row,) = found["rows"]
    assert row["labels"] == 20
    for method in ("features + SVM", "pixels + SVM", "small CNN"):
        assert row[method]["accuracy"] > 0.3, method  # chance is 0.1
        assert row[method]["spread"] is None and len(row[method]["each"]) == 1

    shown = cli("features", run, "--labels", "10", "--seeds", 1)  # the run's own data
    assert shown.code == 0 and "pixels + SVM" in shown.out and "trained with labels" in shown.out


def test_how_many_labels_are_tried() -> None:
    labels = np.repeat(np.arange(10), 600)
    assert list(_subsets(labels, None, 1)) == [25, 50, 100, 1000, MOST]
    assert list(_subsets(labels[::10], None, 2)) == [25, 50, 100, 600]
    drawn = _subsets(labels, [30, "all", 30], 2)
    assert list(drawn) == [30, MOST] and len(drawn[30]) == 2 and not np.array_equal(*drawn[30])


def test_the_features_are_the_discriminators_maps(cli, blobs: Path) -> None:
    """Of the weights that trained (not of an average), each map after its normalisation and LeakyReLU."""
    run = Run.open(
        cli("train", "dcgan-32-cpu", "--data", "blobs", "--images", 64, *TINY, "--set", "norm=batch", "--json").json[
            "id"
        ]
    )
    extract = extractor(run)
    weights = checkpoint.read(run.checkpoint()).tensors["model"]
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    h, parts = x, []
    for i in range(3):
        h = F.conv2d(h, weights[f"discriminator.convs.{i}.weight"], weights[f"discriminator.convs.{i}.bias"], 2, 1)
        if i:
            norm = {
                k: weights[f"discriminator.norms.{i}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
            }
            h = F.batch_norm(h, **norm)
        h = F.leaky_relu(h, 0.2)
        parts.append(F.max_pool2d(h, h.shape[2] // 4).flatten(1))
    assert torch.allclose(extract(x), torch.cat(parts, 1), atol=1e-5)
    assert torch.allclose(extract(x)[:1], extract(x[:1]), atol=1e-5), "an image's features are its own"


def test_a_classifier_as_discriminator_has_features_too(home: Path) -> None:
    from kartina.training.loop import train

    run = tiny.run("sgan", home, n=16)
    train(run)
    assert extractor(run)(torch.zeros(2, 1, 16, 16)).shape == (2, 16 * (8 + 16 + 16))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nothing"], "no run called 'nothing'"),
        (["RUN", "--data", "blob"], "no data set called 'blob'"),
        (["RUN", "--labels", "few"], "Found --labels few; expected numbers and all"),
        (["RUN", "--labels", "2"], "Found 2 labels asked for; expected 3 (one a class)"),
        (["RUN", "--labels", "25,900"], "Found 900 labels asked for; expected at most 64"),
        (["RUN", "--data", "small"], "Found 'small' of 16x16 pixels, 1 channels; run"),
        (["RUN", "--data", "plain"], "Found no classes in 'plain'"),
        (["RUN"], "no 'test' images in 'blobs'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(cli, blobs: Path, args: list[str], says: str) -> None:
    run = cli("train", "dcgan-32-cpu", "--data", "blobs", "--images", 16, *TINY, "--json").json["id"]
    for name, shape in (("small", tiny.spec(16)), ("plain", tiny.spec(32, classes=0))):
        data = tiny.images(shape=shape)
        tiny.store(type(data)(**{**vars(data), "name": name}), blobs)
    found = cli("features", *(run if a == "RUN" else a for a in args))
    assert found.code == 2 and says in " ".join(found.err.split()) and found.out == ""


def test_a_family_without_convolutions_is_refused(cli, blobs: Path) -> None:
    run = cli("train", "vae-32-cpu", "--data", "blobs", "--images", 16, *TINY, "--json").json["id"]
    found = cli("features", run)
    said = " ".join(found.err.split())
    assert (
        found.code == 2 and "Found a run of vae" in said and "dcgan" in said and "sgan" in said and "flow" not in said
    )
