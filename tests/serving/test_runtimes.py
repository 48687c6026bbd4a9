"""Other runtimes on a CPU: what is exported, that images stay the same, the choice, and every way back to torch."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kartina.models.model import load, save
from kartina.models.package import PackageRef, read_manifest
from kartina.nets.precision import has_bf16
from kartina.process import command_of
from kartina.serving import kept, runtimes, tuning
from kartina.serving.batching import Batcher
from kartina.serving.protocol import Event, RequestSpec
from kartina.serving.residency import Residency
from kartina.serving.runtimes import LOW, BrokenRuntimeError, Runtime, exported, installed, label, lowered, prepare
from kartina.serving.tuning import Tuner, compare
from tests import tiny
from tests.engine import CARD, PROVENANCE, Background, collect, request, solo
from tests.serving.images import assert_equals_solo

BOTH = ("onnx", "openvino")
COUNTS = (1, 2)  # of threads


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def exported_flow(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackageRef, Path]:
    """A tiny flow and the folder of its networks, exported once for all tests."""
    root = tmp_path_factory.mktemp("flow")
    ref = packaged("flow", root)
    assert runtimes.export(str(ref.path), read_manifest(ref.path).hash, root / "onnx") == ""
    return ref, root / "onnx"


@pytest.fixture
def flow(exported_flow: tuple[PackageRef, Path]) -> PackageRef:
    """The flow, exported in this test's home."""
    ref, folder = exported_flow
    shutil.copytree(folder, exported(read_manifest(ref.path).hash))
    return ref


def packaged(name: str, root: Path) -> PackageRef:
    return save(tiny.sampler(name), name, PROVENANCE, CARD, root=root)


class Bench:
    """A batcher with a tuner, and a model in memory that was measured; what the runtimes are is not known yet."""

    def __init__(self, ref: PackageRef, runtime: str, precision: str = "fp32", threads: Sequence[int] = (1,)):
        self.woken = threading.Event()
        self.models = Residency("cpu", self.woken.set)
        self.tuner = Tuner(self.models, most=4, threads=threads, runtime=runtime, precision=precision)
        self.batcher = Batcher(self.models, 4, self.tuner)
        self.hash = read_manifest(ref.path).hash
        while self.models.ask(self.hash, str(ref.path)) is None:
            assert self.woken.wait(60)
        found = self.models.resident(self.hash)
        assert found is not None
        self.resident = found
        while self.tuner.get(self.hash) is None:
            assert self.tuner.step(self.hash)

    def compare(self) -> None:
        """Work until there is nothing left to do, and nothing to wait for."""
        while self.tuner.step() or self.resident.preparing is not None:
            if not self.tuner.busy:
                self.woken.wait(0.05)

    def run(self, spec: RequestSpec) -> list[Event]:
        told: list[Event] = []
        self.batcher.submit(spec, told.append)
        while self.batcher.requests:
            self.batcher.step()
        return told


def outcome(ref: PackageRef, names: tuple[str, ...]) -> tuning.Comparison:
    """What a comparison of the runtimes finds."""
    bench = Bench(ref, "auto")
    assert bench.resident.tuning is not None
    prepared = prepare(str(ref.path), bench.hash, names, COUNTS)
    work = compare(bench.resident.model, "cpu", bench.resident.tuning, prepared, "auto", {})
    try:
        while True:
            next(work)
    except StopIteration as end:
        found: tuning.Comparison = end.value.comparison
        return found


def assert_right(found: tuning.Comparison) -> None:
    """No runtime was left out."""
    assert found.left_out == {}
    assert set(found.seconds) == {"eager", *(label(name, count) for name in BOTH for count in COUNTS)}


def test_a_flows_images_in_both_runtimes_are_within_1_of_torchs(flow: PackageRef) -> None:
    """Whole samplers, of batches of one and three: otherwise the runtime is left out. On two threads one row is shared,
    and three are parted."""
    assert_right(outcome(flow, BOTH))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "edm", "ddpm", "vae", "meanflow", "r3gan", "edm-upscale", "cgan", "sgan"])
def test_images_of_both_runtimes_are_within_1_of_torchs(tmp_path: Path, name: str) -> None:
    assert_right(outcome(packaged(name, tmp_path), BOTH))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pix2pix", "calls no network with tensors alone"),
        *(
            pytest.param(name, why, marks=pytest.mark.slow)
            for name, why in [
                ("stylegan2_ada", "invalid dimensions for input"),  # its convolutions have a group for every row
                ("biggan", "not exported"),
                ("improved_gan", ""),
            ]
        ),
    ],
)
def test_a_network_that_cannot_be_exported_stays_torchs(tmp_path: Path, name: str, why: str) -> None:
    found = outcome(packaged(name, tmp_path), ("onnx",))
    assert found.runtime == "eager" and set(found.seconds) == {"eager"}
    assert found.left_out and all(why in reason for reason in found.left_out.values())


@pytest.mark.parametrize("name", BOTH)
def test_rows_of_any_batch_size_equal_their_solo_runs_in_a_named_runtime(flow: PackageRef, name: str) -> None:
    """The switch names it, so it is taken however fast it is; later it is found again without a comparison."""
    bench = Bench(flow, name, threads=(2,))
    before = bench.resident.bytes
    bench.compare()
    assert bench.resident.runtime is not None and bench.resident.runtime.name == name
    assert bench.resident.bytes > 1.5 * before, "its weights count"
    for i, n in enumerate((1, 3, 7)):
        spec = request(flow, f"r{n}", n, seed=10 * n, steps=3 + i, guidance=[1.0, 2.0, 1.5][i])
        assert_equals_solo(bench.run(spec), solo(flow, spec))
    assert bench.resident.runtime is not None, "it did not fail meanwhile"

    later = Bench(flow, name, threads=(2,))
    assert not later.tuner.measured
    later.compare()
    assert later.resident.runtime is not None and not later.tuner.measured
    other = Bench(flow, "eager")
    other.compare()
    assert other.resident.runtime is None


@pytest.mark.parametrize("threads", [2, 3])
def test_rows_are_parted_among_threads_and_come_back_in_their_order(threads: int) -> None:
    asked: list[tuple[str, int]] = []

    def way(name: str) -> runtimes.Run:
        def run(given: runtimes.Arrays) -> runtimes.Array:
            asked.append((name, len(given["x"])))
            return 2 * given["x"] + given["t"][:, None]

        return run

    run = runtimes.by_rows(way("shared"), way("alone"), threads)
    for n in (*range(1, 40), 64, 255):
        asked.clear()
        x, t = np.arange(3.0 * n).reshape(n, 3), np.arange(float(n))
        assert np.array_equal(run({"x": x, "t": t}), 2 * x + t[:, None])
        sizes = [size for _, size in asked]
        assert {name for name, _ in asked} == {"shared" if n < threads else "alone"} and sum(sizes) == n
        if n >= threads:
            assert max(sizes) <= -(-n // threads), "no thread has more than its share"
            assert len(sizes) <= max(threads, n // runtimes.PART, 1) and len(sizes) <= threads * runtimes.PARTS


def test_parts_of_the_rows_are_evaluated_at_once_and_their_errors_are_the_runtimes() -> None:
    both = threading.Barrier(2)

    def alone(given: runtimes.Arrays) -> runtimes.Array:
        both.wait(10)  # raises when the other does not come meanwhile
        if (given["x"] < 0).any():
            raise ValueError("a negative number")
        return given["x"]

    net = runtimes.as_net(["x"], runtimes.by_rows(alone, alone, 2))
    assert net(torch.arange(2.0)).tolist() == [0, 1]
    with pytest.raises(BrokenRuntimeError, match="a negative number"):
        net(torch.tensor([1.0, -1.0]))


FIRST = """
import sys
from pathlib import Path

import torch

from kartina.models.model import load
from kartina.serving import runtimes, tuning

name, package, folder = sys.argv[1:]
model, runtime = load(Path(package)), runtimes.open_nets(name, Path(folder), 2)
sys.setswitchinterval(5e-5)  # so that both threads are in the middle of it
with torch.inference_mode(), runtime.instead(model.family):
    model.family.step(model.family.start([tuning.example(model, seed) for seed in range(8)]))
"""


@pytest.mark.parametrize("name", BOTH)
def test_two_threads_may_be_a_process_first_to_use_a_runtime(exported_flow: tuple[PackageRef, Path], name: str) -> None:
    """OpenVINO's first look at an array cannot be two threads': they waited for each other for ever."""
    ref, folder = exported_flow
    subprocess.run([sys.executable, "-c", FIRST, name, str(ref.path), str(folder)], check=True, timeout=120)


def test_deterministic_images_are_torchs(flow: PackageRef) -> None:
    """A runtime that would make them all black is not asked."""
    bench = Bench(flow, "eager")
    black = {"generator": lambda x, t, y: torch.zeros_like(x)}
    bench.resident.runtime = Runtime("black", black, 0)
    spec = request(flow, "r", 2, seed=3, steps=3)
    with pytest.raises(AssertionError):
        assert_equals_solo(bench.run(spec), solo(flow, spec))
    assert_equals_solo(bench.run(spec.model_copy(update={"deterministic": True})), solo(flow, spec))


def test_a_runtime_with_other_images_or_errors_is_left_out(flow: PackageRef) -> None:
    def broken(*given: torch.Tensor) -> torch.Tensor:
        raise BrokenRuntimeError("out of order")

    bench = Bench(flow, "auto")
    assert bench.resident.tuning is not None
    offered = {
        "black": Runtime("black", {"generator": lambda x, t, y: torch.zeros_like(x)}, 0),
        "broken": Runtime("broken", {"generator": broken}, 0),
        "missing": "not prepare: no such file",
    }
    work = compare(bench.resident.model, "cpu", bench.resident.tuning, offered, "black", {"black": "1"})
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    found = end.value.value.comparison
    assert found.runtime == "eager" and set(found.seconds) == {"eager"}
    assert "differs by" in found.left_out["black"] and "out of order" in found.left_out["broken"]
    assert found.left_out["missing"] == offered["missing"]


@pytest.mark.parametrize(("alone", "taken"), [(0.026, 1), (0.028, 2)], ids=["nearly as fast", "slower"])
def test_fewer_threads_are_taken_where_they_are_nearly_as_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: float, taken: int
) -> None:
    bench = Bench(packaged("flow", tmp_path), "auto")
    assert bench.resident.tuning is not None
    net = bench.resident.model.family.get_submodule("generator")
    monkeypatch.setattr(tuning, "evaluate", lambda model, state, threads, device: {2: 0.02, 1: alone}[threads])

    def own(*given: torch.Tensor) -> torch.Tensor:
        return type(net).forward(net, *given)

    offered = {label("new", n): Runtime("new", {"generator": own}, 0, n) for n in (2, 1)}
    known = bench.resident.tuning.model_copy(update={"torch_threads": 2})
    work = compare(bench.resident.model, "cpu", known, offered, "new", {"new": "1"})
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    found = end.value.value
    assert (found.comparison.runtime, found.comparison.threads, found.threads) == ("new", taken, taken)
    assert set(found.comparison.seconds) == {"eager", "new@1", "new@2"} and found.torch_threads == 2


def test_a_runtime_is_tried_on_neighbouring_counts_of_threads_and_found_again_on_the_chosen(
    flow: PackageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def noted(path: str, hash: str, names: list[str], counts: list[int]) -> dict[str, Runtime | str]:
        asked.append(counts)
        return prepare(path, hash, names, counts)

    monkeypatch.setattr(runtimes, "prepare", noted)
    bench = Bench(flow, "onnx", threads=(8, 4, 2, 1))
    assert bench.resident.tuning is not None
    own = bench.resident.tuning.torch_threads
    bench.compare()
    taken = bench.resident.runtime
    assert taken is not None and taken.threads == bench.resident.tuning.threads
    later = Bench(flow, "onnx", threads=(8, 4, 2, 1))
    later.compare()
    assert later.resident.runtime is not None and later.resident.runtime.threads == taken.threads
    assert asked == [[n for n in (8, 4, 2, 1) if n in (2 * own, own, own / 2)], [taken.threads]]

    monkeypatch.setattr(tuning, "LARGE", 0)
    asked.clear()
    large = Bench(flow, "auto", threads=(8, 4, 2, 1))
    large.compare()
    assert asked == [[own]]


def test_a_runtime_that_fails_in_use_gives_way_to_torch_in_the_same_step(flow: PackageRef) -> None:
    bench, calls = Bench(flow, "onnx"), 0
    bench.compare()
    good = bench.resident.runtime
    assert good is not None

    def failing(*given: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise BrokenRuntimeError("out of order")
        return good.nets["generator"](*given)

    bench.resident.runtime = Runtime("onnx", {"generator": failing}, 0)
    spec = request(flow, "r", 2, seed=3, steps=6)
    assert_equals_solo(bench.run(spec), solo(flow, spec))
    assert calls == 3 and bench.resident.runtime is None
    bench.compare()
    assert bench.resident.runtime is None, "nor is it tried again"


@pytest.mark.parametrize("known", [False, True], ids=["compared", "chosen before"])
def test_a_runtime_that_ends_the_worker_is_not_tried_a_third_time(flow: PackageRef, known: bool) -> None:
    """A worker that is gone while it tries one leaves that on the disk; one that is told to end takes it back."""
    if known:
        Bench(flow, "onnx").compare()

    def begun() -> tuple[Bench, int]:
        bench = Bench(flow, "onnx")
        bench.tuner.step()
        found = tuning.read(bench.hash, "cpu")
        assert found is not None
        return bench, found.ended

    bench, ended = begun()
    assert ended == 1 and bench.resident.preparing is not None
    bench.tuner.withdraw()
    assert begun()[1] == 1, "the last one ended as it should"
    assert begun()[1] == 2
    third, ended = begun()
    assert third.resident.preparing is None and third.resident.tuning is not None
    comparison = third.resident.tuning.comparison
    assert comparison is not None and comparison.runtime == "eager" and ended == 0
    assert comparison.left_out == {"onnx": "2 workers ended while it was tried"}
    assert begun()[0].resident.preparing is None, "nor by the next one"


@pytest.mark.parametrize("evicted", [False, True])
def test_what_was_tried_to_its_end_or_left_memory_counts_for_nothing(flow: PackageRef, evicted: bool) -> None:
    bench = Bench(flow, "onnx")
    bench.tuner.step()
    if evicted:
        bench.models.count = 0
        bench.models.trim(())
        bench.tuner.let_go()
    else:
        bench.compare()
    found = tuning.read(bench.hash, "cpu")
    assert found is not None and found.ended == 0
    assert (found.comparison is None) == evicted


def test_what_waits_to_be_prepared_leaves_with_its_model(tmp_path: Path) -> None:
    """A model that is evicted while others are exported: nobody makes its networks ready, and nothing holds it."""
    bench, turn = Bench(packaged("flow", tmp_path), "onnx"), threading.Event()
    bench.tuner._compiler.submit(turn.wait)
    try:
        bench.tuner.step()
        preparing, family = bench.resident.preparing, weakref.ref(bench.resident.model.family)
        assert preparing is not None and not preparing.done()
        bench.models.count = 0
        bench.models.trim(())
        del bench.resident
        gc.collect()
        assert preparing.cancelled() and family() is None
    finally:
        turn.set()
    assert not bench.tuner.step()


@pytest.mark.parametrize("measured", [False, True], ids=["measured", "compared"])
def test_a_model_that_leaves_while_it_is_worked_on_is_let_go(flow: PackageRef, measured: bool) -> None:
    """Also when nothing is measured for long, because there are requests."""
    bench = Bench(flow, "onnx")
    if not measured:
        bench.resident.tuning = None
        kept.record(bench.hash, "cpu").unlink()
    while not bench.tuner.busy:
        assert bench.tuner.step() or bench.woken.wait(60)
    family = weakref.ref(bench.resident.model.family)
    bench.models.count = 0
    bench.models.trim(())
    del bench.resident
    gc.collect()
    assert family() is not None and bench.tuner.busy
    bench.tuner.let_go()
    gc.collect()
    assert family() is None and not bench.tuner.busy


def test_a_damaged_export_leaves_torch(flow: PackageRef) -> None:
    Bench(flow, "onnx").compare()
    where = exported(read_manifest(flow.path).hash)
    (where / "0.onnx").write_bytes(b"damaged")
    bench = Bench(flow, "onnx")
    bench.compare()
    assert bench.resident.runtime is None and bench.resident.preparing is None
    spec = request(flow, "r", 2, seed=3, steps=3)
    assert_equals_solo(bench.run(spec), solo(flow, spec))


def test_bfloat16_is_where_the_device_computes_in_it_and_else_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = packaged("flow", tmp_path)
    there = has_bf16("cpu")
    assert installed("eager", "cpu", LOW) == ({LOW: torch.__version__} if there else {})
    low = {LOW, f"openvino-{LOW}"} if there else set[str]()
    assert set(installed("auto", "cpu", LOW)) == {*BOTH, *low} and set(installed("auto")) == set(BOTH)
    bench = Bench(flow, "eager", LOW)
    assert ("precision_left_out" in capsys.readouterr().err) != there
    bench.compare()
    assert bench.resident.runtime is None or there
    spec = request(flow, "r", 2, seed=3, steps=3)
    if bench.resident.runtime is None:  # it computes in float32 as if nothing had been asked for
        assert_equals_solo(bench.run(spec), solo(flow, spec))


@pytest.mark.parametrize("name", ["flow", "dcgan", "vae"])
def test_networks_in_bfloat16_make_nearly_the_same_images_and_answer_in_float32(tmp_path: Path, name: str) -> None:
    """Also where the device has no bfloat16 and imitates it. What is compared is what is shown: whole images."""
    model = load(packaged(name, tmp_path))
    low, seen = lowered(model.family, "cpu"), set[torch.dtype]()
    parts = [getattr(model.family, part) for part in model.family.parts]
    for leaf in (m for part in parts for m in part.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)):
        leaf.register_forward_hook(lambda module, given, answer: seen.add(answer.dtype))
    exact = model.sample([0, 1], 2, 5).images.astype(int)
    before = frozenset(seen)
    with low.instead(model.family):
        off = torch.from_numpy(model.sample([0, 1], 2, 5).images.astype(int) - exact)
    assert before == {torch.float32} and torch.bfloat16 in seen
    assert (off != 0).any(), "it was computed otherwise"
    assert off.abs().float().mean() < 8, "of 255, with random weights"
    again = model.sample([0, 1], 2, 5).images.astype(int)
    assert (again == exact).all(), "afterwards it is as it was"


def test_images_in_bfloat16_have_to_be_near_and_in_float32_equal(tmp_path: Path) -> None:
    bench = Bench(packaged("flow", tmp_path), "eager")
    assert bench.resident.tuning is not None
    net = bench.resident.model.family.get_submodule("generator")
    kept: dict[int, torch.Tensor] = {}

    def near(*given: torch.Tensor) -> torch.Tensor:
        return type(net).forward(net, *given) + 0.0015

    def far(*given: torch.Tensor) -> torch.Tensor:
        return kept.setdefault(len(given[0]), torch.zeros_like(given[0]))

    offered = {
        LOW: Runtime(LOW, {"generator": near}, 0),
        f"far-{LOW}": Runtime(f"far-{LOW}", {"generator": far}, 0),
        "exact": Runtime("exact", {"generator": near}, 0),
    }
    work = compare(bench.resident.model, "cpu", bench.resident.tuning, offered, "eager", {})
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    found = end.value.value.comparison
    assert set(found.seconds) == {"eager", LOW}, found.left_out
    assert "on the mean" in found.left_out[f"far-{LOW}"] and "differs by" in found.left_out["exact"]


def test_what_is_installed() -> None:
    assert set(installed("auto")) == set(BOTH) and set(installed("onnx")) == {"onnx"} and installed("eager") == {}


@pytest.mark.slow
def test_an_export_ends_with_whoever_wanted_it(flow: PackageRef, tmp_path: Path) -> None:
    where = tmp_path / "onnx"
    command = command_of("kartina.serving.export", str(flow.path), "0" * 64, str(where))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
        assert process.stderr is not None and b"Found another model" not in process.stderr.read()
    assert not where.exists()
    assert "Found another model" in runtimes.export(str(flow.path), "0" * 64, where)
    assert not list(where.parent.glob("*.part"))


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["exported", "new"])
def test_a_worker_takes_the_runtime_up_while_it_serves(
    home: Path, exported_flow: tuple[PackageRef, Path], there: bool
) -> None:
    """Exported before, as after a restart, or beside its first requests."""
    ref, folder = exported_flow
    hash = read_manifest(ref.path).hash
    if there:
        shutil.copytree(folder, exported(hash))
    alone = sum(one.nbytes for one in load(ref).family.state_dict().values())  # torch's weights
    background, spec = Background("--runtime", "onnx"), request(ref, "r", 5, seed=3, steps=4)

    async def run() -> None:
        async with background.engine(cache=0) as local:
            assert_equals_solo(await collect(local.submit(spec)), solo(ref, spec))
            deadline = time.monotonic() + 90
            while (known := tuning.read(hash, "cpu")) is None or (await local.stats()).bytes < 1.5 * alone:
                assert time.monotonic() < deadline, "it never was taken up"
                await asyncio.sleep(0.1)
            assert known.comparison is not None and known.comparison.runtime == "onnx"
            assert_equals_solo(await collect(local.submit(spec)), solo(ref, spec))
            assert (await local.stats()).bytes >= 1.5 * alone, "it did not fail meanwhile"

    try:
        asyncio.run(run())
    finally:
        background.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_over_a_runtime_leaves_that_on_the_disk(
    home: Path, exported_flow: tuple[PackageRef, Path], how: signal.Signals
) -> None:
    ref, _ = exported_flow
    hash, background = read_manifest(ref.path).hash, Background("--runtime", "onnx")

    async def run() -> None:
        async with background.engine(cache=0) as local:
            await collect(local.submit(request(ref, "r", 1, seed=3, steps=1)))
            deadline = time.monotonic() + 90
            while (known := tuning.read(hash, "cpu")) is None or not known.ended:
                assert time.monotonic() < deadline, "it never was tried"
                await asyncio.sleep(0.02)
            assert background.supervisor.pid is not None
            os.kill(background.supervisor.pid, how)
            while background.supervisor.starts < 2:
                await asyncio.sleep(0.02)

    try:
        asyncio.run(run())
    finally:
        background.stop()
    found = tuning.read(hash, "cpu")
    assert found is not None and found.ended == (1 if how is signal.SIGKILL else 0)
