"""STUDY.toml: what is read, what is refused, in words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from kartina import registry
from kartina.config import read
from kartina.errors import ConfigError, ConflictError, DataError, IntegrityError, NotFoundError
from kartina.metrics import evaluate
from kartina.study import spec
from kartina.study.folder import Study, same_study
from kartina.study.spec import SCORE, SELECTION, TEST
from tests import tiny
from tests.study import tiny_study

ROOT = Path(__file__).resolve().parents[2]

LEAST = """
name = "s"
data = ["digits"]
[budget]
minutes = 3
[[presets]]
preset = "flow-32-cpu"
"""


def test_defaults_are_those_of_the_contract() -> None:
    found = spec.parse(LEAST)
    assert found.seeds == (0, 1, 2) and found.evaluation.generation_seeds == 3 and found.budget.minutes == 3
    rule = found.choose
    assert (rule.metric, rule.agreement_slack, rule.coverage_share, rule.copies_factor, rule.tie_share) == (
        "kid", 0.05, 0.8, 2.0, 0.015,
    )  # fmt: skip
    assert found.evaluation.shares == (0.125, 0.25, 0.5, 1.0)


def test_every_metric_there_is_can_be_asked_for() -> None:
    assert set(get_args(spec.Metric)) == set(evaluate.METRICS) >= set(spec.METRICS)


def test_no_generation_seed_serves_two_ends() -> None:
    how = spec.parse(
        LEAST.replace("[budget]", "[evaluation]\nselection_seeds=100\ngeneration_seeds=100\n[budget]")
    ).evaluation
    groups = [set(how.seeds(first)) for first in (SELECTION, SCORE, TEST)]
    assert all(len(group) == 100 for group in groups) and len(set.union(*groups)) == 300


def test_settings_are_those_of_the_study_then_those_of_the_entry() -> None:
    found = spec.parse(tiny_study.TEXT)
    wild = found.presets[0].model_copy(update={"settings": {"batch": 8, "widths": [8, 16]}})
    assert found.set(wild) == ['precision="fp32"', "batch=8", "grids=1", "widths=[8, 16]"]
    assert [entry.key for entry in found.presets] == ["vae-32-cpu", "dcgan-small"]


def test_entries_may_be_for_some_data_only() -> None:
    text = LEAST.replace('["digits"]', '["digits", "cells"]').replace(
        '"flow-32-cpu"', '"flow-32-cpu"\ndata = ["digits"]'
    )
    found = spec.parse(text + '[[presets]]\npreset = "flow-64-cpu"\ndata = ["cells"]')
    assert [(entry.preset, data) for entry, data in found.pairs()] == [
        ("flow-32-cpu", "digits"),
        ("flow-64-cpu", "cells"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "s"', 'name = "S/x"', "name"),
        ("minutes = 3", "minutes = 3\nimages = 5", "one of minutes and images"),
        ("minutes = 3", "", "one of minutes and images"),
        ("minutes = 3", "hours = 3", "hours: no such key"),
        ('data = ["digits"]', 'data = ["digits", "digits"]', "each of them once"),
        ('data = ["digits"]', 'data = ["digits"]\nseeds = [1, 1]', "each of them once"),
        ('data = ["digits"]', 'data = ["digits"]\nseeds = [-1]', "seeds from 0"),
        ("[[presets]]", '[[presets]]\npreset = "flow-32-cpu"\n[[presets]]', "give each a label of its own"),
        ('preset = "flow-32-cpu"', 'preset = "flow-32-cpu"\ndata = ["cells"]', "not among the study's data"),
        ('preset = "flow-32-cpu"', 'preset = "flow-32-cpu"\nsettings = {seed = 3}', "seed among settings"),
        ("[budget]", '[evaluation]\nmetrics = ["fd"]\n[budget]', "no kid among evaluation.metrics"),
        ("[budget]", '[evaluation]\nmetrics = ["kid", "fid2"]\n[budget]', "metrics.1"),
        ("[budget]", '[evaluation]\nmetrics = ["kid"]\n[budget]', "no class_agreement, coverage, memorisation among"),
        ("[budget]", '[evaluation]\nextractor = "inceptoin"\n[budget]', "extractor"),
        ("[budget]", "[choose]\ntie = 1\n[budget]", "choose.tie: no such key"),
        ("[budget]", "[budget", "not TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[").replace(".", r"\.")):
        spec.parse(LEAST.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "error", "says"),
    [
        ('preset = "vae-32-cpu"', 'preset = "vae-33-cpu"', NotFoundError, "Did you mean 'vae-32-cpu'"),
        ('data = ["blobs"]', 'data = ["blob"]', NotFoundError, "data set called 'blob'"),
        ('preset = "vae-32-cpu"', 'preset = "vae-64-cpu"', ConfigError, "made for 64x64"),
        ("width = 8, width_max = 8}\n\n", "widht = 8}\n\n", NotFoundError, "widht"),
        ("spread = 0.9", "spred = 0.9", ConfigError, "controls of DCGAN"),
        ("spread = 0.9", "spread = 9", ConfigError, "spread"),
        ('device = "cpu"', 'device = "abacus"', ConfigError, "this machine has"),
        ('preset = "vae-32-cpu"\n', 'preset = "pix2pix-32-cpu"\n', ConfigError, "pair"),
        ("samples = 60", 'samples = 60\nextractor = "mobilenet"', ConfigError, "without its file"),
        ("samples = 60", 'samples = 60\nextractor = "mobilenet"\nweights = "none.npz"', NotFoundError, "none.npz"),
        ("samples = 60", 'samples = 60\nweights = "none.npz"', ConfigError, "with the domain extractor"),
        ("samples = 60", "samples = 4", DataError, "4 reference images in 'val'"),
        ("samples = 60", "samples = 60\nselection_samples = 3", DataError, "3 reference images in 'val'"),
    ],
)
def test_what_could_not_be_trained_is_refused_before_anything_is(
    blobs: Path, old: str, new: str, error: type[Exception], says: str
) -> None:
    text = tiny_study.TEXT.replace(old, new, 1)
    with pytest.raises((error, ConfigError), match=says):
        Study.create(spec.parse(text), text)
    assert not (blobs / "studies").exists() or not list((blobs / "studies").iterdir())


def test_a_class_that_only_held_out_images_have_is_refused(home: Path) -> None:
    data = tiny_study.blobs()
    assert data.labels is not None
    labels = np.where(np.arange(300) < 180, np.minimum(data.labels, 1), data.labels)
    tiny.store(replace(data, labels=labels), home)
    with pytest.raises(ConfigError, match="Found c in val of 'blobs' and not in train"):
        Study.create(spec.parse(tiny_study.TEXT), tiny_study.TEXT)


def test_the_plan_is_fixed(blobs: Path) -> None:
    found = Study.create(spec.parse(tiny_study.TEXT), tiny_study.TEXT)
    assert Study.open("blobs") == found == Study.open(found.path)
    assert (found.path / "study.toml").read_text() == tiny_study.TEXT
    facts = found.plan.data["blobs"]
    assert facts.splits == {"train": 180, "val": 60, "test": 60} and facts.classes == ("a", "b", "c")
    ids = [f"{key}--blobs--seed{seed}" for seed in (0, 1) for key in ("vae-32-cpu", "dcgan-small")]
    assert [t.id for t in found.trials()] == ids
    with pytest.raises(ConflictError, match="already"):
        Study.create(spec.parse(tiny_study.TEXT), tiny_study.TEXT)
    changed = tiny_study.TEXT.replace("agreement_slack = 1.0", "agreement_slack = 0.5")
    with pytest.raises(ConflictError, match="another choose in the file"):
        same_study(found, spec.parse(changed))


def test_other_images_under_the_same_name_are_refused(blobs: Path) -> None:
    found = Study.create(spec.parse(tiny_study.TEXT), tiny_study.TEXT)
    about = blobs / "data" / "blobs" / "data.json"
    about.write_text(about.read_text().replace('"hash": "blobs"', '"hash": "other"'))
    with pytest.raises(IntegrityError, match="began on blobs"):
        found.open_data("blobs")


def test_a_study_of_another_version_is_refused_in_words(blobs: Path) -> None:
    found = Study.create(spec.parse(tiny_study.TEXT), tiny_study.TEXT)
    plan = found.path / "plan.json"
    plan.write_text(plan.read_text().replace('"format": 1,', '"format": 9,', 1))
    with pytest.raises(IntegrityError, match="format 9"):
        Study.open("blobs")
    plan.write_text("{")
    with pytest.raises(IntegrityError, match="cannot be used"):
        Study.open("blobs")
    with pytest.raises(NotFoundError, match="study called 'blab'"):
        Study.open("blab")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "studies").glob("*.toml")), ids=lambda p: p.stem)
def test_our_own_studies_can_be_read_and_their_presets_are_there(path: Path) -> None:
    found, _ = spec.load(path)
    assert found.name == path.stem
    for entry, data in found.pairs():
        family, preset = registry.preset(entry.preset)
        assert preset.size == (32 if data == "fashion" else 64)
        config = read(registry.family(family).Config, preset.config, entry.name)
        assert not registry.family(family).takes_pairs(config)


def test_the_guides_study_can_be_read() -> None:
    text = (ROOT / "docs" / "guides" / "study.md").read_text()
    found = spec.parse(text.split("```toml\n")[1].split("```")[0])
    assert found.name == "letters" and [e.name for e in found.presets][-1] == "dcgan, ADA"
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\w. ]+) \|$", text, flags=re.M))
    rule = spec.Choose().model_dump()
    assert len(rows) == 6
    assert rows == {k: "no limit" if rule[k] is None else f"{rule[k]:g}" if k != "copies_by" else rule[k] for k in rows}
    verbs = set(re.findall(r"kartina study (\w+)", text))
    assert verbs == {"run", "list", "report", "publish"}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "studies").glob("*.toml")), ids=lambda p: p.stem)
def test_a_study_is_written_as_it_is_read(path: Path) -> None:
    found, _ = spec.load(path)
    text = spec.dump(found)
    assert spec.parse(text) == found and spec.dump(spec.parse(text)) == text


def test_whatever_a_text_has_is_written_as_toml() -> None:
    odd = 'a "quote", a \\, \n\t\r\x7f\x01 é 猫 😀 # [x] = {y}'
    found = spec.StudySpec.model_validate(
        {"name": "odd", "about": odd, "data": ["a"], "budget": {"minutes": 1e-3}, "settings": {"a b.c": [1, 2.5, True]},
         "presets": [{"preset": "p", "label": odd, "controls": {"nested": {"x": [odd]}}, "images": None}]}
    )  # fmt: skip
    assert spec.parse(spec.dump(found)) == found
