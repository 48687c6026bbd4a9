"""The client against a running service: everything a program does with it."""

from __future__ import annotations

import asyncio
import io
import time
import zipfile
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from PIL import Image as PilImage

from kartina.client import (
    AsyncClient,
    CanceledError,
    Client,
    ConflictError,
    ForbiddenError,
    InputError,
    InternalError,
    NotFoundError,
    OutputEvent,
    PreviewEvent,
    ProgressEvent,
    SignInError,
    StatusEvent,
    UnreachableError,
    WaitError,
)
from kartina.errors import ConfigError
from kartina.models import png
from tests.api.test_assets import mask, picture
from tests.relay import Relay
from tests.service import Service

SLOW = {"steps": 400, "delay": 0.02}  # 8 seconds of a toy


def test_who_and_where(client: Client, service: Service) -> None:
    assert client.health().status == "ok"
    found = client.session()
    assert (found.mode, found.name, found.scopes) == ("key", "test", ["generate", "models", "keys"])
    with Client(f"{service.url}/?token={service.token}") as local:
        assert local.session().mode == "local"
    with Client(service.url, "kt_wrong") as wrong, pytest.raises(SignInError) as caught:
        wrong.session()
    assert caught.value.code == "unauthenticated" and (caught.value.request_id or "").startswith("req_")


# -- generations ----------------------------------------------------------------------------------------------------


def test_ask_follow_and_save(client: Client, tmp_path: Path) -> None:
    job = client.generate("toy", labels=["dog", "кот"], n=3, seed=7, controls={"steps": 6, "delay": 0.1})
    assert not job.finished and job.request.labels == ["dog", "кот"] and job.request.seed == 7
    seen = list(job.events())
    assert isinstance(seen[0], StatusEvent) and isinstance(seen[-1], StatusEvent)
    assert seen[-1].job.status == job.status == "succeeded" and job.progress.value == 1.0
    assert any(isinstance(event, ProgressEvent) for event in seen)
    previews = [event for event in seen if isinstance(event, PreviewEvent)]
    assert previews and previews[0].images[0].pil().size == (8, 8)
    outputs = [event.output for event in seen if isinstance(event, OutputEvent)]
    assert [(one.index, one.label, one.seed) for one in outputs] == [(0, "dog", 7), (1, "кот", 8), (2, "dog", 9)]
    assert outputs[1].content() == job.images[1].content()
    assert [image.id for image in job.images] == [one.id for one in outputs]

    path = job.images[0].save(tmp_path / "bag.png")
    recipe = png.read_recipe(path.read_bytes())
    assert recipe is not None and recipe["label"] == "dog" and recipe["seed"] == 7
    webp = job.images[0].save(str(tmp_path / "bag.WebP"))
    with PilImage.open(webp) as image:
        assert image.format == "WEBP" and image.convert("L").tobytes() == job.images[0].pil().tobytes()
    with pytest.raises(ConfigError, match=r"bag.jpg'; expected .png or .webp"):
        job.images[0].save(tmp_path / "bag.jpg")
    names = [path.name for path in job.save(tmp_path / "all")]
    assert names == ["000-dog-seed7.png", "001-image-seed8.png", "002-dog-seed9.png"]
    with zipfile.ZipFile(job.zip(tmp_path / "all.zip")) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "all.zip", "bag.WebP", "bag.png"]


def test_wait_and_what_goes_wrong(client: Client) -> None:
    job = client.generate("toy", "dog", wait=True)
    assert job.status == "succeeded" and job.images[0].label == "dog"
    assert job.wait().id == client.generations.get(job.id).wait(0).id == job.id
    assert job.id in [one.id for one in client.generations.list()]

    with pytest.raises(InternalError) as caught:
        client.generate("toy", controls={"trouble": "step"}, wait=True)
    assert caught.value.status == 500
    with pytest.raises(NotFoundError, match="no class called 'cow'"):
        client.generate("toy", "cow")
    with pytest.raises(InputError) as refused:
        client.generate("toy", controls={"speed": 3, "steps": "many"})
    assert refused.value.code == "config" and refused.value.request_id
    with pytest.raises(InputError) as several:
        client.generate("toy", [], n=0)
    assert len(several.value.errors) == 2 and several.value.errors[0].startswith("labels")

    slow = client.generate("toy", controls=SLOW)
    with pytest.raises(WaitError, match="goes on"):
        slow.wait(0.2)
    with pytest.raises(ConflictError, match="when it is finished"):
        slow.zip("never.zip")
    slow.cancel()
    with pytest.raises(CanceledError):
        slow.wait()
    slow.delete()
    with pytest.raises(NotFoundError):
        slow.refresh()


def test_left_is_canceled(client: Client) -> None:
    def ends(id: str) -> str:
        found = client.generations.get(id)
        while not found.refresh().finished:
            time.sleep(0.05)
        return found.status

    with pytest.raises(KeyError), client.generate("toy", controls=SLOW) as job:
        raise KeyError
    assert ends(job.id) == "canceled"
    job = client.generate("toy", controls=SLOW)
    with closing(job.events(cancel=True)) as events:
        next(events)
    assert ends(job.id) == "canceled"
    job = client.generate("toy", controls={"steps": 20, "delay": 0.02})
    with closing(job.events()) as events:
        next(events)  # only looked at
    assert ends(job.id) == "succeeded"


def test_every_task(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(picture())
    pil = PilImage.open(io.BytesIO(picture(shade=5)))
    asset = client.assets.upload(picture())
    jobs = [
        client.generate("flow", ["a", "b"], n=2),
        client.transform("flow", file, ["a"], controls={"strength": 0.5}),
        client.inpaint("flow", str(file), mask(), "b"),
        client.invert("flow", pil, "a"),
        client.interpolate("flow", "a", controls={"to_seed": 9, "share": 0.3}),
        client.morph("flow", asset, pil, "a", controls={"share": 0.5}),
        client.transform("flow", [asset, pil], "a", n=2, format="webp"),
        client.translate("pairs", picture(mode="RGB"), "a"),
        client.upscale("up", picture(size=(8, 8)), "a"),
        client.colorize("paint", picture(), "a"),
    ]
    tasks = [job.wait().request.task for job in jobs]
    assert tasks == ["generate", "transform", "inpaint", "invert", "interpolate", "morph", "transform", "translate",
                     "upscale", "colorize"]  # fmt: skip
    assert jobs[1].request.image == [asset.id] and jobs[2].request.image == [asset.id]  # the same bytes
    assert jobs[5].request.to_image == jobs[3].request.image and jobs[2].request.mask not in (None, [asset.id])
    assert jobs[6].images[0].save(tmp_path).name == "000-a-seed" + str(jobs[6].request.seed) + ".webp"
    with pytest.raises(ConfigError, match=r"stored as webp; name it \.webp"):
        jobs[6].images[0].save(tmp_path / "a.png")
    assert jobs[9].images[0].pil().mode == "RGB"
    # Black stays: the lower half is the given image's.
    made, given = (image.convert("L").crop((0, 8, 16, 16)) for image in (jobs[2].images[0].pil(), PilImage.open(file)))
    assert made.tobytes() == given.tobytes()


def test_run_again(client: Client, tmp_path: Path) -> None:
    first = client.generate("toy", "cat", seed=3, wait=True)
    file = first.images[0].save(tmp_path)
    again = client.run_again(file, n=2, wait=True)
    assert [image.seed for image in again.images] == [3, 4] and again.images[0].hash == first.images[0].hash
    webp = first.images[0].content("webp")
    assert client.run_again(webp, wait=True).images[0].hash == first.images[0].hash
    edited = client.transform("flow", picture(), "a", wait=True)
    again = client.run_again(edited.images[0].content(), image=picture(), wait=True)
    assert again.images[0].hash == edited.images[0].hash
    with pytest.raises(InputError, match="without a recipe"):
        client.run_again(picture())


# -- the rest -------------------------------------------------------------------------------------------------------


def test_the_gallery(client: Client, tmp_path: Path) -> None:
    job = client.generate("toy", ["cat", "dog"], n=120, controls={"steps": 1}, wait=True)  # two pages
    images = list(client.images.list())
    assert [image.id for image in images] == [image.id for image in reversed(job.images)] or len(images) == 120
    dogs = list(client.images.list(label="dog", model="toy@1", since=job.data.created_at))
    assert len(dogs) == 60 and {dog.label for dog in dogs} == {"dog"} and dogs[0].generation == job.id
    liked = dogs[0].favour()
    assert liked.favourite and [one.id for one in client.images.list(favourite=True)] == [liked.id]
    assert not job.images[0].about().favour(False).favourite
    with zipfile.ZipFile(client.images.zip(tmp_path / "liked.zip", favourite=True)) as archive:
        assert len(archive.namelist()) == 1
    dogs[1].trash()
    assert [one.id for one in client.images.list(trash=True)] == [dogs[1].id]
    assert client.images.get(dogs[1].id).trashed_at is not None
    assert dogs[1].restore().trashed_at is None
    dogs[2].delete()
    with pytest.raises(NotFoundError):
        client.images.get(dogs[2].id)
    with pytest.raises(NotFoundError):
        dogs[2].content()


def test_assets(client: Client) -> None:
    made = client.assets.upload(picture(mode="RGBA"))
    assert (made.width, made.channels, made.note) == (16, 3, "made RGB of RGBA")
    assert client.assets.get(made.id) == made and list(client.assets.list()) == [made]
    assert PilImage.open(io.BytesIO(client.assets.content(made.id))).mode == "RGB"
    client.assets.delete(made.id)
    assert list(client.assets.list()) == []
    with pytest.raises(InputError, match="an SVG"):
        client.assets.upload(b"<svg/>")


def test_models(client: Client, tmp_path: Path) -> None:
    assert {"toy", "flow", "up"} <= {model.name for model in client.models.list()}
    card = client.models.get("toy")
    assert card.classes == ["cat", "dog", "кот"] and card.metrics["coverage"].interval == (0.4, 0.6)
    assert card.tasks["generate"].defaults["steps"] == 4 and card.per_class[0].name == "dog"
    assert client.models.samples("toy")[1:4] == client.models.class_image("toy", 2)[1:4] == b"PNG"
    package = client.models.export("toy", tmp_path / "toy.zip")
    copy = client.models.import_package(package, "copy")
    assert copy.ref == "copy@1" and copy.hash == card.hash
    assert client.models.import_package(package.read_bytes(), "copy").ref == "copy@1"  # again: the same
    assert client.models.activate("copy@1").active
    with pytest.raises(ConflictError):
        client.models.roll_back("copy")
    client.models.delete("copy@1")
    with pytest.raises(NotFoundError):
        client.models.get("copy")
    with pytest.raises(InputError):
        client.models.import_package(b"PK\x03\x04")


def test_keys(client: Client, service: Service) -> None:
    made = client.keys.create("robot", quota={"images": 2}, rate="1000/minute", days=3)
    assert made.key.quota.images == 2 and made.key.quota.steps is None and made.key.expires_at is not None
    with Client(service.url, made.secret) as robot:
        with pytest.raises(ForbiddenError):
            robot.keys.list()
        with pytest.raises(NotFoundError):
            robot.generations.get(client.generate("toy", wait=True).id)  # not its own
    assert made.key.id in [key.id for key in client.keys.list()]
    client.keys.revoke(made.key.id)
    with Client(service.url, made.secret) as robot, pytest.raises(SignInError):
        robot.session()


# -- broken connections ---------------------------------------------------------------------------------------------


def test_a_broken_connection_loses_nothing(client: Client, service: Service, tmp_path: Path) -> None:
    key = client.keys.create("relayed", ["generate", "models"], rate="10000/minute").secret
    relay = Relay(service.port)
    with closing(relay), Client(relay.url, key) as through:
        relay.lose = 1  # the 202 is lost: the same job is found by its idempotency key
        job = through.generate("toy", n=2, controls={"steps": 40, "delay": 0.05})
        assert relay.lose == 0 and [one.id for one in through.generations.list()] == [job.id]
        cuts, statuses, outputs = 0, [], []
        for event in job.events():
            if isinstance(event, ProgressEvent) and cuts < 3:
                relay.cut()
                cuts += 1
            statuses += [event.job.status] if isinstance(event, StatusEvent) else []
            outputs += [event.output.index] if isinstance(event, OutputEvent) else []
        assert cuts == 3 and relay.connections > 4
        assert statuses[-1] == "succeeded" and outputs == [0, 1]
        relay.cut_after = 300  # amid the download
        with zipfile.ZipFile(job.zip(tmp_path / "a.zip")) as archive:
            assert archive.testzip() is None and len(archive.namelist()) == 2
        assert relay.cut_after is None and [path.name for path in tmp_path.iterdir()] == ["a.zip"]
        relay.lose = 1
        job.delete()  # carried out, its answer lost: asked again, it is gone, and that is right
        assert list(through.generations.list()) == []
    with Client(relay.url, key, patience=0.3) as through, pytest.raises(UnreachableError, match="is the service runn"):
        through.session()


# -- async ----------------------------------------------------------------------------------------------------------


def test_the_same_to_await(client: Client, service: Service, tmp_path: Path) -> None:
    key = client.keys.create("async", ["generate", "models"], rate="10000/minute").secret

    async def use() -> None:
        async with AsyncClient(service.url, key) as found:
            jobs = await asyncio.gather(*(found.generate("toy", "dog", seed=i, wait=True) for i in range(8)))
            assert [job.request.seed for job in jobs] == list(range(8))
            job = await found.transform("flow", picture(), "a", n=2)
            kinds = [event.type async for event in job.events()]
            assert kinds[0] == kinds[-1] == "status" and kinds.count("output") == 2
            path = await job.images[0].save(tmp_path / "a.png")
            assert path.read_bytes() == await job.images[0].content()
            assert len(await job.save(tmp_path)) == 2
            zipped = await job.zip(tmp_path / "a.zip")
            assert len(zipfile.ZipFile(zipped).namelist()) == 2
            stored = [image async for image in found.images.list()]
            assert len(stored) == 10 and (await stored[0].favour()).favourite
            assert [model.ref async for model in found.models.list()]
            again = await found.run_again(path, image=picture(), wait=True)
            assert again.images[0].hash == job.images[0].hash

            slow = await found.generate("toy", controls=SLOW)
            async with aclosing(slow.events(cancel=True)) as events:
                await anext(events)
            with pytest.raises(CanceledError):
                await slow.wait(10)
            # What is interrupted while it waits is canceled.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await found.generate("toy", controls=SLOW, wait=True)
            last = await anext(found.generations.list())
            with pytest.raises(CanceledError):
                await last.wait(10)
            with pytest.raises(NotFoundError):
                await found.models.get("none")

    asyncio.run(use())
