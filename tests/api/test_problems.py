"""Errors as problems: the header that says when to ask again, and titles in the page's other language."""

from __future__ import annotations

import json
from pathlib import Path

from kartina.api.problems import PROBLEMS, answer, extra_headers, problem_of
from kartina.errors import ConfigError, QueueFullError, RateError


def test_a_full_queue_says_when_there_should_be_room() -> None:
    for error in (QueueFullError("full", retry_after=17), RateError("slower", retry_after=17)):
        found = answer(problem_of(error.code, str(error)), extra_headers(error))
        assert found.status_code == 429 and found.headers["retry-after"] == "17"
    assert "retry-after" not in answer(problem_of("config", "wrong"), extra_headers(ConfigError("wrong"))).headers


def test_every_title_is_told_in_russian_too() -> None:
    titles = json.loads((Path(__file__).parents[2] / "web/src/lib/i18n/problems.ru.json").read_text())
    assert set(titles) == set(PROBLEMS) and all(titles.values())
