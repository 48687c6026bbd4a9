"""What is counted without a network, beside the networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kartina.metrics import classifier, room
from tests import tiny


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 4), (32, 3), (128, 3), (256, 3), (1024, 4)])
def test_no_classifier_is_larger_than_is_counted(size: int, channels: int) -> None:
    data = tiny.images(n=6, shape=tiny.spec(size, channels))
    weights = classifier.untrained(data).net.state_dict().values()
    found = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    assert 0.8 * room.CLASSIFIER < found < room.CLASSIFIER + 4 * 3 * 128


def test_what_is_there_already_is_not_counted(home: Path) -> None:
    about = {
        "hash": "h",
        "bounds": {"train": [0, 90], "val": [90, 120]},
        "spec": {"classes": ["a", "b"], "flip_safe": True},
    }
    numbers = 8 * (30 * 128 + 128**2 + 2 * 30)
    learnt = room.CLASSIFIER + 4 * 2 * 128
    assert room.kept(about, "val", 2000, ["fd"], "domain") == numbers + learnt
    assert room.kept(about, "val", 20, ["fd"], "domain") == numbers + learnt - 8 * 10 * 130
    assert room.kept(about, "val", 2000, ["fd", "copies"], "domain") == numbers + learnt + 8 * (90 * 128 + 4 * 30)
    room.classifier_folder("h", flips=True).mkdir(parents=True)
    mirrored = {**about, "spec": {**about["spec"], "flip_safe": False}}  # type: ignore[dict-item]
    assert room.kept(mirrored, "val", 2000, ["fd"], "domain") == numbers + learnt, "another one"
    assert room.kept(about, "val", 2000, ["fd"], "domain") == numbers
    wide = 8 * (30 * 2048 + 2048**2 + 2 * 30)
    assert room.kept(about, "val", 2000, ["fd"], "inception") == wide + room.INCEPTION_BYTES
    room.inception_file().parent.mkdir(parents=True)
    room.inception_file().touch()
    assert room.kept(about, "val", 2000, ["fd"], "inception") == wide
    alone = {**about, "spec": {"classes": [], "flip_safe": True}, "hash": "other"}
    assert room.kept(alone, "val", 2000, ["fd"], "inception") == wide, "without classes no classifier"
