"""The client beside what it is made from: /openapi.json, and its own asynchronous half."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kartina.client import schemas, work_schemas

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "web" / "openapi.json").read_text())
COMPONENTS: dict[str, Any] = DOCUMENT["components"]["schemas"]

# Operations that are not the client's: the page's cookie, the ones of OpenAI's client, and of who runs the service.
OTHERS = {
    ("POST", "/v1/session"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
}
METHODS = ("get", "head", "post", "put", "patch", "delete")
# Never seen by callers, and any JSON.
HIDDEN = {"ReconnectEvent", "JsonValue"}


def models() -> dict[str, type[schemas.Data]]:
    """The client's models by name; not their bases."""
    every = {**vars(schemas), **vars(work_schemas)}
    found = {name: it for name, it in every.items() if isinstance(it, type) and issubclass(it, schemas.Data)}
    plain = {name: it for name, it in found.items() if it.__pydantic_generic_metadata__["origin"] is None}
    return {name: it for name, it in plain.items() if name not in ("Data", "Page", "Estimate")}


def plain(schema: Any) -> Any:
    """A schema's type and nothing else: no texts, no bounds, no defaults; open kinds as their known values."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    if "anyOf" in schema:
        parts = [plain(part) for part in schema["anyOf"]]
        enums = [part for part in parts if isinstance(part, list)]
        parts = [part for part in parts if not (enums and part == {"type": "string"})]
        return parts[0] if len(parts) == 1 else sorted(parts, key=lambda part: json.dumps(part, sort_keys=True))
    if "enum" in schema:
        return sorted(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    keep = ("type", "format", "items", "prefixItems", "additionalProperties")
    return {k: plain(v) for k, v in schema.items() if k in keep and v is not True}


@pytest.mark.parametrize("name", sorted(models()))
def test_a_model_is_what_the_service_says(name: str) -> None:
    ours = models()[name].model_json_schema(mode="serialization", by_alias=True)["properties"]
    theirs = COMPONENTS[name]["properties"]
    assert set(ours) == set(theirs)
    for field, schema in theirs.items():
        found, expected = plain(ours[field]), plain(schema)
        if "enum" not in json.dumps(ours[field]) and found == {"type": "string"} and isinstance(expected, list):
            continue  # one value today (kind: generation), any text tomorrow
        assert found == expected, f"{name}.{field}"


def reached(schema: Any) -> set[str]:
    """Names of the components that a schema is made of."""
    direct = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)))
    return direct | {name for one in direct if one in COMPONENTS for name in reached(COMPONENTS[one])}


def operations() -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), path): item[method]
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS
        if method in item
    }


def test_every_answer_has_a_model() -> None:
    wanted = set()
    for key, operation in operations().items():
        if key not in OTHERS:
            answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            wanted |= reached(answers)
    assert len(wanted) > 30
    assert wanted - set(models()) - HIDDEN == set()


def test_every_operation_is_called() -> None:
    text = "".join(file.read_text() for file in (ROOT / "src/kartina/client/asynchronous").glob("*.py"))
    called = set(re.findall(r'call\("([A-Z]+)", "([^"]+)"', text))
    assert called == set(operations()) - OTHERS


def test_the_synchronous_client_is_made_from_the_asynchronous_one() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "unasync.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [{f.name for f in (ROOT / "src/kartina/client" / half).glob("*.py")} for half in
             ("asynchronous", "synchronous")]  # fmt: skip
    assert names[0] == names[1]
