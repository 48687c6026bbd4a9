"""`kartina train --from`, and the guide for few images, as a user runs them."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from kartina.training.folder import names
from kartina.training.run import Run
from tests import tiny

SMALL = ["z=8", "width=8", "width_max=16", "penalty_every=3", "batch=8", "threads=1", "grids=0"]
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "few-images.md"
FLOW = [x for s in ("widths=[8,16]", "attention=[1]", "batch=8", "threads=1", "grids=0") for x in ("--set", s)]


@pytest.fixture(autouse=True)
def data(home: Path) -> None:
    tiny.store(replace(tiny.images(shape=tiny.spec(32)), name="things"), home)
    tiny.store(replace(tiny.images(shape=tiny.spec(32, classes=4)), name="few"), home)


def test_train_from(cli) -> None:
    old = cli("train", "dcgan-32-cpu", "--data", "things", "--images", 16, *SETTINGS, "--json").json["id"]
    words = ["train", "dcgan-32-cpu", "--data", "few", "--images", 16, *SETTINGS, "--from", old]
    dry = cli(*words, "--dry-run", "--json")
    assert dry.json["start"]["ref"] == old and "tensors taken; new: discriminator.label.weight" not in dry.out
    assert re.search(r"Starts from 0001.*: \d+ tensors taken; new: .*generator", dry.err)
    assert names() == [old]
    done = cli(*words, "--set", "freeze_d=2", "--set", "transition=0.0,0.3", "--json")
    assert done.code == 0 and done.json["status"] == "finished"
    config = Run.open(done.json["id"]).config
    assert config.config["transition"] == [0.0, 0.3] and config.start is not None and config.start.ref == old


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "dcgan-32-cpu", "--data", "few", "--images", 16, "--from", "nothing"], "called 'nothing'"),
        (["train", "vae-32-cpu", "--data", "few", "--images", 16, "--from", "fashion-dcgan"], "makes a vae"),
        (["train", "dcgan-32-cpu", "--data", "few", "--images", 16, *SETTINGS, "--from", "fashion-dcgan"],
         "is 64 there and 8 here"),
        (["train", "--resume", "1", "--from", "fashion-dcgan"], "with --from"),
    ],
)  # fmt: skip
def test_bad_starts_are_one_sentence_and_leave_nothing(cli, args: list[object], says: str) -> None:
    found = cli(*args)
    assert found.code == 2 and says in " ".join(found.err.split()) and found.out == "" and names() == []


def test_the_guides_commands_run(cli) -> None:
    """As written, but small and short."""
    commands = re.findall(r"^    \$ kartina (.*)$", GUIDE.read_text(), flags=re.M)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(re.sub(r"--budget \S+", "--images 24", command))
        small = FLOW if "flow-32-cpu" in words else SETTINGS
        words += {"train": small, "publish": ["--no-evaluate"]}.get(words[0], [])
        done = cli(*words)
        assert done.code == 0, (command, done.err)
