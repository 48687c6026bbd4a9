"""The command line: one verb per use case, no logic.

Modules that need torch are imported inside the verbs, so that `kartina --help` and `kartina data` answer at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

import kartina
from kartina.cli.output import err, fail
from kartina.errors import KartinaError, disk_errors

app = typer.Typer(
    name="kartina",
    help="Bring labelled images; get the best conditional generator for them: trained, measured, served.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(kartina.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Bring labelled images; get the best conditional generator for them: trained, measured, served.

    Everything you make is kept in KARTINA_HOME (default ~/.kartina).
    """


def _register() -> None:
    if app.registered_commands:
        return
    for module, name in (
        ("data", "data"),
        ("train", "presets"),
        ("train", "train"),
        ("train", "runs"),
        ("sample", "sample"),
        ("images", "translate"),
        ("images", "upscale"),
        ("images", "colorize"),
        ("images", "transform"),
        ("images", "inpaint"),
        ("images", "interpolate"),
        ("images", "invert"),
        ("images", "morph"),
        ("publish", "publish"),
        ("evaluate", "evaluate"),
        ("features", "features"),
        ("study", "study"),
        ("models", "models"),
        ("serve", "serve"),
        ("jobs", "jobs"),
        ("keys", "keys"),
        ("settings", "settings"),
        ("backup", "backup"),
        ("backup", "restore"),
    ):
        verb: Any = getattr(import_module(f"kartina.cli.{module}"), "app" if name == module == "data" else name)
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name)
        else:
            app.command(name)(verb)


def main() -> None:
    """Entry point: run a verb; an expected error is one sentence on stderr and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin starve each other on a busy machine
    _register()
    try:
        with disk_errors("finish"):
            app()
    except KartinaError as error:
        fail(error)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
