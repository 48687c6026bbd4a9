"""Every operation of openapi.json, fed with what fits its schema and what does not: no 5xx, no answer unlike it, and
what does not fit is refused.

The requests go to a running service over a socket.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service import Service

CHECKS = [
    not_a_server_error,
    negative_data_rejection,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias("application/partial-upload", "application/octet-stream")
document = json.loads((Path(__file__).parents[2] / "web" / "openapi.json").read_text())
# What does not fit is refused, whatever 4xx says so: 413, too, for an array so long that its body is not read.
REFUSED = {"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}}
schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(REFUSED))
PATIENCE = 60.0  # seconds for an answer, on a busy machine
MANY = int(os.environ.get("KARTINA_FUZZ", "60"))  # cases of each operation, in the long tests
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@pytest.fixture(scope="module")
def service(working: Service) -> Service:
    return working


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
    # A list where the schema has none goes out as the parameter several times, of which the last counts, and may fit;
    # a single value where it has a list is a list of one.
    lists = {of["name"] for of in case.operation.definition.raw.get("parameters", []) if "'array'" in str(of["schema"])}
    other = any(isinstance(value, list) is not (name in lists) for name, value in (case.query or {}).items())
    checks = [check for check in CHECKS if check is not negative_data_rejection or not other]
    # A failure of one check would say too little: say what came back.
    case.call_and_validate(base_url=service.url, headers=headers, checks=checks, timeout=PATIENCE)


def under(operation: str, cases: int) -> Callable[[Service], None]:
    """A test of one operation, which makes its cases when it runs: made by `parametrize` when it is collected, those of
    all operations would cost every process of pytest-xdist half a minute."""

    def test(service: Service) -> None:
        @hypothesis.settings(max_examples=cases, **QUIET)
        def every(case: schemathesis.Case) -> None:
            fuzz(case, service)

        chosen = schema.include(operation_id=operation)
        (made,) = get_all_tests(schema=chosen, test_func=every, settings=None, given_kwargs=None)
        made.ok()[1]()

    return test


OPERATIONS = [found["operationId"] for path in document["paths"].values() for found in path.values()]

for name in OPERATIONS:
    globals()[f"test_{name}"] = under(name, 2)
    globals()[f"test_{name}_under_many"] = pytest.mark.slow(under(name, MANY))


def test_every_operation_has_a_test_of_its_own_name(request: pytest.FixtureRequest) -> None:
    here = [item.nodeid for item in request.session.items if item.path == request.path]
    assert len(OPERATIONS) == len(set(OPERATIONS)) > 80 and len(here) == len(set(here))
