"""`kartina keys`: create, list and revoke API keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from kartina.cli.output import Json, out, print_json, table

keys = typer.Typer(help="API keys: create one (it is shown once), list them, revoke one.", no_args_is_help=True)


def _access() -> Any:
    from kartina.services.keys import Access, pepper
    from kartina.storage.database import open_database
    from kartina.storage.keys import Keys

    return Access(Keys(open_database()), pepper())


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="generate (default), models, keys, data, train, metrics; give it several times for several."),
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests at most, such as 60/minute or 5/second.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="At most so many images x steps a day.")] = None,
    images: Annotated[int | None, typer.Option(min=0, help="At most so many stored images.")] = None,
    size: Annotated[int | None, typer.Option("--bytes", min=0, help="At most so many stored bytes.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="At most so many jobs that are not at their end.")] = 20,
    days: Annotated[int | None, typer.Option(min=1, help="It ends after so many days.")] = None,
    json: Json = False,
) -> None:
    """Create an API key and print it: it is not kept, and cannot be shown again."""
    from kartina.services.keys import RATE
    from kartina.storage.usage import Quota

    limit = RATE if rate is None else rate
    key, text = _access().create(name, scope or ["generate"], Quota(steps, images, size, jobs), limit, days)
    if json:
        return print_json({"id": key.id, "key": text, "name": key.name, "scopes": list(key.scopes)})
    out.print(f"Key {key.id} for {name!r}. It is shown this once:", highlight=False)
    typer.echo(text)
    out.print(
        f'Send it as "Authorization: Bearer {text[:6]}...". Revoke: kartina keys revoke {key.id}', highlight=False
    )


@keys.command("list")
def list_(json: Json = False) -> None:
    """All keys, newest first, with what each has used."""
    found = _access().list()
    if json:
        return print_json(
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "prefix": f"kt_{key.prefix}",
                    "scopes": list(key.scopes),
                    "rate": key.rate,
                    "quota": asdict(key.quota),
                    "used": asdict(used),
                    "created_at": key.created_at.isoformat(),
                    "expires_at": key.expires_at and key.expires_at.isoformat(),
                    "used_at": key.used_at and key.used_at.isoformat(),
                    "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
                }
                for key, used in found
            ]
        )
    rows = [
        (key.id, key.name, f"kt_{key.prefix}_...", ", ".join(key.scopes), key.rate,
         "revoked" if key.revoked_at else f"{used.images} images, {used.bytes:,} bytes")
        for key, used in found
    ]  # fmt: skip
    table("API keys", ["id", "name", "key", "scopes", "rate", ""], rows)


@keys.command("revoke")
def revoke(id: Annotated[str, typer.Argument(help="The key's id: key_...")], json: Json = False) -> None:
    """From now on the key opens nothing. What was made with it stays."""
    key = _access().revoke(id)
    if json:
        return print_json({"revoked": key.id})
    out.print(f"Revoked {key.id} ({key.name})", highlight=False)
