"""The README's tour is run, command by command (its Python: tests/client/test_guide.py)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kartina.data.digits import import_digits
from kartina.metrics.classifier import domain_classifier
from tests.cli.conftest import Cli, cli  # noqa: F401  a fixture

README = Path(__file__).resolve().parents[1] / "README.md"


def commands() -> list[str]:
    """The tour's commands: lines that begin with `$ `."""
    tour = README.read_text().split("<!-- tour: begin -->")[1].split("<!-- tour: end -->")[0]
    return re.findall(r"^    \$ (.*)$", tour, flags=re.M)


def test_the_tour_runs(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:  # noqa: F811
    """As written, except that trainings are cut to a moment, the judge's too, and numbers come from few images."""
    with monkeypatch.context() as patch:
        patch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
        domain_classifier(import_digits())
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) >= 6 and all(c.startswith("kartina ") for c in found)
    for command in found:
        words = shlex.split(re.sub(r"--(budget|images) \S+", "--images 64", command))[1:]
        words += ["--samples", "60", "--seeds", "2"] if words[0] == "publish" else []
        done = cli(*words)
        assert done.code == 0, (command, done.err)
    assert (tmp_path / "digits.png").is_file()


def test_every_verb_the_readme_names_exists(cli: Cli) -> None:  # noqa: F811
    verbs = set(
        re.findall(
            r"kartina (data \w+|train|publish|serve|sample|evaluate|runs \w+|models \w+|jobs \w+|presets)",
            README.read_text(),
        )
    )
    assert len(verbs) > 8
    for verb in verbs:
        assert cli(*verb.split(), "--help").code == 0, verb


def test_what_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)", README.read_text())
    assert links and all((README.parent / link).exists() for link in links), links
