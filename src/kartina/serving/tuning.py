"""How a model is best evaluated on this machine: how many rows at once, on how many threads.

More rows in one evaluation make more images a second only up to a point, and every step lasts longer, which those feel
who wait to join or to cancel. So the cap is the largest batch that is nearly as fast as the best one and whose step is
short: room for many callers, and no time lost. Threads beyond the first help large networks and hurt tiny ones, and the
service needs a core, too: of the counts that reach three quarters of the best speed the smallest is taken. Both are
measured once for a model, device and version of torch, and kept in KARTINA_HOME/cache/engine; a file that is lost or
damaged is measured anew, and so is one of a machine that was busy, by a worker that starts when it is quieter.

On a CPU the networks may also be evaluated by another runtime (`runtime`: eager | onnx | openvino | auto), and where
the device computes in bfloat16 they may be evaluated in that (`precision`: fp32 | bf16). One is taken when its images
of a few rows are within 1/255 of torch's (in bfloat16: NEAR on the mean) and (auto, bfloat16) it is a tenth faster, or
nearly as fast on fewer threads: each runtime is tried on torch's count, on half as many and on twice as many, for one
that is faster may need fewer. Else torch goes on in float32. Until that is known, it does too. Runtimes are native code
of others: after TRIES workers that ended while they tried those of a model, none tries them again.

    tuner = Tuner(models, most=64)
    while tuner.step():  # one evaluation, a fraction of a second: requests are served between two of them
        ...
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from kartina.config import Frozen
from kartina.generators.base import Row, State
from kartina.models.model import Model
from kartina.serving import kept, runtimes
from kartina.serving.residency import Residency, Resident
from kartina.serving.runtimes import LOW, BrokenRuntimeError, Runtime

log = structlog.get_logger("kartina.serving.worker")

NEARLY = 0.9  # of the best rate: what the cap must reach
MAX_STEP = 0.25  # seconds that a step of the cap may take
WORTH = 0.75  # of the best speed: what the fewest threads must reach
BUSY = 0.5  # load average a core, beyond which a measurement is not trusted for ever
ENOUGH = 0.2  # seconds after which a batch size is not evaluated again
REPEATS = 3  # evaluations of a batch size, of which the fastest counts; the first also warms up
ROUNDS = 2  # in which thread counts are measured in turn
NEAR = 1.0  # of 255: how far a pixel may be off on the mean of an image in bfloat16
COMPARED = 3  # rows whose images another runtime must make as torch does
BUDGET = 5.0  # seconds after which nothing more is tried
TRIES = 2  # workers that may end while a model's runtimes are tried, or opened
LARGE = 2**26  # bytes of weights beyond which no runtime is tried on several counts of threads: each has own copies
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # batch sizes that a GPU meets


def bucket(n: int) -> int:
    """The smallest of BUCKETS with room for n rows; n itself beyond them."""
    return next((size for size in BUCKETS if size >= n), n)


class Comparison(Frozen):
    """What was found out about the runtimes."""

    switch: str
    versions: dict[str, str]  # of those compared
    runtime: str  # that was chosen
    threads: int = Field(ge=1)  # of its evaluations
    seconds: dict[str, tuple[float, float]]  # by label: of one evaluation of one row, and of the cap
    left_out: dict[str, str]  # why


class Tuning(Frozen):
    """What was measured of one model on one device."""

    torch: str  # version that it was measured with
    device: str  # name of the device
    threads_tried: tuple[int, ...]
    batch: int = Field(ge=1)  # the cap
    most: int = Field(ge=1)  # the cap's own upper bound while it was measured
    torch_threads: int = Field(ge=1)  # of torch's own evaluations
    seconds: dict[int, float]  # of one evaluation by rows, on the first of the threads tried; the cap's on those chosen
    load: float = 0.0  # average a core when that began
    comparison: Comparison | None = None
    ended: int = 0  # workers that ended while they tried its runtimes, one after the other

    @property
    def threads(self) -> int:
        """Of an evaluation by what was chosen."""
        return self.torch_threads if self.comparison is None else self.comparison.threads

    @property
    def rate(self) -> float:
        """Rows a second at the cap, one evaluation each; 0 where it was not measured."""
        return self.batch / self.seconds[self.batch] if self.batch in self.seconds else 0.0


class Tuner:
    """Measures the models in memory that have not been, one evaluation at a time. Belongs to the stepping thread."""

    def __init__(
        self,
        models: Residency,
        most: int,
        threads: Sequence[int] = (),
        runtime: str = "eager",
        precision: str = "fp32",
    ):
        self.models = models
        self.most = most
        self.threads = tuple(threads) or thread_counts(models.device)
        self.runtime = runtime
        self.versions = runtimes.installed(runtime, models.device, precision)
        if precision != "fp32" and LOW not in self.versions:
            log.warning("precision_left_out", precision=precision, reason=f"{models.device} computes in float32 only")
        self.measured: set[str] = set()  # hashes of those that were measured by this process
        self._at: Resident | None = None  # being measured, the model
        self._hash = ""  # whose hash is
        self._work: Generator[None, None, Tuning] | None = None
        self._tried: dict[str, Tuning] = {}  # by hash, the records of models whose runtimes are being tried
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")

    @property
    def busy(self) -> bool:
        return self._work is not None

    def get(self, hash: str) -> Tuning | None:
        """What is known of a model in memory, from this process or an earlier one."""
        resident = self.models.resident(hash)
        if resident is None:
            return None
        if not resident.looked:  # for a record, once
            resident.looked = True
            found = read(hash, self.models.device)
            if found is not None and self._fits(found):
                resident.tuning = found
        return resident.tuning

    def let_go(self) -> None:
        """End the work on a model that left memory meanwhile, which would hold it."""
        if self._at is not None and self.models.resident(self._hash) is not self._at:
            self._work = self._at = None
        for hash in [hash for hash in self._tried if self.models.resident(hash) is None]:
            write(hash, self.models.device, self._tried.pop(hash))

    def withdraw(self) -> None:
        """The process is about to end, and not by what is being tried. Any thread may say so."""
        for hash, found in list(self._tried.items()):
            write(hash, self.models.device, found)

    def step(self, hash: str | None = None) -> bool:
        """One evaluation of a model that has not been measured (the one asked for); False when there is none."""
        if self._work is None and not self._measure([hash] if hash is not None else list(self.models.hashes)):
            return hash is None and bool(self.versions) and self._compare()
        return self._go_on() if self._work is not None else True

    def _measure(self, hashes: Sequence[str]) -> bool:
        """Begin to measure the first of the models that is in memory and unknown."""
        for hash in hashes:
            resident = self.models.resident(hash)
            if resident is not None and self.get(hash) is None:
                self._begin(hash, resident, measure(resident.model, self.models.device, self.most, self.threads))
                return True
        return False

    def _compare(self) -> bool:
        """Get a measured model's networks into other runtimes, and begin to compare them when they are there."""
        there = [self.models.resident(hash) for hash in self.models.hashes]
        preparing = any(resident is not None and resident.preparing is not None for resident in there)
        for hash, resident in zip(self.models.hashes, there, strict=True):
            if resident is None or resident.tuning is None or not resident.tuning.seconds or resident.runtime:
                continue
            known = self._known(resident.tuning)
            if not preparing and (known is None or known.runtime != "eager"):  # one at a time: each takes memory
                if not self._dare(hash, resident, resident.tuning):
                    continue
                preparing = True
                names = list(self.versions) if known is None else [known.runtime]
                counts = self._counts(resident) if known is None else [known.threads]
                resident.preparing = self._compiler.submit(runtimes.prepare, resident.path, hash, names, counts)
                resident.preparing.add_done_callback(lambda _: self.models.wake())
            elif resident.preparing is not None and resident.preparing.done():
                prepared = self._prepared(resident)
                if known is None:
                    work = compare(
                        resident.model, self.models.device, resident.tuning, prepared, self.runtime, self.versions
                    )
                    self._begin(hash, resident, work)
                    return True
                self._tried.pop(hash, None)
                write(hash, self.models.device, resident.tuning.model_copy(update={"ended": 0}))
                self._take(resident, known, prepared)
                return True
        return False

    def _dare(self, hash: str, resident: Resident, tuning: Tuning) -> bool:
        """Note on the disk that a model's runtimes are tried, which a worker that ends over it leaves there. False
        where too many did: torch goes on."""
        if hash in self._tried:
            return True
        if tuning.ended >= TRIES:
            why = f"{tuning.ended} workers ended while it was tried"
            log.warning("runtime_left_out", model=resident.model.ref, reason=why)
            resident.tuning = self._uncompared(tuning, why)
            write(hash, self.models.device, resident.tuning)
            return False
        self._tried[hash] = tuning
        write(hash, self.models.device, tuning.model_copy(update={"ended": tuning.ended + 1}))
        return True

    def _counts(self, resident: Resident) -> list[int]:
        """Of threads, those that a runtime is tried on."""
        assert resident.tuning is not None
        own = resident.tuning.torch_threads
        if resident.weights > LARGE:
            return [own]
        return [n for n in self.threads if own <= 2 * n and n <= 2 * own]

    def _prepared(self, resident: Resident) -> dict[str, Runtime | str]:
        """A model's networks in the runtimes, once they are there."""
        assert resident.preparing is not None
        low = {LOW: runtimes.lowered(resident.model.family, self.models.device)} if LOW in self.versions else {}
        return {**resident.preparing.result(), **low}

    def _known(self, tuning: Tuning) -> Comparison | None:
        """An earlier comparison of what would be compared now."""
        found = tuning.comparison
        now = (self.runtime, self.versions)
        return found if found is not None and (found.switch, found.versions) == now else None

    def _take(self, resident: Resident, chosen: Comparison, prepared: Mapping[str, Runtime | str]) -> None:
        """Have a model evaluated by what was chosen; by torch when it is not to be had. The others leave memory."""
        resident.preparing = None
        found = runtimes.one_of(prepared, chosen.runtime, chosen.threads)
        if isinstance(found, Runtime):
            resident.runtime = found
        elif found is not None:
            log.warning("runtime_left_out", model=resident.model.ref, reason=found)
            resident.tuning = resident.tuning and self._uncompared(resident.tuning, found)

    def give_up(self, resident: Resident, error: Exception) -> None:
        """A runtime failed in use: torch goes on, as long as this process lives."""
        log.error("runtime_failed", model=resident.model.ref, exc_info=error)
        resident.runtime = None
        resident.tuning = resident.tuning and self._uncompared(resident.tuning, str(error))

    def _begin(self, hash: str, resident: Resident, work: Generator[None, None, Tuning]) -> None:
        self._hash, self._at, self._work = hash, resident, work

    def _go_on(self) -> bool:
        """The next evaluation of the work begun."""
        self.let_go()
        if self._work is None or self._at is None:
            return True
        resident = self._at
        try:
            next(self._work)
        except StopIteration as end:
            self._work = self._at = None
            resident.tuning = end.value
            self.measured.add(self._hash)
            self._tried.pop(self._hash, None)
            write(self._hash, self.models.device, end.value)
            chosen = end.value.comparison
            if chosen is not None and resident.preparing is not None:
                log.info(
                    "runtime_chosen",
                    model=resident.model.ref,
                    runtime=chosen.runtime,
                    threads=chosen.threads,
                    left_out=chosen.left_out,
                )
                self._take(resident, chosen, self._prepared(resident))
        except Exception as error:  # a model from outside may raise anything: it is served as it is
            log.error("model_not_measured", model=self._hash[:12], exc_info=error)
            self._work = self._at = resident.preparing = None
            resident.tuning = self._uncompared(resident.tuning or self._unmeasured(), str(error))
        return True

    def _fits(self, found: Tuning) -> bool:
        """Whether a record is of this device, this torch and these settings, and of a machine as quiet as it is now."""
        here = self._unmeasured()
        if found.load > BUSY and here.load < found.load / 2:
            return False
        return (found.torch, found.device, found.threads_tried, found.most) == (
            here.torch,
            here.device,
            here.threads_tried,
            here.most,
        )

    def _uncompared(self, tuning: Tuning, why: str) -> Tuning:
        """Torch goes on: it is not tried again."""
        eager = Comparison(
            switch=self.runtime,
            versions=self.versions,
            runtime="eager",
            threads=tuning.torch_threads,
            seconds={},
            left_out=dict.fromkeys(self.versions, why),
        )
        return tuning.model_copy(update={"comparison": eager, "ended": 0})

    def _unmeasured(self) -> Tuning:
        return Tuning(
            torch=torch.__version__,
            device=device_name(self.models.device),
            threads_tried=self.threads,
            batch=self.most,
            most=self.most,
            torch_threads=self.threads[0],
            seconds={},
            load=load_average(),
        )


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(model: Model, device: str, most: int, threads: Sequence[int]) -> Generator[None, None, Tuning]:
    """Find the cap (up to `most`) and the best of `threads`; yields after every evaluation."""
    spent, load = 0.0, load_average()
    seconds: dict[int, float] = {}

    def timed(n: int, on: int) -> Generator[None, None, float]:
        nonlocal spent
        state = model.family.start([example(model, seed) for seed in range(n)])
        took: list[float] = []
        while len(took) < REPEATS and sum(took) < ENOUGH:
            took.append(evaluate(model, state, on, device))
            spent += took[-1]
            yield
        return min(took)

    def again() -> Generator[None, None, None]:
        for n in list(seconds):
            if spent < BUDGET / 2:
                seconds[n] = min(seconds[n], (yield from timed(n, threads[0])))

    # How many rows at once: ever more, until the step is long or more rows have not paid twice, also at a second look;
    # which all sizes have in the end, for something else may have had the cores while one was measured.
    for n in sizes(most):
        try:
            seconds[n] = yield from timed(n, threads[0])
        except torch.OutOfMemoryError:
            break
        if seconds[n] > MAX_STEP or spent > BUDGET / 2:
            break
        if not pays(seconds):
            yield from again()
            if not pays(seconds):
                break
    yield from again()
    batch = cap(seconds)

    # On how many threads: one row's time and a full batch's, in turn, so that other work disturbs all counts alike.
    found: dict[int, tuple[float, float]] = {}
    for on in (*threads,) * ROUNDS:
        if spent > BUDGET and found:
            break
        alone, full = found.get(on, (math.inf, math.inf))
        found[on] = min(alone, (yield from timed(1, on))), min(full, (yield from timed(batch, on)))
    chosen = fewest({on: 1 / math.sqrt(alone * full) for on, (alone, full) in found.items()})
    return Tuning(
        torch=torch.__version__,
        device=device_name(device),
        threads_tried=tuple(threads),
        batch=batch,
        most=most,
        torch_threads=chosen,
        seconds={**seconds, batch: found[chosen][1]},
        load=load,
    )


def pays(seconds: Mapping[int, float]) -> bool:
    """Whether one of the last two batch sizes makes more rows a second than those before."""
    rates = [n / took for n, took in seconds.items()]
    return len(rates) < 3 or max(rates[-2:]) >= 1.05 * max(rates[:-2])


def fewest(speeds: Mapping[int, float]) -> int:
    """The smallest of the thread counts whose speed is at least WORTH of the best one's."""
    return min(on for on, speed in speeds.items() if speed >= WORTH * max(speeds.values()))


def sizes(most: int) -> list[int]:
    """The batch sizes that are tried: powers of two below `most`, and that."""
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def cap(seconds: Mapping[int, float]) -> int:
    """The largest batch whose rate is nearly the best of those whose step is short; one row at least."""
    rates = {n: n / took for n, took in seconds.items() if took <= MAX_STEP}
    return max((n for n, rate in rates.items() if rate >= NEARLY * max(rates.values())), default=1)


def example(model: Model, seed: int, label: int = 0) -> Row:
    """A row of the model's first task, with its default controls, on grey images where it takes some."""
    task, takes = next(iter(model.family.capabilities().items()))
    weights = torch.zeros(model.family.classes)
    weights[label] = 1.0
    return Row(weights, seed, model.controls(task), task, takes.blank(model.spec))


def compare(
    model: Model,
    device: str,
    tuning: Tuning,
    prepared: Mapping[str, Runtime | str],
    switch: str,
    versions: dict[str, str],
) -> Generator[None, None, Tuning]:
    """Which runtime evaluates a model, on how many threads: right images first, then speed; yields after every
    evaluation."""

    def pictures(runtime: Runtime | None, n: int) -> Generator[None, None, Tensor]:
        rows = [example(model, seed, seed % model.family.classes) for seed in range(n)]
        state = model.family.start(rows)
        while not bool(state.done.all()):
            with instead(model, runtime):
                state = model.family.step(state)
            yield
        return model.family.finish(state).images.int()

    right = {1: (yield from pictures(None, 1)), COMPARED: (yield from pictures(None, COMPARED))}
    took: dict[str, dict[int, list[float]]] = {"eager": {}}
    left_out = {}
    for name, runtime in prepared.items():
        if isinstance(runtime, str):
            left_out[name] = runtime
            continue
        try:
            off = []
            for n, images in right.items():
                off.append((yield from pictures(runtime, n)) - images)
        except BrokenRuntimeError as error:
            left_out[name] = f"failed: {error}"[:500]
        else:
            if difference := unlike(torch.cat(off), runtime.exact):
                left_out[name] = difference
            else:
                took[name] = {}

    # Speed: in turn, so that other work disturbs all alike.
    ways = {name: runtime for name, runtime in prepared.items() if name in took and isinstance(runtime, Runtime)}
    threads = {name: ways[name].threads if name in ways else 0 for name in took}
    threads = {name: count or tuning.torch_threads for name, count in threads.items()}
    for n in (1, tuning.batch):
        state = model.family.start([example(model, seed) for seed in range(n)])
        for _ in range(REPEATS + 1):
            for name in list(took):
                try:
                    with instead(model, ways.get(name)):
                        took[name].setdefault(n, []).append(evaluate(model, state, threads[name], device))
                except BrokenRuntimeError as error:
                    left_out[name] = f"failed: {error}"[:500]
                    del took[name]
                yield
    seconds = {  # the first evaluation warms up
        name: (min(found[1][1:]), min(found[tuning.batch][1:])) for name, found in took.items()
    }
    speeds = {name: 1 / math.sqrt(alone * full) for name, (alone, full) in seconds.items()}
    speeds["eager"] *= 1 / NEARLY if switch in ("auto", "eager") else 0.0  # who names a runtime means it
    chosen = best(speeds, threads)
    found = Comparison(
        switch=switch,
        versions=versions,
        runtime=ways[chosen].name if chosen in ways else "eager",
        threads=threads[chosen],
        seconds=seconds,
        left_out=left_out,
    )
    return tuning.model_copy(update={"comparison": found, "ended": 0})


def best(speeds: Mapping[str, float], threads: Mapping[str, int]) -> str:
    """The fastest of those on as few threads as reach WORTH of the best speed."""
    counts = {threads[name]: 0.0 for name in speeds}
    for name, speed in speeds.items():
        counts[threads[name]] = max(counts[threads[name]], speed)
    few = fewest(counts)
    return max((name for name in speeds if threads[name] == few), key=lambda name: speeds[name])


def unlike(off: Tensor, exact: bool) -> str:
    """What is wrong with images that are off by so much (N,C,H,W, of 255); "" where they are near enough."""
    if exact:
        return f"an image differs by {int(off.abs().max())}/255" if off.abs().max() > 1 else ""
    mean = float(off.abs().float().mean(dim=(1, 2, 3)).max())
    return f"an image differs by {mean:.1f}/255 on the mean" if mean > NEAR else ""


@contextmanager
def instead(model: Model, runtime: Runtime | None) -> Iterator[None]:
    """The model's networks in a runtime for a while; None is torch."""
    with runtime.instead(model.family) if runtime is not None else contextlib.nullcontext():
        yield


def evaluate(model: Model, state: State, threads: int, device: str) -> float:
    """Seconds of one evaluation, on so many CPU threads."""
    with on_threads(threads, device):
        begun = time.perf_counter()
        model.family.step(state)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begun


@contextmanager
def on_threads(threads: int, device: str) -> Iterator[None]:
    """torch's thread count for a while; 0, and elsewhere than on a CPU, it is left alone."""
    before = torch.get_num_threads()
    if device == "cpu" and threads not in (0, before):
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def thread_counts(device: str) -> tuple[int, ...]:
    """What is worth a try: as many as torch chose, half as many, and so on down to one."""
    counts = [torch.get_num_threads()]
    while device == "cpu" and counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return tuple(counts)


def load_average() -> float:
    """Processes of the last minute that ran or waited to run, a core; 0 where the system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {os.cpu_count()} cores"


# -- records ---------------------------------------------------------------------------------------------------------


def read(hash: str, device: str) -> Tuning | None:
    """What an earlier process measured; None where there is nothing that can be read."""
    try:
        found = Tuning.model_validate_json(kept.record(hash, device).read_bytes())
    except (OSError, ValidationError):
        return None
    kept.used(kept.record(hash, device))
    return found


def write(hash: str, device: str, found: Tuning) -> None:
    """Keep what was measured; a folder that cannot be written costs the next activation a few seconds."""
    where = kept.record(hash, device)
    part = where.with_suffix(f".{os.getpid()}.part")
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(found.model_dump_json(indent=1))
        part.replace(where)
    except OSError as error:
        log.warning("measurement_not_kept", model=hash[:12], error=str(error))
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
