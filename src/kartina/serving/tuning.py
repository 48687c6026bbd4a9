"""How a model is best evaluated on this machine: how many rows at once, on how many threads.

More rows in one evaluation make more images a second only up to a point, and every step lasts longer, which those feel
who wait to join or to cancel. So the cap is the largest batch that is nearly as fast as the best one and whose step is
short: room for many callers, and no time lost. Threads beyond the first help large networks and hurt tiny ones. Both
are measured once for a model, device and version of torch, and kept in KARTINA_HOME/cache/engine; a file that is lost
or damaged is measured anew.

    tuner = Tuner(models, "cpu", most=64)
    while tuner.step():  # one evaluation, a fraction of a second: requests are served between two of them
        ...
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
import torch
from pydantic import Field, ValidationError

from kartina.config import Frozen, home
from kartina.generators.base import Row, State
from kartina.models.model import Model
from kartina.serving.residency import Residency

log = structlog.get_logger("kartina.serving.worker")

NEARLY = 0.9  # of the best rate: what the cap must reach
MAX_STEP = 0.25  # seconds that a step of the cap may take
ENOUGH = 0.2  # seconds after which a batch size is not evaluated again
REPEATS = 3  # evaluations of a batch size, of which the fastest counts; the first also warms up
BUDGET = 5.0  # seconds after which nothing more is tried
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # batch sizes that a GPU meets


def bucket(n: int) -> int:
    """The smallest of BUCKETS with room for n rows; n itself beyond them."""
    return next((size for size in BUCKETS if size >= n), n)


class Tuning(Frozen):
    """What was measured of one model on one device."""

    torch: str  # version that it was measured with
    device: str  # name of the device
    threads_tried: tuple[int, ...]
    batch: int = Field(ge=1)  # the cap
    most: int = Field(ge=1)  # the cap's own upper bound while it was measured
    threads: int = Field(ge=1)
    seconds: dict[int, float]  # of one evaluation by rows, on the first of the threads tried

    @property
    def rate(self) -> float:
        """Rows a second at the cap, one evaluation each; 0 where it was not measured."""
        return self.batch / self.seconds[self.batch] if self.batch in self.seconds else 0.0


class Tuner:
    """Measures the models in memory that have not been, one evaluation at a time. Belongs to the stepping thread."""

    def __init__(self, models: Residency, most: int, threads: Sequence[int] = ()):
        self.models = models
        self.most = most
        self.threads = tuple(threads) or thread_counts(models.device)
        self.measured: set[str] = set()  # hashes of those that were measured by this process
        self._at = ""  # hash of the model being measured
        self._work: Generator[None, None, Tuning] | None = None

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

    def step(self, hash: str | None = None) -> bool:
        """One evaluation of a model that has not been measured (the one asked for); False when there is none."""
        if self._work is None:
            todo = [hash] if hash is not None else list(self.models.hashes)
            self._at = next((one for one in todo if self.models.resident(one) and self.get(one) is None), "")
            resident = self.models.resident(self._at)
            if resident is None:
                return False
            self._work = measure(resident.model, self.models.device, self.most, self.threads)
        resident = self.models.resident(self._at)
        if resident is None:  # it left memory meanwhile
            self._work = None
            return True
        try:
            next(self._work)
        except StopIteration as end:
            self._work, resident.tuning = None, end.value
            self.measured.add(self._at)
            write(self._at, self.models.device, end.value)
        except Exception as error:  # a model from outside may raise anything: it is served as it is
            log.error("model_not_measured", model=self._at[:12], exc_info=error)
            self._work, resident.tuning = None, self._unmeasured()
        return True

    def _fits(self, found: Tuning) -> bool:
        """Whether a record is of this device, this torch and these settings."""
        here = self._unmeasured()
        return (found.torch, found.device, found.threads_tried, found.most) == (
            here.torch,
            here.device,
            here.threads_tried,
            here.most,
        )

    def _unmeasured(self) -> Tuning:
        return Tuning(
            torch=torch.__version__,
            device=device_name(self.models.device),
            threads_tried=self.threads,
            batch=self.most,
            most=self.most,
            threads=self.threads[0],
            seconds={},
        )


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(model: Model, device: str, most: int, threads: Sequence[int]) -> Generator[None, None, Tuning]:
    """Find the cap (up to `most`) and the best of `threads`; yields after every evaluation."""
    spent = 0.0
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

    # How many rows at once: ever more, until the step is long or more rows have not paid twice.
    for n in sizes(most):
        try:
            seconds[n] = yield from timed(n, threads[0])
        except torch.OutOfMemoryError:
            break
        rates = [k / took for k, took in seconds.items()]
        if seconds[n] > MAX_STEP or spent > BUDGET / 2 or (n > 2 and max(rates[-2:]) < 1.05 * max(rates[:-2])):
            break
    batch = cap(seconds)

    # On how many threads: the least time for one row and for a full batch together.
    scores = {threads[0]: seconds[1] * seconds[batch]}
    for on in threads[1:]:
        if spent > BUDGET:
            break
        alone = yield from timed(1, on)
        full = yield from timed(batch, on)
        scores[on] = alone * full
    return Tuning(
        torch=torch.__version__,
        device=device_name(device),
        threads_tried=tuple(threads),
        batch=batch,
        most=most,
        threads=min(scores, key=lambda on: scores[on]),
        seconds=seconds,
    )


def sizes(most: int) -> list[int]:
    """The batch sizes that are tried: powers of two below `most`, and that."""
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def cap(seconds: Mapping[int, float]) -> int:
    """The largest batch whose rate is nearly the best of those whose step is short; one row at least."""
    rates = {n: n / took for n, took in seconds.items() if took <= MAX_STEP}
    return max((n for n, rate in rates.items() if rate >= NEARLY * max(rates.values())), default=1)


def example(model: Model, seed: int) -> Row:
    """A row of the model's first task, with its default controls, on grey images where it takes some."""
    task, takes = next(iter(model.family.capabilities().items()))
    weights = torch.zeros(model.family.classes)
    weights[0] = 1.0
    channels = takes.channels or model.spec.channels
    size = tuple(side // takes.shrink for side in (model.spec.height, model.spec.width))
    inputs = {kind: torch.zeros(1 if kind == "mask" else channels, *size) for kind in takes.inputs}
    return Row(weights, seed, model.controls(task), task, inputs)


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


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {os.cpu_count()} cores"


# -- records ---------------------------------------------------------------------------------------------------------


def record(hash: str, device: str) -> Path:
    """Where a model's measurements are kept."""
    return home() / "cache" / "engine" / f"{hash}-{device.replace(':', '-')}.json"


def read(hash: str, device: str) -> Tuning | None:
    """What an earlier process measured; None where there is nothing that can be read."""
    try:
        return Tuning.model_validate_json(record(hash, device).read_bytes())
    except (OSError, ValidationError):
        return None


def write(hash: str, device: str, found: Tuning) -> None:
    """Keep what was measured; a folder that cannot be written costs the next activation a few seconds."""
    where = record(hash, device)
    part = where.with_suffix(f".{os.getpid()}.part")
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(found.model_dump_json(indent=1))
        part.replace(where)
    except OSError as error:
        log.warning("measurement_not_kept", model=hash[:12], error=str(error))
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
