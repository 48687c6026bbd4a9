"""Every operation of openapi.json, fed with what fits its schema and what does not: no 5xx, no answer unlike it.

The requests go to a running service over a socket. SSE is left to tests of its own: it has no end to wait for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service import Service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias("application/partial-upload", "application/octet-stream")
document = json.loads((Path(__file__).parents[2] / "web" / "openapi.json").read_text())
schema = schemathesis.openapi.from_dict(document)
PATIENCE = 60.0  # seconds for an answer, on a busy machine
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@pytest.fixture(scope="module", autouse=True)
def _ready(service: Service) -> None:
    """/readyz is an operation too, and may say 503 while the worker is being started."""
    service.wait_ready()


def fuzz(case: schemathesis.Case, service: Service) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 2:
        body["model"] = "toy"  # so that some requests go further than a model that is not there
    if isinstance(body, dict) and case.path == "/v1/bulk" and isinstance(body.get("n"), int):
        body["n"] = min(body["n"], 100)  # a million of the toy's images would be made beside what follows
    headers = {"Authorization": f"Bearer {service.token}"}
    # A failure of one check would say too little: say what came back.
    case.call_and_validate(base_url=service.url, headers=headers, checks=CHECKS, timeout=PATIENCE)


@schema.parametrize()
@hypothesis.settings(max_examples=8, **QUIET)
def test_no_operation_breaks(case: schemathesis.Case, service: Service) -> None:
    fuzz(case, service)


@pytest.mark.slow
@schema.parametrize()
@hypothesis.settings(max_examples=int(os.environ.get("KARTINA_FUZZ", "60")), **QUIET)
def test_no_operation_breaks_under_many(case: schemathesis.Case, service: Service) -> None:
    fuzz(case, service)
