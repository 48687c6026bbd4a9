"""`kartina study` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.study import tiny_study


def test_run_list_report_publish(cli, finished: Path, tmp_path: Path) -> None:
    again = cli("study", "run", "blobs", "--resume", "--json").json
    assert again["status"] == "finished" and again["runs"]["finished"] == 4
    said = cli("study", "run", finished / "study.toml", "--resume").out
    assert "Finished blobs: 4 of 4 runs finished, 0 failed" in said and "kartina study report blobs" in said

    (row,) = cli("study", "list", "--json").json
    assert row == {"name": "blobs", "finished": 4, "failed": 0, "begun": 0, "waiting": 0}
    assert "blobs" in cli("study", "list").out

    report = cli("study", "report", "blobs", "--out", tmp_path / "page", "--json").json
    assert report["complete"] and report["test"] and Path(report["files"]["index.html"]).is_file()
    said = cli("study", "report", finished / "studies" / "blobs", "--no-test").out
    assert "wins" in said and "Wrote" in said

    made = cli("study", "publish", "blobs", "--licence", "CC0-1.0", "--json").json
    assert made[0]["ref"].startswith("blobs-") and made[0]["new"]
    assert "Found published already" in cli("study", "publish", "blobs").out
    card = cli("models", "show", made[0]["ref"], "--json")
    assert card.code == 0 and json.loads(card.out)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["study", "run", "nothing.toml"], "no file 'nothing.toml'"),
        (["study", "run", "nothing", "--resume"], "no study called 'nothing'; there are: blobs"),
        (["study", "report", "blob"], "Did you mean 'blobs'"),
        (["study", "publish", "blobs", "--data", "x"], "data set called 'x'"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(cli, finished: Path, args: list[str], says: str) -> None:
    found = cli(*args)
    assert found.code == 2 and says in " ".join(found.err.split()) and found.out == ""


def test_a_file_that_changed_is_refused(cli, finished: Path) -> None:
    changed = tiny_study.write(finished / "other.toml", tiny_study.TEXT.replace("samples = 60", "samples = 50"))
    found = cli("study", "run", changed, "--resume")
    assert found.code == 2 and "another evaluation in the file" in " ".join(found.err.split())
    shutil.rmtree(finished / "studies")
    assert cli("study", "list", "--json").json == []


def test_a_queued_study_has_no_workers(cli, blobs: Path) -> None:
    file = tiny_study.write(blobs / "study.toml")
    done = cli("study", "run", file, "--workers", 2, "--detach")
    assert (
        done.code == 2 and "--workers with --detach" in " ".join(done.err.split()) and not (blobs / "studies").exists()
    )
