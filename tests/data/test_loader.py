"""The loader's stream is a pure function of (seed, position)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kartina.config import ImageSpec
from kartina.data.imageset import ImageSet
from kartina.data.loader import Loader, class_weights
from kartina.errors import ConfigError, DataError


def make(counts: tuple[int, ...] = (50, 30, 10), paired: bool = False, labelled: bool = True) -> ImageSet:
    n = sum(counts)
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 4, 6), dtype=np.uint8)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64) if labelled else None
    classes = tuple(f"c{i}" for i in range(len(counts))) if labelled else ()
    spec = ImageSpec(height=4, width=6, channels=1, classes=classes, paired=paired)
    return ImageSet("toy", "h", spec, images, labels, {"train": (0, n)}, sources=255 - images if paired else None)


def test_an_epoch_holds_every_image_once_and_epochs_differ() -> None:
    loader = Loader(make(), seed=3)
    first, second = loader.take(0, 90).ids, loader.take(90, 90).ids
    assert sorted(first) == sorted(second) == list(range(90))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Loader(make(), seed=4).take(0, 90).ids)


@settings(max_examples=40, deadline=None)
@given(
    position=st.integers(0, 20_000),
    cuts=st.lists(st.integers(0, 150), min_size=1, max_size=5),
    policy=st.sampled_from(["data", "balanced", "tempered"]),
)
def test_cutting_the_stream_anywhere_changes_nothing(
    position: int, cuts: list[int], policy: Literal["data", "balanced", "tempered"]
) -> None:
    def fresh() -> Loader:  # a new loader for each cut: nothing may depend on what was taken before
        return Loader(make(paired=True), seed=7, flip=True, label_policy=policy)

    whole = fresh().take(position, sum(cuts))
    starts = np.cumsum([0, *cuts[:-1]])
    parts = [fresh().take(position + int(start), n) for start, n in zip(starts, cuts, strict=True)]
    for name in ("images", "labels", "ids", "flipped", "sources"):
        assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))


def test_images_labels_and_sources_belong_together_and_flip_together() -> None:
    data = make(paired=True)
    taken = Loader(data, seed=1, flip=True).take(5, 200)
    assert data.labels is not None and data.sources is not None and taken.sources is not None
    assert np.array_equal(taken.labels, data.labels[taken.ids])
    assert 60 < taken.flipped.sum() < 140
    for i, flipped in enumerate(taken.flipped):
        mirror = slice(None, None, -1) if flipped else slice(None)
        assert np.array_equal(taken.images[i], data.images[taken.ids[i]][..., mirror])
        assert np.array_equal(taken.sources[i], data.sources[taken.ids[i]][..., mirror])


def test_without_flip_nothing_is_mirrored_and_without_classes_labels_are_zero() -> None:
    taken = Loader(make(labelled=False), seed=1, label_policy="balanced").take(0, 90)
    assert not taken.flipped.any() and not taken.labels.any() and taken.sources is None
    assert sorted(taken.ids) == list(range(90))


def test_balanced_and_tempered_draw_classes_by_their_weights_and_images_evenly() -> None:
    for policy, expected in (
        ("balanced", [1 / 3] * 3),
        ("tempered", np.sqrt([50, 30, 10]) / np.sqrt([50, 30, 10]).sum()),
    ):
        taken = Loader(make(), seed=2, label_policy=policy, temper=0.5).take(1000, 30_000)  # type: ignore[arg-type]
        share = np.bincount(taken.labels, minlength=3) / 30_000
        assert np.abs(share - expected).max() < 0.01
        for label in range(3):  # within a class every image is equally likely: Poisson counts
            times = np.bincount(taken.ids, minlength=90)[np.repeat([0, 1, 2], [50, 30, 10]) == label]
            assert np.abs(times - times.mean()).max() < 5 * np.sqrt(times.mean())


def test_a_class_without_images_is_never_drawn() -> None:
    taken = Loader(make((5, 0, 5, 0)), seed=2, label_policy="balanced").take(0, 5000)
    assert set(taken.labels.tolist()) == {0, 2}


def test_class_weights() -> None:
    counts = np.array([80, 20, 0])
    assert class_weights(counts, "data").tolist() == [0.8, 0.2, 0.0]
    assert class_weights(counts, "balanced").tolist() == [0.5, 0.5, 0.0]
    assert class_weights(counts, "tempered", 0.5) == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert class_weights(np.zeros(0, np.int64), "balanced").tolist() == [1.0]
    with pytest.raises(ConfigError, match="temper=2"):
        class_weights(counts, "tempered", 2)
    with pytest.raises(ConfigError, match="label policy 'odd'"):
        class_weights(counts, "odd")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no labelled images"):
        class_weights(np.zeros(3, np.int64), "data")


def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="no images"):
        Loader(make((0, 0)))
    with pytest.raises(ConfigError, match="batch=0"):
        Loader(make(), batch=0)
    with pytest.raises(ConfigError, match="position=-1"):
        Loader(make()).take(-1, 4)
