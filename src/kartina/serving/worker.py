"""The worker: a process of its own that holds the models and makes the images.

    python -m kartina.process kartina.serving.worker --socket PATH [--device auto] [--batch 64] [--threads 0] ...

The main thread does nothing but step batches; others talk to clients on a Unix socket, load models, and decode and
encode images. Models that are new here are measured (see `tuning`): between the steps of those who use them, else when
there is nothing to step.
With --watch-stdin the worker ends when its standard input does, which is when whoever started it is gone. One whose
interpreter stands still ends, too: its supervisor starts the next.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog
import torch

from kartina import logs
from kartina.errors import ConfigError, IntegrityError
from kartina.memory import give_back
from kartina.serving import kept
from kartina.serving.batching import BATCH, Batcher, failure
from kartina.serving.device import Sampling
from kartina.serving.protocol import (
    TERMINAL,
    Activate,
    Activated,
    AskStats,
    Cancel,
    Failed,
    Message,
    RequestSpec,
    Stats,
    Steps,
    Submit,
    Watch,
    pack,
    read_message,
)
from kartina.serving.residency import MAX_BYTES, MAX_MODELS, Residency
from kartina.serving.runtimes import PRECISIONS, SWITCHES
from kartina.serving.tuning import Tuner, evaluate, example
from kartina.settings import load
from kartina.training.loop import pick_device

log = structlog.get_logger("kartina.serving.worker")

SWITCH = 0.001  # seconds that a thread keeps the interpreter while another waits for it
QUIET = 1.0  # seconds without a request after which models are made ready in advance
TIDY = 5.0  # seconds without work after which free memory goes back to the system, and at least between two times
STUCK = 300.0  # seconds in which no thread got the interpreter, after which the process ends


@dataclass
class Activation:
    """A model that somebody wants to be ready."""

    asked: Activate
    send: Callable[[Message], None]
    measured: bool = False


class Worker:
    """A Batcher behind a socket. `threads` of each evaluation; 0: as many as are measured to be best."""

    def __init__(
        self,
        device: str,
        *,
        batch: int = BATCH,
        models: int = MAX_MODELS,
        size: int = MAX_BYTES,
        threads: int = 0,
        runtime: str = "eager",
        precision: str = "fp32",
        stuck: float = STUCK,
    ):
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # done between two steps
        self._models = Residency(device, lambda: self._inbox.put(_nothing), count=models, size=size)
        self._tuner = Tuner(self._models, batch, (threads,) if threads else (), runtime, precision)
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._batcher = Batcher(self._models, batch, self._tuner, self._encoder.submit)
        self._activations: dict[str, Activation] = {}
        self._device = Sampling(device)
        self._asked = 0.0  # when there was a request last
        self._worked = 0.0  # when there was something to evaluate last
        self._tidied, self._left = 0.0, 0  # when free memory went back to the system last, and models left by then
        self._stuck = stuck

    def run(self, socket: Path) -> None:
        """Serve until the process ends: step while there is work, else wait for some."""
        io = threading.Thread(target=self._listen, args=(socket,), daemon=True, name="io")
        io.start()
        self._encoder.submit(kept.prune)
        busy = False
        with torch.inference_mode():
            while io.is_alive():
                with contextlib.suppress(queue.Empty):
                    self._inbox.get(block=not busy, timeout=self._patience())()
                    while True:
                        self._inbox.get_nowait()()
                if self._batcher.requests:
                    self._asked = time.monotonic()
                self._device.pending(bool(self._batcher.requests or self._activations or self._tuner.busy))
                busy = self._batcher.step()
                self._tuner.let_go()
                if (hash := self._batcher.unmeasured) is not None:
                    self._tuner.step(hash)
                busy = self._activate() or busy or self._tuner.step()
                if not busy and not self._batcher.requests:
                    self._device.pending(False)
                self._tidy(busy)

    def end(self) -> NoReturn:
        """End the process: nobody needs it any more. In any thread."""
        self._tuner.withdraw()
        os._exit(0)

    def _patience(self) -> float | None:
        """Seconds after which there is something to do though nobody asks for anything; None: there is not."""
        if self._activations:
            return QUIET
        return TIDY if self._worked > self._tidied or self._models.left > self._left else None

    def _tidy(self, busy: bool) -> None:
        """Give free memory back to the system: in a calm after work, and every now and then when models leave.

        A batch of 64 rows takes hundreds of MiB for a moment, and models that come and go leave holes between what
        stays. Without this a worker keeps the most that it ever needed in each of its threads' heaps.
        """
        now = time.monotonic()
        if busy:
            self._worked = now
        calm = self._worked > self._tidied and now - self._worked >= TIDY
        if calm or (self._models.left > self._left and now - self._tidied >= TIDY):
            self._tidied, self._left = now, self._models.left
            self._encoder.submit(give_back)

    def _activate(self) -> bool:
        """Get the models on that are to be activated: by one evaluation, so that requests wait for no more.

        Those that are for an idle engine wait until there have been no requests for a while.
        """
        self._batcher.held = {activation.asked.hash for activation in self._activations.values()}
        used = set[str]()
        for id, activation in list(self._activations.items()):
            asked = activation.asked
            if asked.idle and time.monotonic() - self._asked < QUIET:
                continue
            if self._models.crowded(used, asked.hash, asked.model):
                break
            used.add(asked.hash)
            try:
                model = self._models.ask(asked.hash, asked.model)
                known = self._tuner.get(asked.hash)
                if model is None:
                    continue  # it is being loaded
                if known is None:
                    activation.measured = True
                    return self._tuner.step(asked.hash)
                if not activation.measured:  # measuring has warmed it up
                    for n in (1, known.batch):
                        state = model.family.start([example(model, seed) for seed in range(n)])
                        evaluate(model, state, known.threads, self._models.device)
            except Exception as error:  # a model from outside may raise anything
                activation.send(failure(id, asked.hash, error))
            else:
                activation.send(
                    Activated(
                        id=id,
                        bytes=self._models.size_of(asked.hash),
                        batch=known.batch,
                        threads=known.threads,
                        rate=known.rate,
                        measured=activation.measured,
                    )
                )
            del self._activations[id]
            self._worked = time.monotonic()
        return False

    # -- the io thread -----------------------------------------------------------------------------------------------

    def _listen(self, socket: Path) -> None:
        async def watch() -> None:
            """End the process when this thread gets no turn any more, for another holds the interpreter and waits for
            ever; a step, however long, does not hold it. No thread of Python's waits for that moment."""
            while True:
                faulthandler.dump_traceback_later(self._stuck, exit=True)  # where all of them are goes to stderr
                await asyncio.sleep(self._stuck / 10)

        async def serve() -> None:
            socket.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._connected, socket)
            socket.chmod(0o600)
            await asyncio.gather(watch(), server.serve_forever())

        try:
            asyncio.run(serve())
        finally:
            self._inbox.put(_nothing)  # the main thread sees that this one has ended

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outbox = Outbox(asyncio.get_running_loop(), writer)
        try:
            while (message := await read_message(reader)) is not None:
                self._take(message, outbox.send, writer)
                del message  # and its images, while the next one is waited for
        except IntegrityError as error:
            log.error("client_stream_broken", error=str(error))
        finally:
            self._inbox.put(lambda: self._batcher.forget(writer))
            writer.close()

    def _take(self, message: Message, send: Callable[[Message], None], connection: Any) -> None:
        batcher = self._batcher
        match message:
            case Submit(spec=spec):

                def submit() -> None:
                    if spec.id in batcher.requests:
                        send(Failed(id=spec.id, code="conflict", message=f"Found a second request {spec.id}."))
                    else:
                        batcher.submit(spec, _logged(spec, send), connection)

                self._inbox.put(submit)
            case Cancel(id=id):
                self._inbox.put(lambda: batcher.cancel(id))
            case Watch(id=id, previews=previews):
                self._inbox.put(lambda: batcher.watch(id, previews))
            case Activate(id=id):
                self._inbox.put(lambda: self._activations.update({id: Activation(message, send)}))
            case AskStats():
                self._inbox.put(lambda: send(self._stats()))
            case _:
                raise IntegrityError(f"Found the message {message.type!r} from a client; it is for clients.")

    def _stats(self) -> Stats:
        requests = self._batcher.requests.values()
        return Stats(
            device=self._models.device,
            requests=len(requests),
            waiting=sum(len(r.waiting) for r in requests),
            running=sum(r.running + len(r.parked) for r in requests),
            models=self._models.hashes,
            resident=self._models.by_model,
            most_models=self._models.count,
            most_bytes=self._models.size,
            by_model={name: Steps(**asdict(tally)) for name, tally in self._batcher.tallies.items()},
            rss=resident(),
        )


class Outbox:
    """Messages to one client, from any thread, in order. Those that come until the io thread has its turn are written
    at once: what is said of a request's end comes with its last image."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: asyncio.StreamWriter):
        self._loop, self._writer = loop, writer
        self._frames: deque[bytes] = deque()
        self._due = False  # whether a flush is to come

    def send(self, message: Message) -> None:
        self._frames.append(pack(message))
        if not self._due:
            self._due = True
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._due = False  # first: what is appended from now on has a flush of its own, or is seen by this one
        frames = [self._frames.popleft() for _ in range(len(self._frames))]
        if not self._writer.is_closing():
            self._writer.write(b"".join(frames))


def pick_gpu(device: str) -> str:
    """Make "cuda:1" this process's GPU. Raises ConfigError where there is no such one."""
    number, there = int(device.removeprefix("cuda:")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(f"Found --device {device}; this machine has {there} GPUs, counted from cuda:0.")
    torch.cuda.set_device(number)
    return device


def resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _logged(spec: RequestSpec, send: Callable[[Message], None]) -> Callable[[Message], None]:
    """`send` that also logs how the request ended."""
    begun, id, request_id, rows = time.monotonic(), spec.id, spec.request_id or None, len(spec.rows)

    def tell(message: Message) -> None:
        if isinstance(message, TERMINAL):
            log.info(
                "request_ended", id=id, request_id=request_id, end=message.type, rows=rows,
                ms=round((time.monotonic() - begun) * 1e3),
            )  # fmt: skip
        send(message)

    return tell


def _nothing() -> None:
    """Wakes the main thread."""


def _end_with_stdin(socket: Path, end: Callable[[], NoReturn]) -> None:
    """Whoever started this process holds the other end: when it is gone, so is the reason to run."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(OSError):  # its folder was made for it alone
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()
    end()


def main() -> None:
    parser = argparse.ArgumentParser(description="Kartina's sampling worker")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows in one evaluation, at most")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: measured for each model")
    parser.add_argument("--models", type=int, default=MAX_MODELS, help="models kept in memory")
    parser.add_argument("--bytes", type=int, default=MAX_BYTES, help="of weights kept in memory")
    parser.add_argument("--runtime", choices=SWITCHES, default="eager", help="what evaluates networks on a CPU")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16: where it is faster")
    parser.add_argument("--stuck", type=float, default=STUCK, help="seconds after which one that stands still ends")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input ends")
    given = parser.parse_args()

    logs.configure(load())
    sys.setswitchinterval(SWITCH)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this process
    if given.threads:
        torch.set_num_threads(given.threads)
    device = pick_gpu(given.device) if given.device.startswith("cuda:") else pick_device(given.device)
    worker = Worker(
        device,
        batch=given.batch,
        models=given.models,
        size=given.bytes,
        threads=given.threads,
        runtime=given.runtime,
        precision=given.precision,
        stuck=given.stuck,
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.end())
    if given.watch_stdin:
        threading.Thread(target=_end_with_stdin, args=(given.socket, worker.end), daemon=True, name="stdin").start()
    try:
        worker.run(given.socket)
    except Exception as error:
        log.critical("worker_failed", exc_info=error)
        os._exit(1)  # at once: other threads may have work for minutes, and requests wait for the next worker
    sys.exit(1)  # only when the io thread has died: its traceback is on stderr
