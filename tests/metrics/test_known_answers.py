"""Every known answer, within its tolerance; `python -m benchmarks.known_answers` prints the same table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.known_answers import CHECKS, Check

LONG = {"planted_copies_are_found", "two_ranks_are_one_process"}  # three judges, and four processes: in test-all


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.__name__, marks=pytest.mark.slow if check.__name__ in LONG else ())
        for check in CHECKS
    ],
)
def test_known_answer(check: Check, record_property: Callable[[str, object], None]) -> None:
    errors = check()
    assert errors
    for what, (tolerance, observed) in errors.items():
        record_property(what, f"{observed:.2e} of {tolerance:.0e}")
    wrong = {what: pair for what, pair in errors.items() if not pair[1] <= pair[0]}
    assert not wrong
