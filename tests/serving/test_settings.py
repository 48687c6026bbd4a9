"""The guide of the engine's settings says what `kartina serve` has."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from kartina.cli.serve import serve
from kartina.settings import default as setting
from kartina.settings import show

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "engine.md"


def test_the_guide_lists_the_settings_and_their_defaults() -> None:
    app = typer.Typer()
    app.command()(serve)
    options = {option.opts[0]: option for option in typer.main.get_command(app).params}
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| `?(\w+)`? \|", GUIDE.read_text(), re.M))
    assert set(rows) == {
        "--device", "--batch", "--threads", "--runtime", "--precision",
        "--memory", "--queue", "--ready", "--cache", "--deterministic"
    }  # fmt: skip
    for name, default in rows.items():
        assert options[name].default is None  # not given: the environment's, the file's, or the model's
        assert show(setting(name.strip("-"))).replace("false", "off") == default, name
