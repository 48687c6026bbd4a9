"""Controls against a JSON Schema as pydantic writes it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from kartina.errors import ConfigError
from kartina.services.controls import check_controls


class Knobs(BaseModel):
    steps: int = Field(12, ge=1, le=200)
    guidance: float = Field(1.5, ge=0, lt=10)
    solver: Literal["heun", "euler"] = "heun"
    fast: bool = False
    limit: int | None = Field(None, gt=0)
    tile: int = Field(8, multiple_of=8)


SCHEMA = Knobs.model_json_schema()
DEFAULTS = Knobs().model_dump()


def test_defaults_fill_in_and_given_values_win() -> None:
    assert check_controls({"steps": 5}, SCHEMA, DEFAULTS) == {**DEFAULTS, "steps": 5}


@pytest.mark.parametrize(
    "good",
    [{"guidance": 0}, {"guidance": 2}, {"steps": 5.0}, {"limit": None}, {"limit": 3}, {"fast": True}, {"tile": 64}],
)
def test_what_the_model_takes_passes(good: dict[str, Any]) -> None:
    Knobs.model_validate(good)
    check_controls(good, SCHEMA, DEFAULTS)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"stepps": 5}, "stepps: no such control; there are: steps, .* Did you mean 'steps'"),
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"steps": 201}, "at most 200"),
        ({"steps": 2.5}, "expected an integer, found 2.5"),
        ({"steps": True}, "expected an integer, found True"),
        ({"steps": "5"}, "expected an integer, found '5'"),
        ({"guidance": 10}, "less than 10"),
        ({"guidance": float("nan")}, "expected a number"),
        ({"guidance": float("inf")}, "expected a number"),
        ({"solver": "rk4"}, "expected one of 'heun', 'euler', found 'rk4'"),
        ({"fast": 1}, "expected a boolean"),
        ({"limit": 0}, "more than 0"),
        ({"tile": 12}, "a multiple of 8"),
        ({"steps": None}, "expected an integer, found None"),
    ],
)
def test_what_is_wrong_is_named(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_controls(bad, SCHEMA, DEFAULTS)
    assert len(caught.value.details) == 1


def test_every_wrong_key_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        check_controls({"steps": 0, "solver": "rk4"}, SCHEMA, DEFAULTS)
    assert [line.split(":")[0] for line in caught.value.details] == ["controls.steps", "controls.solver"]
