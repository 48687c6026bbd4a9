"""Batch cap and threads: how they are chosen, measured by the worker, recorded, and found again."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import torch

from kartina.errors import IntegrityError, NotFoundError
from kartina.models.model import save
from kartina.models.package import PackageRef, read_manifest
from kartina.serving import kept
from kartina.serving.protocol import Finished, Progress
from kartina.serving.residency import Residency
from kartina.serving.tuning import BUSY, MAX_STEP, Tuner, best, bucket, cap, fewest, pays, sizes
from tests import tiny
from tests.engine import CARD, PROVENANCE, Background, collect, request, toy_package


def test_the_cap_is_the_largest_batch_that_is_nearly_the_best_and_whose_step_is_short() -> None:
    assert cap({1: 0.010, 2: 0.011, 4: 0.014, 8: 0.021, 16: 0.039, 32: 0.090}) == 16  # 410/s; 8 makes 381, 32 makes 356
    assert cap({1: 0.010, 2: 0.020, 4: 0.040}) == 4  # more rows gain nothing, and lose nothing
    assert cap({1: 0.010, 2: 0.024, 4: 0.048}) == 1  # they lose
    assert cap({1: 0.1, 2: 0.12, 4: MAX_STEP + 0.01}) == 2  # the best rate, but its step is long
    assert cap({1: 3.0}) == 1
    assert cap({}) == 1


def test_more_rows_are_tried_until_they_have_not_paid_twice() -> None:
    assert pays({1: 0.010}) and pays({1: 0.010, 2: 0.020})
    assert pays({1: 0.010, 2: 0.030, 4: 0.020})  # 100, 67, 200 rows a second: one size was disturbed
    assert not pays({1: 0.010, 2: 0.011, 4: 0.022, 8: 0.043})  # 182, then 182 and 186


def test_the_fewest_threads_are_taken_that_reach_three_quarters_of_the_best_speed() -> None:
    assert fewest({2: 1.0, 1: 0.8}) == 1
    assert fewest({2: 1.7, 1: 1.0}) == 2
    assert fewest({16: 6.0, 8: 5.0, 4: 3.2, 2: 1.8, 1: 1.0}) == 8
    assert fewest({1: 1.0}) == 1


def test_the_fastest_is_taken_of_those_on_few_threads() -> None:
    threads = {"a@2": 2, "b@2": 2, "a@1": 1, "b@1": 1}
    assert best({"a@2": 1.0, "b@2": 0.9, "a@1": 0.7, "b@1": 0.8}, threads) == "b@1"
    assert best({"a@2": 1.0, "b@2": 1.2, "a@1": 0.7, "b@1": 0.8}, threads) == "b@2"
    assert best({"a@2": 0.0}, threads) == "a@2"


def test_sizes_and_buckets() -> None:
    assert sizes(64) == [1, 2, 4, 8, 16, 32, 64] and sizes(6) == [1, 2, 4, 6] and sizes(1) == [1]
    assert [bucket(n) for n in (1, 5, 9, 64, 65, 512, 513)] == [1, 6, 12, 64, 96, 512, 513]


def loaded(ref: PackageRef) -> tuple[Residency, str]:
    models, hash = Residency("cpu", lambda: None), read_manifest(ref.path).hash
    while models.ask(hash, str(ref.path)) is None:
        time.sleep(0.01)
    return models, hash


@pytest.mark.parametrize("name", ["vae", "flow", "pix2pix", "edm-upscale"])
def test_a_family_is_measured_in_single_evaluations_and_its_record_found_again(tmp_path: Path, name: str) -> None:
    models, hash = loaded(save(tiny.sampler(name), name, PROVENANCE, CARD, root=tmp_path))
    tuner = Tuner(models, most=8, threads=(2, 1))
    threads, evaluations = torch.get_num_threads(), 0
    with torch.inference_mode():
        while tuner.step():
            evaluations += 1
            assert torch.get_num_threads() == threads
    found = tuner.get(hash)
    assert found is not None and hash in tuner.measured
    assert list(found.seconds) == [1, 2, 4, 8][: len(found.seconds)] and found.batch in found.seconds
    assert found.threads in (1, 2) and found.rate == found.batch / found.seconds[found.batch]
    assert evaluations >= len(found.seconds) + 2  # every size once at least, and the other thread count

    later = Tuner(models, most=8, threads=(2, 1))
    models.resident(hash).tuning, models.resident(hash).looked = None, False  # type: ignore[union-attr]
    assert not later.step() and later.get(hash) == found and not later.measured


@pytest.mark.parametrize(
    "change", [{"torch": "1.0"}, {"device": "abacus"}, {"most": 9}, {"threads_tried": [3]}, {"load": 1e6}, None]
)
def test_a_record_of_other_circumstances_is_measured_anew(
    toys: None, tmp_path: Path, change: dict[str, object] | None
) -> None:
    models, hash = loaded(toy_package(tmp_path))
    with torch.inference_mode():
        tuner = Tuner(models, most=4, threads=(1,))
        while tuner.step():
            pass
    record = kept.record(hash, "cpu")
    found = json.loads(record.read_text())
    record.write_text(json.dumps({**found, **change}) if change is not None else "{damaged")
    models.resident(hash).tuning, models.resident(hash).looked = None, False  # type: ignore[union-attr]
    assert Tuner(models, most=4, threads=(1,)).get(hash) is None


def test_a_record_of_a_quiet_machine_is_used_on_a_busy_one(toys: None, tmp_path: Path) -> None:
    models, hash = loaded(toy_package(tmp_path))
    with torch.inference_mode():
        tuner = Tuner(models, most=4, threads=(1,))
        while tuner.step():
            pass
    record = kept.record(hash, "cpu")
    found = json.loads(record.read_text())
    assert found["load"] >= 0
    record.write_text(json.dumps({**found, "load": BUSY}))
    models.resident(hash).tuning, models.resident(hash).looked = None, False  # type: ignore[union-attr]
    assert Tuner(models, most=4, threads=(1,)).get(hash) is not None


def test_a_model_that_fails_to_be_measured_is_served_as_it_is(toys: None, tmp_path: Path) -> None:
    models, hash = loaded(toy_package(tmp_path))
    models.resident(hash).model.family.generator["out"].weight = None  # type: ignore[index,union-attr]
    tuner = Tuner(models, most=4, threads=(1,))
    with torch.inference_mode():
        assert tuner.step() and not tuner.step()
    found = tuner.get(hash)
    assert found is not None and (found.batch, found.rate) == (4, 0.0)
    assert not kept.record(hash, "cpu").exists()


def test_activation_measures_once_and_is_instant_later(toys: None, home: Path) -> None:
    ref = toy_package(home / "models")
    hash = read_manifest(ref.path).hash
    found = []
    for _ in range(2):
        background = Background()

        async def run(background: Background = background) -> None:
            async with background.engine() as local:
                await local.stats()
                found.append(await local.activate(str(ref.path), hash))
                assert hash in (await local.stats()).models
                again = await local.activate(str(ref.path), hash)
                assert not again.measured and again.batch == found[-1].batch
                with pytest.raises(NotFoundError, match="nowhere"):
                    await local.activate(str(home / "nowhere"), "f" * 64)
                with pytest.raises(IntegrityError, match="was replaced"):
                    await local.activate(str(ref.path), "f" * 64)

        try:
            asyncio.run(run())
        finally:
            background.stop()
    assert [one.measured for one in found] == [True, False]
    assert found[0].batch == found[1].batch and found[0].rate == found[1].rate > 0
    assert found[0].bytes == found[1].bytes < 10_000
    assert kept.record(hash, "cpu").exists()


def test_an_activation_goes_on_among_requests_and_an_idle_worker_measures_by_itself(toys: None, home: Path) -> None:
    toy, other = toy_package(home / "models"), toy_package(home / "models", "other", seed=3)
    hash, background = read_manifest(toy.path).hash, Background()

    async def run() -> None:
        async with background.engine() as local:
            busy = asyncio.create_task(collect(local.submit(request(other, "busy", 2, steps=1000, delay=0.01))))
            done = await local.activate(str(toy.path), hash)
            assert done.measured and not busy.done()
            local.cancel("busy")
            await busy
            deadline = time.monotonic() + 20
            where = kept.record(read_manifest(other.path).hash, "cpu")
            while not where.exists() and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            assert where.exists()
            events = await collect(local.submit(request(other, "after", 70, steps=2)))
            assert isinstance(events[-1], Finished) and isinstance(events[-2], Progress)

    try:
        asyncio.run(run())
    finally:
        background.stop()
