"""`kartina models`: list, show, activate, rollback, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from kartina.cli.output import Json, err, out, print_json, table
from kartina.models import package
from kartina.models.package import PackageRef

models = typer.Typer(help="Published models: list, look at one, choose a version, remove one.", no_args_is_help=True)


def _row(found: PackageRef) -> dict[str, Any]:
    manifest, card = package.read_manifest(found.path), package.read_card(found.path)
    return {
        "ref": str(found),
        "name": found.name,
        "version": found.version,
        "hash": manifest.hash,
        "family": manifest.family,
        "preset": manifest.provenance.preset,
        "data": manifest.provenance.data,
        "size": f"{manifest.spec.width}x{manifest.spec.height}x{manifest.spec.channels}",
        "classes": list(manifest.spec.classes),
        "parameters": manifest.parameters,
        "bundled": found.bundled,
        "metrics": card.get("metrics", {}),
    }


@models.command("list")
def list_(json: Json = False) -> None:
    """All models: your own first, then the bundled ones."""
    from kartina.errors import IntegrityError

    rows = []
    for found in package.list_packages():
        try:
            rows.append(_row(found))
        except IntegrityError as error:
            err.print(f"[yellow]Warning:[/] {escape(str(error))}", highlight=False)
    if json:
        return print_json(rows)
    shown = [
        (r["ref"], r["family"], r["data"], r["size"], len(r["classes"]), "bundled" if r["bundled"] else "")
        for r in rows
    ]  # fmt: skip
    table("Models", ["model", "family", "data", "size", ">classes", ""], shown)


@models.command("show")
def show(model: Annotated[str, typer.Argument(help="name, name@2, hash or folder.")], json: Json = False) -> None:
    """One model: what it makes, where it comes from, how good it is."""
    from kartina.cli.evaluate import show_numbers

    found = package.find(model)
    manifest, card = package.read_manifest(found.path), package.read_card(found.path)
    if json:
        return print_json(
            {**_row(found), "path": str(found.path), "card": card, "manifest": manifest.json_shape()}
        )  # fmt: skip
    origin, row = manifest.provenance, _row(found)
    rows = [
        ("about", card.get("about")), ("licence", card.get("licence") or "not stated"), ("hash", manifest.hash),
        ("family", f"{manifest.family}, {manifest.parameters:,} parameters"), ("images", row["size"]),
        ("classes", ", ".join(manifest.spec.classes) or "none"),
        ("trained on", f"{origin.data} ({origin.data_hash[:12]})"),
        ("training", f"{origin.preset}, {origin.images:,} images in {origin.seconds:,.0f} s, seed {origin.seed}"),
        ("published", origin.created_at), ("folder", found.path), ("tasks", ", ".join(manifest.tasks)),
    ]  # fmt: skip
    said: set[tuple[str, str]] = set()  # what a task shares with others before it is not said again
    for task, about in manifest.tasks.items():
        again = []
        for key, schema in about.schema_.get("properties", {}).items():
            default = about.defaults.get(key, schema.get("default"))
            words = f"{schema.get('description', '')} (default {default})".strip()
            if (key, words) in said:
                again.append(key)
            else:
                rows.append((f"{task} {key}", words))
            said.add((key, words))
        if again:
            rows.append((task, f"as above: {', '.join(again)}"))
    table(str(found), ["", ""], rows)
    show_numbers("Numbers, on val", {"metrics": {}, "per_class": [], **card})


@models.command("rm")
def rm(
    model: Annotated[str, typer.Argument(help="name (newest version), name@2 or hash.")], json: Json = False
) -> None:
    """Remove one version of your own models. Bundled models stay."""
    from kartina.services import packages

    found = packages.remove(model)
    if json:
        return print_json({"removed": str(found)})
    out.print(f"Removed {found}", highlight=False)


@models.command("activate")
def activate(model: Annotated[str, typer.Argument(help="name@2 or hash.")], json: Json = False) -> None:
    """From now on the name alone means this version, here and in the service."""
    found = package.activate(model)
    if json:
        return print_json({"active": str(found)})
    out.print(f"{found.name} means {found} now", highlight=False)


@models.command("rollback")
def rollback(name: Annotated[str, typer.Argument(help="A model's name.")], json: Json = False) -> None:
    """Make the version active again that was before."""
    found = package.roll_back(name)
    if json:
        return print_json({"active": str(found)})
    out.print(f"{found.name} means {found} now", highlight=False)
