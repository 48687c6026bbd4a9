"""Long work by the client: an archive uploaded in parts, imported, trained on, published; many images; a study."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image as PilImage

from kartina.client import (
    CanceledError,
    Client,
    ConflictError,
    InputError,
    Job,
    NotFoundError,
    UnreachableError,
    WorkLogEvent,
    WorkProgressEvent,
)
from kartina.errors import ConfigError
from tests.relay import Relay
from tests.service import Service

SETTINGS = {"width": 8, "width_max": 8, "threads": 1, "batch": 8, "grids": 2, "precision": "fp32",
            "checkpoint_every": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with service.bearer("generate", "models", "data", "train") as bearer:
        key = bearer.headers["authorization"].removeprefix("Bearer ")
    with Client(service.url, key) as made:
        yield made


@pytest.fixture(scope="module")
def relayed(client: Client, service: Service) -> Iterator[tuple[Client, Relay]]:
    """The same client over a relay that can break connections."""
    relay = Relay(service.port)
    with closing(relay), Client(relay.url, client._http.http.headers["authorization"][7:]) as made:
        yield made, relay


@pytest.fixture(scope="module")
def imported(client: Client, relayed: tuple[Client, Relay], archive: Path) -> Job:
    """The archive as the data set `shapes`, uploaded in small parts of which answers are lost."""
    through, relay = relayed
    told: list[tuple[int, int]] = []

    def progress(there: int, of: int) -> None:
        told.append((there, of))
        if len(told) in (2, 4):
            relay.lose = 1

    size = archive.stat().st_size
    upload = through.uploads.send(archive, progress=progress, part=16 * 1024)
    assert upload.complete and upload.received == upload.bytes == size and relay.lose == 0
    assert told == sorted(set(told)) and told[0] == (0, size) and told[-1] == (size, size) and len(told) >= 4
    assert [one.id for one in client.uploads.list()] == [upload.id]
    found = client.datasets.inspect(upload, wait=True)
    assert found.kind == "inspect" and found.result
    return client.datasets.create("shapes", upload, wait=True)


def test_an_archive_becomes_a_data_set(client: Client, imported: Job, archive: Path) -> None:
    assert imported.status == "succeeded"
    data = client.datasets.get("shapes")
    assert (data.images, data.width, [one.name for one in data.classes]) == (60, 32, ["a", "b", "c"])
    assert data.own and data.report is not None and data.report.images == 60
    assert {"shapes", "digits"} <= {one.name for one in client.datasets.list()}
    every = list(client.datasets.images("shapes"))
    train = list(client.datasets.images("shapes", split="train", label="b"))
    assert len(every) == 60 and {one.label for one in train} == {"b"} and {one.split for one in train} == {"train"}
    for content in (client.datasets.image("shapes", 3), client.datasets.class_image("shapes", 2)):
        assert PilImage.open(io.BytesIO(content)).size == (32, 32)
    with pytest.raises(NotFoundError):
        client.datasets.source("shapes", 0)
    with pytest.raises(InputError):
        client.datasets.create("SHAPES!", archive)
    (archive.parent / "other.zip").write_bytes(b"x")
    broken = client.uploads.send(archive)
    with pytest.raises(ConfigError, match=r"Found 1 bytes in .*other.zip; expected the"):
        client.uploads.resume(broken.id, archive.parent / "other.zip")
    client.uploads.delete(broken.id)
    with pytest.raises(NotFoundError):
        client.uploads.get(broken.id)


def test_an_upload_whose_first_answer_is_lost_is_begun_once(
    client: Client, relayed: tuple[Client, Relay], archive: Path
) -> None:
    through, relay = relayed
    before = {one.id for one in client.uploads.list()}
    relay.lose = 1
    with pytest.raises(UnreachableError):
        through.uploads.send(archive)
    begun = [one for one in client.uploads.list() if one.id not in before]
    assert relay.lose == 0 and len(begun) == 1 and begun[0].received == 0
    assert client.uploads.resume(begun[0].id, archive).complete
    client.uploads.delete(begun[0].id)


@pytest.mark.slow
def test_a_run_from_its_start_to_its_model(client: Client, imported: Job) -> None:
    assert "vae-32-cpu" in [preset.name for preset in client.presets.list()]
    assert "width" in client.presets.get("vae-32-cpu").settings_schema["properties"]
    with pytest.raises(InputError, match="one of budget and images"):
        client.runs.start("vae-32-cpu", "shapes")
    job = client.runs.start("vae-32-cpu", "shapes", images=400, settings=SETTINGS, device="cpu", name="small")
    seen = list(job.events())
    assert any(isinstance(event, WorkProgressEvent) for event in seen)
    assert any(isinstance(event, WorkLogEvent) for event in seen)
    name = str(job.wait().result["run"])
    run = client.runs.get(name)
    assert (run.status, run.images, run.total) == ("finished", 400, 400) and name in [
        r.name for r in client.runs.list()
    ]
    assert [line["images"] for line in client.runs.stats(name)][-1] == 400
    assert client.runs.grid(name, run.grids[-1].images)[1:4] == b"PNG"
    left = client.runs.estimate_extension(name, images=80)
    assert left.images.value == 80 and left.wall_seconds.value > 0 and left.disk.enough
    longer = client.runs.extend(name, images=80, wait=True)
    assert longer.result["images"] == 480
    with pytest.raises(ConflictError):
        client.runs.pause(name)
    foretold = client.runs.estimate_publication(name, "shapes", evaluate=False)
    assert foretold.images == 24 and foretold.disk.needed > 0
    published = client.runs.publish(name, "shapes", evaluate=False, licence="CC0-1.0", wait=True)
    assert published.result["model"] == "shapes@1"
    assert client.generate("shapes", "b", wait=True).images[0].label == "b"

    # Stopped and gone on with.
    job = client.runs.start("vae-32-cpu", "shapes", images=10**7, settings=SETTINGS, device="cpu")
    run_of = ""
    for event in job.events():
        if isinstance(event, WorkLogEvent) and event.text.startswith("run "):
            run_of = event.text[4:]
        if isinstance(event, WorkProgressEvent) and run_of and event.progress.value > 0:
            break
    assert client.runs.pause(run_of).id == job.id
    with pytest.raises(CanceledError):
        job.wait(60)
    assert client.runs.get(run_of).status == "paused"
    assert client.runs.estimate_resume(run_of).images.value == 10**7 - client.runs.get(run_of).images
    with client.runs.resume(run_of) as again:
        assert again.id != "" and not again.finished  # leaving the block cancels it
    with pytest.raises(CanceledError):
        again.wait()
    client.runs.delete(run_of)
    with pytest.raises(NotFoundError):
        client.runs.get(run_of)
    estimate = client.runs.estimate_evaluation(run=name, samples=30, seeds=2, metrics=["class_agreement"])
    assert estimate.images > 0 and estimate.wall_seconds.value > 0 and estimate.disk.enough
    measured = client.runs.evaluate(run=name, samples=30, seeds=2, metrics=["class_agreement"])
    assert measured.kind == "evaluate" and measured.cancel().status in ("canceling", "canceled")
    assert job.id in [one.id for one in client.jobs.list(kind="train")]


def test_many_images(client: Client, relayed: tuple[Client, Relay], tmp_path: Path) -> None:
    through, relay = relayed
    estimate = client.bulk.estimate("toy", n=300)
    assert estimate.images == 300 and estimate.bytes.value > 0 and estimate.fits
    job = through.bulk.create("toy", counts={"cat": 200, "dog": 100}, seed=5, controls={"steps": 1}, wait=True)
    assert [file.name for file in job.files] == ["images.zip"]
    relay.cut_after = job.files[0].size // 2
    path = job.save(tmp_path / "images.zip")
    assert relay.cut_after is None and path.stat().st_size == job.files[0].size
    with zipfile.ZipFile(path) as found:
        assert found.testzip() is None
        assert sum(name.endswith(".png") for name in found.namelist()) == 300
    with pytest.raises(ConfigError, match=r"no file 'x' of job .*; expected one of: images.zip"):
        job.save(tmp_path / "x", "x")
    client.datasets.create("synthetic", client.jobs.get(job.id), wait=True)
    assert client.datasets.get("synthetic").images == 300
    client.datasets.delete("synthetic")
    job.delete()
    with pytest.raises(NotFoundError):
        client.jobs.get(job.id)


@pytest.mark.slow
def test_a_study(client: Client, imported: Job, tmp_path: Path) -> None:
    spec = {
        "name": "small", "data": ["shapes"], "seeds": [0], "device": "cpu", "threads": 1, "budget": {"images": 128},
        "settings": {"precision": "fp32", "batch": 16, "grids": 1},
        "presets": [{"preset": "vae-32-cpu", "settings": {"width": 8, "width_max": 8}}],
    }  # fmt: skip
    with client.studies.begin(spec) as job:
        assert job.kind == "study"
        with pytest.raises(ConflictError):
            client.studies.report("small", tmp_path / "report.html")
        with pytest.raises(ConfigError, match=r"ends in .html, .json, .csv"):
            client.studies.report("small", tmp_path / "report.pdf")
        with pytest.raises(ConflictError):
            client.studies.publish("small")
        assert client.studies.get("small").trials
        assert client.studies.cancel("small").id == job.id
    with pytest.raises(CanceledError):
        job.wait()
    assert [study.name for study in client.studies.list()] == ["small"]
    with client.studies.resume("small") as again:
        assert again.kind == "study"
    assert list(tmp_path.iterdir()) == []
