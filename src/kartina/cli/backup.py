"""`kartina backup` and `kartina restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kartina.cli.output import Json, out, print_json

if TYPE_CHECKING:
    from kartina.services.backup import Manifest, Part


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Also the secrets of API keys and sessions, and config.toml.")
    ] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Also runs, studies and what jobs have made.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Also data sets.")] = False,
    json: Json = False,
) -> None:
    """Copy the database, images and models into a folder, with a hash of every file. The service may be running."""
    from kartina.services import backup as service

    parts: list[Part] = ["models"]
    parts += ["secrets"] if secrets else []
    parts += ["runs"] if runs else []
    parts += ["data"] if data else []
    made = service.backup(target, parts)
    if json:
        return print_json(_summary(made, target))
    out.print(f"Wrote {target}: {_words(made)}.", highlight=False, soft_wrap=True)
    if not secrets:
        out.print("Without --secrets: API keys work again only where keys.key (or KARTINA_SECRET) is the same.")


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `kartina backup` made.")], json: Json = False
) -> None:
    """Check a backup and fill an empty KARTINA_HOME from it. Nothing is ever overwritten."""
    from kartina.config import home
    from kartina.services import backup as service

    made = service.restore(source)
    if json:
        return print_json(_summary(made, home()))
    out.print(f"Restored {home()}: {_words(made)}.", highlight=False, soft_wrap=True)


def _words(made: Manifest) -> str:
    return f"{made.blobs:,} blobs, {len(made.files):,} files, {made.bytes:,} bytes, {', '.join(made.parts)}"


def _summary(made: Manifest, where: Path) -> dict[str, Any]:
    return {**made.model_dump(mode="json", exclude={"files"}), "where": str(where), "bytes": made.bytes,
            "files": len(made.files)}  # fmt: skip
