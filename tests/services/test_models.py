"""Models as the service shows them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kartina.errors import IntegrityError, NotFoundError
from kartina.models import package
from kartina.models.package import PackageRef
from kartina.services.models import RACY, Models
from tests.engine import toy_package


@pytest.fixture(autouse=True)
def _no_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kartina.models.package.BUNDLED", tmp_path / "none")


def test_a_model_tells_what_it_is(toy: PackageRef) -> None:
    found = Models().get("toy")
    assert found.ref == "toy@1"
    assert found.spec.classes == ("cat", "dog", "кот")
    assert found.tasks["generate"].defaults["steps"] == 4
    assert found.counts == {"cat": 3, "dog": 2, "кот": 1}
    assert found.metrics["coverage"]["value"] == 0.5
    assert found.created_at is not None
    assert found.samples == toy.path / "samples.png"
    assert len(found.class_images) == 3
    assert None not in found.class_images


def test_it_is_found_by_name_and_hash_but_never_by_path(toy: PackageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models()
    second = toy_package(toy.path.parent.parent, seed=1)
    assert models.get("toy").manifest.version == 2
    assert models.get("toy@1").path == toy.path
    assert models.get(models.get("toy@2").hash[:12]).path == second.path
    assert models.by_hash(models.get("toy@1").hash, "toy@1").path == toy.path
    monkeypatch.chdir(toy.path)
    for path in (str(toy.path), ".", "..", "../1", "toy/1"):
        with pytest.raises(NotFoundError):
            models.get(path)


def test_which_version_is_active_is_seen_at_once(toy: PackageRef) -> None:
    models = Models()
    toy_package(toy.path.parent.parent, seed=1)
    time.sleep(2 * RACY / 1e9)  # from now on the folders' times are relied upon
    for _ in range(2):
        assert models.get("toy").ref == "toy@2" and models.get("toy@2").active and not models.get("toy@1").active
    package.activate("toy@1")
    assert models.get("toy").ref == "toy@1" and models.get("toy@1").active and not models.get("toy@2").active
    time.sleep(2 * RACY / 1e9)
    assert models.get("toy").ref == "toy@1"
    package.activate("toy@2")
    assert models.get("toy").ref == "toy@2"
    package.remove("toy@2")
    assert models.get("toy").ref == "toy@1"


def test_pages_end(toy: PackageRef) -> None:
    for name in ("a", "b", "c", "d"):
        toy_package(toy.path.parent.parent, name)
    models = Models()
    seen, cursor = [], None
    for _ in range(10):
        page, cursor = models.list(2, cursor)
        seen += [info.ref for info in page]
        if cursor is None:
            break
    assert seen == ["a@1", "b@1", "c@1", "d@1", "toy@1"]


def test_a_damaged_package_is_left_out_and_named_when_asked_for(toy: PackageRef) -> None:
    broken = toy_package(toy.path.parent.parent, "broken")
    manifest = json.loads((broken.path / "model.json").read_text())
    models = Models()
    assert len(models.list(10)[0]) == 2
    (broken.path / "model.json").write_text(json.dumps({**manifest, "family": "other"}))
    assert [info.ref for info in models.list(10)[0]] == ["toy@1"]
    with pytest.raises(IntegrityError, match="changed after it was written"):
        models.get("broken")


def test_pictures_that_lead_out_of_the_package_are_not_there(toy: PackageRef, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (toy.path / "samples.png").unlink()
    (toy.path / "samples.png").symlink_to(secret)
    with pytest.raises(NotFoundError, match="no sample sheet"):
        Models().samples("toy")
    with pytest.raises(NotFoundError, match="class 3"):
        Models().class_image("toy", 3)
    assert Models().class_image("toy", 2).read_bytes().startswith(b"\x89PNG")
