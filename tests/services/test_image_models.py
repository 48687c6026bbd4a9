"""A model that only works on images: listed, shown, and refused in words without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kartina.api.schemas import Model
from kartina.errors import ConfigError, NotFoundError
from kartina.handlers.publish import pictures
from kartina.models.model import save
from kartina.models.package import PackageRef
from kartina.services.generations import Submission
from kartina.services.models import Models
from tests import tiny
from tests.engine import CARD, PROVENANCE, Background
from tests.services.test_generations import Made, drive


@pytest.fixture
def pix(toy: PackageRef, home: Path) -> PackageRef:
    shape = tiny.fitted("pix2pix", tiny.spec(16, 1, 0))
    data = tiny.images(30, shape)
    made = tiny.sampler("pix2pix", shape=shape)
    return save(made, "pix", PROVENANCE, CARD, pictures=lambda model: pictures(model, data), root=home / "models")


def test_it_is_listed_beside_the_others_and_shown(pix: PackageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kartina.models.package.BUNDLED", pix.path / "none")
    models = Models()
    assert [info.ref for info in models.list(10)[0]] == ["pix@1", "toy@1"]
    shown = Model.of(models.get("pix")).model_dump(by_alias=True)
    assert list(shown["tasks"]) == ["translate"] and shown["tasks"]["translate"]["inputs"] == ["image"]
    assert shown["tasks"]["translate"]["defaults"] == {"dropout": True}
    assert shown["image"]["channels"] == 1 and shown["classes"] == []
    assert models.samples("pix").read_bytes().startswith(b"\x89PNG")


def test_asking_it_for_images_is_refused_with_what_to_do(pix: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
        with pytest.raises(NotFoundError, match=r"there are: translate\. Those are what pix@1 can do"):
            await made.submit(Submission(model="pix"))
        with pytest.raises(ConfigError, match=r"kinds: none; the task 'translate' takes: image"):
            await made.submit(Submission(model="pix", task="translate"))
        fine = await made.submit(Submission(model="toy", n=1))
        assert (await made.wait(fine.id, 20)).status == "succeeded"
        assert [g.id for g in (await made.list(10))[0]] == [fine.id]

    drive(worker, home, use)
