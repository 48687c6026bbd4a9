"""kartina data: JSON alone on stdout, tables otherwise; bad input is a sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kartina.cli.data import app
from kartina.errors import KartinaError
from tests.pictures import pack, pixels, save, tree


def data(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect_import_list(tmp_path: Path, home: Path) -> None:
    root = tree(tmp_path / "in", {"cat": 30, "dog": 10})
    report = json.loads(data("inspect", root, "--json"))
    assert report["images"] == 40 and report["classes"] == {"cat": 30, "dog": 10} and report["splits"] == {"train": 40}
    assert {"sizes", "modes", "problems", "advice"} <= report.keys()
    assert {p["kind"] for p in report["problems"]} == {"tiny_class"}
    assert not home.exists()
    about = json.loads(data("import", root, "--name", "pets", "--size", "8", "--json"))
    assert about["spec"]["classes"] == ["cat", "dog"] and about["images"] == 40
    listed = {d["name"]: d for d in json.loads(data("list", "--json"))}
    assert listed["pets"]["hash"] == about["hash"] and listed["pets"]["splits"] == {"train": 32, "val": 4, "test": 4}
    assert listed["digits"]["images"] == 1797 and listed["digits"]["hash"] is None


def test_tables(tmp_path: Path, home: Path) -> None:
    root = tree(tmp_path / "in", {"cat": 30, "dog": 10})
    (root / "cat" / "bad.png").write_text("x")
    text = data("inspect", root)
    assert "40 images" in text and "cat" in text and "corrupt" in text and "--skip-bad" in text
    text = data("import", root, "--name", "pets", "--skip-bad", "--flip", "off", "--fit", "pad", "--channels", "1")
    assert "Skipped 1 files" in text and "16 x 16 x 1" in text and "not flip-safe" in text and "val 4 (made)" in text
    assert "pets" in data("list") and "digits" in data("list")


def test_class_names_with_slashes_and_spaces(tmp_path: Path, home: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.stack([pixels(i) for i in range(30)]), labels=np.arange(30) % 3)
    about = json.loads(
        data("import", tmp_path / "a.npz", "--name", "f", "--class-names", "T-shirt/top, Ankle boot,Bag", "--json")
    )
    assert about["spec"]["classes"] == ["T-shirt/top", "Ankle boot", "Bag"] and about["spec"]["flip_safe"]


def test_a_damaged_set_does_not_hide_the_others(tmp_path: Path, home: Path) -> None:
    (home / "data" / "broken").mkdir(parents=True)
    (home / "data" / "broken" / "data.json").write_text("{")
    assert {d["name"] for d in json.loads(data("list", "--json"))} == {"broken", "digits"}
    assert "broken" in data("list")


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", b"\0" * 20_000_000)
    return path


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def bad_inputs(root: Path) -> dict[str, tuple[Path, str, list[str]]]:
    """What it is -> (path, a part of what is printed, further arguments)."""
    good = tree(root / "good", {"cat": 3, "dog": 3})
    text = tree(root / "text", {"cat": 3, "dog": 3})
    (text / "cat" / "note.png").write_text("I am text")
    cut = tree(root / "cut", {"cat": 3, "dog": 3})
    (cut / "dog" / "cut.jpg").write_bytes(jpeg()[:-300])
    (root / "empty").mkdir()
    np.savez(root / "keys.npz", pictures=np.zeros((3, 4, 4), np.uint8))
    np.savez(root / "float.npz", images=np.zeros((3, 4, 4)), labels=np.zeros(3, int))
    np.savez(root / "length.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.zeros(2, int))
    (root / "good" / "out.csv").write_text("path,label\n../../etc/passwd.png,a\n")
    return {
        "missing path": (root / "none", "Found nothing at", []),
        "empty folder": (root / "empty", "Found no JPEG, PNG or WebP images", []),
        "one class": (tree(root / "one", {"cat": 3}), "Found 1 class ('cat')", []),
        "text called .png": (text, "found text, expected a JPEG, PNG or WebP image", []),
        "truncated JPEG": (cut, "found a truncated image", []),
        "zip with ../": (pack(good, root / "up.zip", more=[("../x.png", b"x")]), "Found the name '../x.png'", []),
        "zip bomb": (bomb(root / "bomb.zip"), "looks like a ZIP bomb", []),
        "no zip": (Path(save(root / "p.png").rename(root / "fake.zip")), "is no ZIP or is cut off", []),
        "npz keys": (root / "keys.npz", "Found the arrays pictures", []),
        "npz of floats": (root / "float.npz", "Found float64 images", []),
        "npz lengths": (root / "length.npz", "Found 3 images in length.npz:images.npy but 2 labels", []),
        "manifest path": (root / "good" / "out.csv", "expected one inside the folder", []),
        "wrong size": (good, "Found size 100000", ["--size", "100000"]),
        "wrong name": (good, "Found the name 'My Pets'", ["--name", "My Pets"]),
        "wrong regex": (good, "expected a regular expression", ["--group-by", "("]),
    }


MAIN = "from kartina.cli import main; main()"


def kartina(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", MAIN, *map(str, args)], text=True, capture_output=True, timeout=120,
                          env={**os.environ, "COLUMNS": "80"})  # fmt: skip


def test_every_bad_input_is_a_sentence_and_leaves_nothing(tmp_path: Path, home: Path) -> None:
    for what, (path, message, more) in bad_inputs(tmp_path).items():
        result: Any = CliRunner().invoke(app, ["import", str(path), "--name", "x", *more])
        assert isinstance(result.exception, KartinaError), (what, result.exception)
        said = "\n".join([str(result.exception), *result.exception.details])
        assert message in said and "expected" in said, (what, said)
        assert result.stdout == ""
        assert not (home / "data").exists() or list((home / "data").iterdir()) == [], what


def test_a_home_that_cannot_be_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a file, and on Linux where the kernel has no folders of ours."""
    file = tmp_path / "file"
    file.write_text("")
    inputs = bad_inputs(tmp_path)
    good = inputs["wrong size"][0]
    for home in (file / "home", *([Path("/proc/kartina")] if Path("/proc/self").exists() else [])):
        monkeypatch.setenv("KARTINA_HOME", str(home))
        done = kartina("data", "import", good, "--name", "x")
        assert done.returncode == 2 and "Traceback" not in done.stderr and "KARTINA_HOME" in done.stderr, done.stderr


def test_the_command_prints_the_sentence_and_exits_with_2(tmp_path: Path, home: Path) -> None:
    inputs = bad_inputs(tmp_path)
    for what in ("missing path", "text called .png"):
        path, message, more = inputs[what]
        done = kartina("data", "import", path, "--name", "x", "--json", *more)
        assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
        assert message in done.stderr
