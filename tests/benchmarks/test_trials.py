"""The page of trials: a table for each identity that numbers have, and no interval of one seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.families import cell
from benchmarks.trials import page

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def found(name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads((RESULTS / name / "results.json").read_text())
    return made


def test_numbers_of_different_data_have_their_own_floor() -> None:
    told = page("Trials", found("colour-64"))
    cells, clothing = told[: told.index("## cells60")].split("| trial |")[1:]
    assert "| cells60 |" in cells and "clothing60" not in cells and "| clothing60 |" in clothing
    assert "| *real images (floor)* | | 0.997 | 0.960 | 1.00 | | 0.14 |" in cells
    assert "On val of a3597f8d34db: 390 generated against 390 real images" in cells
    assert "| 1.37 |" in clothing and "On val of 1c0b65440e89: 300" in clothing


def test_one_seed_has_no_interval() -> None:
    assert cell({"value": 0.5, "interval": None}, 2) == "0.50 (one seed)"
    told = page("Trials", found("cifar-gpu"))
    assert "nan" not in told and "one generation seed (0), so no intervals" in told
    assert told.count("*real images (floor)*") == 1


@pytest.mark.parametrize("name", ["colour-64", "cifar-gpu"])
def test_the_committed_tables_are_those_of_the_committed_numbers(name: str) -> None:
    told, here = page("Trials", found(name)), (RESULTS / name / "README.md").read_text()
    first = f"\n## {found(name)[0]['trial']['name']}\n"
    table = told[told.index("| trial |") : told.index(first)]
    assert table in here
