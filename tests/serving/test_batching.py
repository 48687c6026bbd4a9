"""The Batcher, step by step and in this process: shares, parking, isolation, errors, residency."""

from __future__ import annotations

import gc
import io
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kartina.config import ImageSpec
from kartina.generators.base import Row, State
from kartina.models.model import load
from kartina.models.package import PackageRef
from kartina.serving import batching
from kartina.serving.batching import Batcher, shares
from kartina.serving.protocol import Canceled, Event, Failed, Finished, Preview, RequestSpec, Started
from kartina.serving.residency import MAX_BYTES, Residency
from kartina.serving.tuning import BUCKETS, Tuner
from tests.engine import request, solo, toy_package
from tests.serving.images import assert_equals_solo


class Bench:
    """A Batcher and what it told."""

    def __init__(self, batch: int = 64, models: int = 8, size: int = MAX_BYTES, device: str = "cpu"):
        self.woken = threading.Event()
        self.models = Residency(device, self.woken.set, count=models, size=size)
        self.batcher = Batcher(self.models, batch)
        self.told: dict[str, list[Event]] = {}

    def submit(self, spec: RequestSpec, connection: Any = None) -> None:
        self.told[spec.id] = []
        self.batcher.submit(spec, self.told[spec.id].append, connection)

    def steps(self, n: int) -> None:
        """n steps that did something."""
        while n:
            if self.batcher.step():
                n -= 1
            else:
                assert self.woken.wait(10), "nothing to do, and nothing being loaded"
                self.woken.clear()

    def run(self) -> None:
        while self.batcher.requests:
            self.steps(1)

    @property
    def batches(self) -> int:
        return sum(tally.batches for tally in self.batcher.tallies.values())

    def running(self) -> dict[str, int]:
        return {id: r.running for id, r in self.batcher.requests.items()}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_images_do_not_depend_on_the_size_of_the_batch(toy: PackageRef, batch: int) -> None:
    spec = request(toy, "many", 16, seed=7, steps=6, guidance=2.5, solver="heun")
    bench = Bench(batch)
    bench.submit(spec)
    bench.run()
    assert_equals_solo(bench.told["many"], solo(toy, spec))


def test_a_late_request_gets_its_share_and_parked_rows_go_on_where_they_were(toy: PackageRef) -> None:
    large = request(toy, "large", 12, steps=9, solver="heun", guidance=2.0)
    small = request(toy, "small", 3, seed=5, steps=5)
    bench = Bench(batch=8)
    bench.submit(large)
    bench.steps(5)
    assert bench.running() == {"large": 8}
    bench.submit(small)
    bench.steps(1)
    assert bench.running() == {"large": 5, "small": 3}
    bench.steps(4)  # and never back before it is done
    assert isinstance(bench.told["small"][-1], Finished)
    bench.run()
    assert_equals_solo(bench.told["large"], solo(toy, large))
    assert_equals_solo(bench.told["small"], solo(toy, small))


def test_clients_share_alike_however_many_requests_they_have(toy: PackageRef) -> None:
    bench = Bench(batch=8)
    for i in range(30):
        bench.submit(request(toy, f"greedy-{i}", 2, steps=50).model_copy(update={"client": "greedy"}))
    bench.steps(2)
    bench.submit(request(toy, "modest", 6, steps=50).model_copy(update={"client": "modest"}))
    bench.steps(1)
    assert bench.running()["modest"] == 4
    assert sum(bench.running().values()) == 8


def test_one_caller_queues_500_and_anothers_request_starts_within_two_batches(toy: PackageRef, tmp_path: Path) -> None:
    """Of a model that needs one step, or many; the other's of the same model, and of another one that is loaded."""
    another = toy_package(tmp_path / "models", "another", seed=1)
    for steps, ref in product((1, 60), (toy, another)):
        bench = Bench(batch=8)
        bench.submit(request(ref, "loaded", 1))
        bench.run()
        bench.submit(request(toy, "greedy", 500, steps=steps).model_copy(update={"client": "greedy"}))
        bench.steps(3)
        bench.submit(request(ref, "modest", 2, steps=1).model_copy(update={"client": "modest"}))
        bench.steps(2)
        assert [type(event) for event in bench.told["modest"]][-1] is Finished
        assert bench.batcher.requests.keys() == {"greedy"}


def test_a_caller_of_many_models_takes_one_turn(toy: PackageRef, tmp_path: Path) -> None:
    refs = [toy_package(tmp_path / "models", f"m{i}", seed=i + 1) for i in range(5)]
    bench = Bench(batch=8)
    for ref in refs:
        bench.submit(request(ref, ref.name, 50, steps=50).model_copy(update={"client": "greedy"}))
    while len(bench.batcher.groups) < 5:
        bench.steps(1)
    bench.submit(request(toy, "modest", 1, steps=5).model_copy(update={"client": "modest"}))
    while not bench.batcher.groups.keys() >= {r.key for r in bench.batcher.requests.values()}:
        bench.steps(1)  # the sixth model is being loaded
    before = bench.batches
    while "modest" in bench.batcher.requests:
        bench.steps(1)
    assert bench.batches - before <= 10 + 1, "every second one was its own"


def test_more_callers_than_rows_in_a_batch_take_turns(toy: PackageRef) -> None:
    """Five callers, two rows: of one-step models, and in the middle of rows of thirty steps."""
    bench = Bench(batch=2)
    for name in "abcde":
        bench.submit(request(toy, name, 50, steps=1).model_copy(update={"client": name}))
    bench.steps(10)  # 20 rows among five
    assert {id: r.finished for id, r in bench.batcher.requests.items()} == dict.fromkeys("abcde", 4)

    bench = Bench(batch=1)
    asked = [request(toy, name, 2, seed=ord(name), steps=30) for name in "abc"]
    for spec in asked[:2]:
        bench.submit(spec.model_copy(update={"client": spec.id}))
    bench.steps(7)
    bench.submit(asked[2].model_copy(update={"client": "c"}))
    bench.steps(3)
    assert isinstance(bench.told["c"][0], Started)
    bench.run()
    for spec in asked:
        assert_equals_solo(bench.told[spec.id], solo(toy, spec))


def test_shares() -> None:
    assert shares([("a", 100)], 8) == [8]
    assert shares([("a", 2), ("a", 100)], 8) == [2, 6]
    assert shares([("a", 100), ("a", 100), ("b", 100)], 8) == [2, 2, 4]
    assert shares([("a", 100), ("b", 1), ("b", 0)], 8) == [7, 1, 0]
    assert shares([("a", 1)] * 10, 8) == [1] * 8 + [0] * 2
    assert shares([("a", 100), ("a", 100), ("a", 100)], 8) == [4, 4, 0], "the third waits for one of the first two"
    assert shares([("a", 1), ("a", 100), ("a", 100), ("b", 100)], 16) == [1, 4, 3, 8]
    assert shares([], 8) == []


def test_rows_with_equal_and_unequal_steps_share_every_evaluation(toy: PackageRef) -> None:
    bench = Bench()
    for steps in (4, 10, 20):
        bench.submit(request(toy, f"euler-{steps}", 2, steps=steps))
    bench.run()
    assert bench.batches == 20


def test_cancel_ends_one_request_and_touches_nobody_else(toy: PackageRef) -> None:
    kept = request(toy, "kept", 2, seed=9, steps=9)
    bench = Bench()
    bench.submit(request(toy, "doomed", 2, steps=9))
    bench.submit(kept)
    bench.steps(3)
    bench.batcher.cancel("doomed")
    bench.batcher.cancel("doomed")
    bench.run()
    assert [type(event) for event in bench.told["doomed"]] == [Started, Canceled]
    assert_equals_solo(bench.told["kept"], solo(toy, kept))


def test_the_requests_of_a_client_that_is_gone_end(toy: PackageRef) -> None:
    bench = Bench()
    here, gone = object(), object()
    bench.submit(request(toy, "a", 1, steps=9), gone)
    bench.submit(request(toy, "b", 1, steps=9), here)
    bench.steps(2)
    bench.batcher.forget(gone)
    assert list(bench.batcher.requests) == ["b"]


@pytest.mark.parametrize("trouble", ["start", "step"])
def test_a_request_that_fails_leaves_its_neighbours_alone(toy: PackageRef, trouble: str) -> None:
    good = [request(toy, f"good-{i}", 2, seed=i, steps=9) for i in range(2)]
    bench = Bench()
    bench.submit(good[0])
    bench.submit(request(toy, "bad", 2, steps=9, trouble=trouble))
    bench.submit(good[1])
    bench.run()
    last = bench.told["bad"][-1]
    assert isinstance(last, Failed)
    assert "RuntimeError: a toy that" in last.message
    for spec in good:
        assert_equals_solo(bench.told[spec.id], solo(toy, spec))


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_device_that_fails_ends_the_process_and_no_request(
    toy: PackageRef, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """It comes out of `step`, which is what ends the worker; requests are told nothing, and made by the next one."""
    import kartina_toy

    def broken(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise error

    bench = Bench()
    for id in ("a", "b"):
        bench.submit(request(toy, id, 2, steps=9))
    bench.steps(2)
    monkeypatch.setattr(kartina_toy.Toy, "velocity", broken)
    with pytest.raises(RuntimeError) as raised:
        bench.run()
    assert raised.value is error
    assert all([type(event) for event in events] == [Started] for events in bench.told.values())


def test_a_batch_that_does_not_fit_in_memory_is_made_smaller(toy: PackageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    import kartina_toy

    whole = kartina_toy.Toy.velocity

    def tight(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return whole(self, x, y)

    spec = request(toy, "r", 10, steps=4)
    alone = solo(toy, spec)
    monkeypatch.setattr(kartina_toy.Toy, "velocity", tight)
    bench = Bench(batch=8)
    bench.submit(spec)
    bench.run()
    assert_equals_solo(bench.told["r"], alone)


def test_rows_that_do_not_fit_beside_the_others_are_not_lost(toy: PackageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out once, at each place in turn where states are joined: rows start, are parked, and come back."""
    large, small = request(toy, "large", 12, steps=5, solver="heun"), request(toy, "small", 3, seed=5, steps=3)
    alone = {spec.id: solo(toy, spec) for spec in (large, small)}
    whole, joined, full = State.cat, 0, 0

    def tight(states: Sequence[State]) -> State:
        nonlocal joined
        joined += 1
        if joined == full:
            raise torch.OutOfMemoryError("no room")
        return whole(states)

    def run(where: int) -> None:
        nonlocal joined, full
        joined, full = 0, where
        bench = Bench(batch=8)
        bench.submit(large)
        bench.steps(3)
        bench.submit(small)
        for _ in range(100):
            if bench.batcher.requests:
                bench.steps(1)
        for id, images in alone.items():
            assert_equals_solo(bench.told[id], images)

    monkeypatch.setattr(State, "cat", staticmethod(tight))
    run(0)
    places = joined
    assert places >= 3
    for where in range(1, places + 1):
        run(where)


def test_memory_that_runs_out_beside_a_request_that_fails_loses_nobody(
    toy: PackageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are started one request at a time, for one is bad; the first good one has no room at first."""
    import kartina_toy

    good = [request(toy, f"good-{i}", 2, seed=10 * i, steps=4) for i in range(3)]
    alone = [solo(toy, spec) for spec in good]
    whole, sizes = kartina_toy.Toy.start, list[int]()

    def tight(self: Any, rows: Sequence[Row]) -> State:
        sizes.append(len(rows))
        if sizes == [4, 1, 2]:
            raise torch.OutOfMemoryError("no room")
        return whole(self, rows)

    monkeypatch.setattr(kartina_toy.Toy, "start", tight)
    bench = Bench()
    for spec in (request(toy, "bad", 1, trouble="start"), *good):
        bench.submit(spec)
    for _ in range(100):
        if bench.batcher.requests:
            bench.steps(1)
    assert sizes[:3] == [4, 1, 2] and isinstance(bench.told["bad"][-1], Failed)
    for spec, images in zip(good, alone, strict=True):
        assert_equals_solo(bench.told[spec.id], images)


@pytest.mark.parametrize(("seconds", "started"), [(0.0, [4, 8, 4, 4]), (0.1, [4, 4, 4, 4, 4])])
def test_rows_that_are_slow_to_start_let_the_others_be_stepped(
    toy: PackageRef, monkeypatch: pytest.MonkeyPatch, seconds: float, started: list[int]
) -> None:
    """Twelve rows, and eight that come while the first of them are there: a few at a time, a step between."""
    import kartina_toy

    asked = [request(toy, "a", 12, seed=1, steps=9), request(toy, "b", 8, seed=50, steps=9)]
    alone = [solo(toy, spec) for spec in asked]
    whole, sizes, at = kartina_toy.Toy.start, list[int](), list[int]()

    def slow(self: Any, rows: Sequence[Row]) -> State:
        time.sleep(seconds)
        sizes.append(len(rows))
        at.append(bench.batches)
        return whole(self, rows)

    monkeypatch.setattr(kartina_toy.Toy, "start", slow)
    monkeypatch.setattr(batching, "LONG", 0.05 if seconds else 60.0)  # no stall of the machine is long
    bench = Bench()
    bench.submit(asked[0])
    bench.steps(1)
    assert bench.running()["a"] == (4 if seconds else 12)
    bench.submit(asked[1])
    bench.run()
    assert sizes == started and at == ([0, 0, 1, 1] if seconds == 0 else [0, 1, 2, 3, 4])
    for spec, images in zip(asked, alone, strict=True):
        assert_equals_solo(bench.told[spec.id], images)


def test_a_request_that_fails_while_its_rows_are_started_has_none_left(
    toy: PackageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one of its rows is bad, and others are still to be started."""
    import kartina_toy

    whole, once = kartina_toy.Toy.start, [True]

    def bad(self: Any, rows: Sequence[Row]) -> State:
        if once:
            once.clear()
            raise RuntimeError("a row that does not start")
        return whole(self, rows)

    monkeypatch.setattr(kartina_toy.Toy, "start", bad)
    bench = Bench()
    bench.submit(request(toy, "a", 12, steps=3))
    bench.steps(1)
    assert not bench.batcher.requests and [type(event) for event in bench.told["a"]] == [Failed]
    assert not any(group.slots for group in bench.batcher.groups.values())


def test_a_group_has_what_is_measured_of_its_model_while_it_runs(toy: PackageRef) -> None:
    """Four of eight rows of a model that nobody has measured; when it has been, as many as is best."""
    spec = request(toy, "r", 8, steps=6, solver="heun")
    bench = Bench(batch=8)
    tuner = bench.batcher.tuner = Tuner(bench.models, 8, (1,))
    bench.submit(spec)
    bench.steps(2)
    (group,) = bench.batcher.groups.values()
    assert (group.cap, group.threads, bench.running()) == (4, 0, {"r": 4}) and bench.batcher.unmeasured == spec.hash
    while tuner.get(spec.hash) is None:
        assert tuner.step(spec.hash)
    resident = bench.models.resident(spec.hash)
    assert resident is not None and resident.tuning is not None
    resident.tuning = resident.tuning.model_copy(update={"batch": 7})  # whatever this machine is best at
    bench.steps(1)
    assert (group.cap, group.threads, bench.running()) == (7, 1, {"r": 7}) and bench.batcher.unmeasured is None
    bench.run()
    assert_equals_solo(bench.told["r"], solo(toy, spec))


def test_errors_have_the_code_of_their_kind(toy: PackageRef, tmp_path: Path) -> None:
    bench = Bench()
    asked = {
        "config": request(toy, "a", 1, stepps=3),
        "not_found": request(toy, "b", 1, label=99),
        "integrity": request(toy, "c", 1).model_copy(update={"hash": "f" * 64}),
    }
    gone = request(toy, "d", 1).model_copy(update={"hash": "e" * 64, "model": str(tmp_path / "nowhere")})
    for spec in (*asked.values(), gone):
        bench.submit(spec)
    while bench.batcher.requests:
        bench.batcher.step()
    found = {id: events[-1] for id, events in bench.told.items()}
    for code, spec in asked.items():
        last = found[spec.id]
        assert isinstance(last, Failed)
        assert last.code == code
    assert isinstance(last := found["d"], Failed)
    assert last.code == "not_found"


@pytest.mark.parametrize("limit", ["count", "bytes"])
def test_models_leave_memory_least_recently_used_first_but_never_in_use(
    toy: PackageRef, tmp_path: Path, limit: str
) -> None:
    """Three models where two have room, by their number or by their measured bytes."""
    others = [toy_package(tmp_path / "models", name, seed=i) for i, name in enumerate(("one", "two"), 1)]
    specs = [request(ref, ref.name, 1, steps=3) for ref in (toy, *others)]
    parameters = sum(x.numel() * x.element_size() for x in load(toy).family.parameters())
    bench = Bench(models=2) if limit == "count" else Bench(size=2 * parameters)
    for spec in specs:
        bench.submit(spec)
    bench.run()  # all three at once: more than fit, each still in use
    for ref, spec in zip((toy, *others), specs, strict=True):
        assert_equals_solo(bench.told[spec.id], solo(ref, spec))
    bench.submit(request(toy, "again", 1))
    bench.run()
    bench.batcher.step()
    assert len(bench.models.hashes) == 2
    assert bench.models.hashes[-1] == specs[0].hash
    assert bench.models.bytes == 2 * parameters


@pytest.mark.parametrize(("limit", "grace"), [("count", 0.0), ("bytes", 0.0), ("bytes", 1e9)])
def test_models_in_use_exceed_the_limits_by_so_much_and_who_comes_later_waits(
    toy: PackageRef, tmp_path: Path, limit: str, grace: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one model, so at most two are in use: the third waits, and when its grace is over a later request for
    the first does, too."""
    monkeypatch.setattr(batching, "GRACE", grace)
    others = [toy_package(tmp_path / "models", name, seed=i) for i, name in enumerate(("one", "two"), 1)]
    specs = [request(ref, ref.name, 1, steps=9) for ref in (toy, *others)] + [request(toy, "later", 1, steps=9)]
    parameters = sum(x.numel() * x.element_size() for x in load(toy).family.parameters())
    bench = Bench(models=1) if limit == "count" else Bench(size=3 * parameters // 2)
    for spec in specs:
        bench.submit(spec)
    most, ends = 0, list[str]()
    while bench.batcher.requests:
        before = set(bench.batcher.requests)
        bench.steps(1)
        ends += [id for id in before - set(bench.batcher.requests)]
        most = max(most, len(bench.models.hashes) + len(bench.models._loading))
        if "two" in bench.told and any(isinstance(event, Started) for event in bench.told["two"]):
            assert "toy" in ends or "one" in ends
    assert most == 2 and not bench.models._coming
    assert ends[-1] == "two" if grace else set(ends[:2]) == {"toy", "one"}
    for ref, spec in zip((toy, *others, toy), specs, strict=True):
        assert_equals_solo(bench.told[spec.id], solo(ref, spec))


def test_a_model_that_was_loaded_for_nobody_counts_and_leaves(toy: PackageRef, tmp_path: Path) -> None:
    """Requests are canceled while their models are being loaded: what comes in then is no longer asked for."""
    others = [toy_package(tmp_path / "models", f"m{i}", seed=i) for i in range(1, 6)]
    parameters = sum(x.numel() * x.element_size() for x in load(toy).family.parameters())
    bench = Bench(size=2 * parameters)
    for ref in others:
        bench.submit(request(ref, ref.name, 1))
        bench.batcher.step()
        bench.batcher.cancel(ref.name)
    bench.models._loader.shutdown()
    bench.batcher.step()
    assert len(bench.models.hashes) == 2 and bench.models.bytes == 2 * parameters and not bench.models._loading


def test_a_model_whose_last_request_was_canceled_leaves_memory(toy: PackageRef, tmp_path: Path) -> None:
    """Canceled between two steps, which is when a client's message is read: its group goes with it."""
    other = request(toy_package(tmp_path / "models", "other", seed=1), "other", 1)
    bench = Bench(models=1)
    bench.submit(request(toy, "doomed", 2, steps=9))
    bench.steps(2)
    (group,) = bench.batcher.groups.values()
    family = weakref.ref(group.model.family)
    del group
    bench.batcher.cancel("doomed")
    bench.submit(other)
    bench.run()
    assert bench.models.hashes == (other.hash,) and not bench.batcher.groups
    gc.collect()
    assert family() is None


def test_elsewhere_than_on_a_cpu_batches_are_filled_up_to_few_sizes(
    toy: PackageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU by another name, and sizes from 17 down to 1: every evaluation is of a bucket's size, images their own."""
    import kartina_toy

    whole, seen = kartina_toy.Toy.velocity, set[int]()

    def watched(self: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.add(len(x))
        return whole(self, x, y)

    asked = [request(toy, f"r{i}", 1, seed=i, steps=i + 1, guidance=2.0) for i in range(17)]
    alone = [solo(toy, spec) for spec in asked]
    monkeypatch.setattr(kartina_toy.Toy, "velocity", watched)
    bench = Bench(device="cpu:0")
    for spec in asked:
        bench.submit(spec)
    bench.run()
    for spec, images in zip(asked, alone, strict=True):
        assert_equals_solo(bench.told[spec.id], images)
    assert seen == {size for size in BUCKETS if size <= 24}


def test_previews_are_for_who_asks(toy: PackageRef) -> None:
    bench = Bench()
    bench.submit(request(toy, "plain", 1, steps=9))
    bench.submit(request(toy, "watched", 2, steps=9))
    bench.batcher.watch("watched", True)
    bench.run()
    assert not [event for event in bench.told["plain"] if isinstance(event, Preview)]
    shown = [event for event in bench.told["watched"] if isinstance(event, Preview)]
    assert shown
    assert all([index for index, _ in event.images] == [0, 1] for event in shown)


def test_previews_are_small(toys: None, tmp_path: Path) -> None:
    """Of 160 x 96 pixels they show squares of three: the means of the image that a copy of the sampler has."""
    spec = ImageSpec(height=160, width=96, channels=1, classes=("a", "b", "c"))
    ref = toy_package(tmp_path, "wide", spec=spec)
    bench = Bench()
    bench.submit(request(ref, "r", 1, seed=4, label=1, steps=3).model_copy(update={"previews": True}))
    bench.steps(1)
    (shown,) = [event for event in bench.told["r"] if isinstance(event, Preview)]
    picture = np.asarray(Image.open(io.BytesIO(shown.images[0][1])), float)
    assert picture.shape == (54, 32)
    (group,) = bench.batcher.groups.values()
    assert group.state is not None
    whole = group.model.family.preview(group.state)
    assert whole is not None and np.abs(picture[20, 7] - whole[0, 0, 60:63, 21:24].float().mean().item()) <= 0.5
    assert np.abs(picture[53, 0] - whole[0, 0, 159:, :3].float().mean().item()) <= 0.5  # a square over the edge


def test_solo_is_what_it_says(toy: PackageRef) -> None:
    """The yardstick itself: neighbours in one call change nothing either."""
    together = load(toy).sample([0, 1], 4, seed=3, steps=5).images
    alone = solo(toy, request(toy, "r", 4, seed=3, steps=5))  # labels 0, 1, 2, 0
    assert np.abs(together[0].astype(int) - alone[0].astype(int)).max() <= 1
    assert np.abs(together[2].astype(int) - alone[2].astype(int)).max() > 1  # another class: another image
