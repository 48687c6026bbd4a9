"""`kartina settings`: what is set, to what, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kartina.cli.output import Json, print_json, table

CONFIG = typer.Option(help="The file of settings, instead of KARTINA_HOME/config.toml.", show_default=False)


def settings(config: Annotated[Path | None, CONFIG] = None, json: Json = False) -> None:
    """Every setting: its value, and where that comes from. Secrets and passwords are not shown."""
    from kartina.settings import Settings, load, variable

    found = load(config=config, strict=True)
    names = list(Settings.model_fields)
    if json:
        values = found.model_dump(mode="json")
        shown = {name: found.shown(name) if isinstance(values[name], str) else values[name] for name in names}
        return print_json(
            {name: {"value": shown[name], "source": found.source(name), "variable": variable(name)} for name in names}
        )
    table("Settings", ["setting", "value", "from"], [(name, found.shown(name), found.source(name)) for name in names])
