"""Errors as problems: the header that says when to ask again."""

from __future__ import annotations

from kartina.api.problems import answer, extra_headers, problem_of
from kartina.errors import ConfigError, QueueFullError, RateError


def test_a_full_queue_says_when_there_should_be_room() -> None:
    for error in (QueueFullError("full", retry_after=17), RateError("slower", retry_after=17)):
        found = answer(problem_of(error.code, str(error)), extra_headers(error))
        assert found.status_code == 429 and found.headers["retry-after"] == "17"
    assert "retry-after" not in answer(problem_of("config", "wrong"), extra_headers(ConfigError("wrong"))).headers
