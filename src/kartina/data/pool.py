"""Pool: worker processes that decode images, fed in order, a few tasks ahead.

A worker is `python -m kartina.data.worker`: a fresh interpreter with numpy and Pillow alone, so it does not matter what
the calling process has loaded (torch) or whether its script guards `__main__`. A task and its reply are one line of
JSON and a block of bytes. Tasks are drawn from an iterator as they are needed and replies come in their order, so
memory does not grow with the number of tasks.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from kartina.errors import KartinaError

Message = tuple[dict[str, Any], bytes]  # what is said in JSON, and the array or file that goes with it


def default_workers() -> int:
    """As many as there are cores for this process, 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


class Pool:
    """Worker processes, started when they are first needed and ended with the `with` block; none where workers <= 1."""

    def __init__(self, workers: int):
        self.workers = workers
        self._procs: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for proc in self._procs:
            proc.end()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def run(self, job: str, tasks: Iterable[Message]) -> Iterator[Message]:
        """Do `job` (a name in `kartina.data.worker.JOBS`) for every task, in order.

        An OSError of a worker (a full disk) is raised here as it is. Raises KartinaError when a worker dies.
        """
        if self.workers <= 1:
            from kartina.data.worker import perform

            yield from (perform({**head, "job": job}, body) for head, body in tasks)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="kartina-decode")
        ahead: deque[Future[Message]] = deque()
        for head, body in tasks:
            if len(self._procs) < self.workers:
                self._procs.append(_Worker())
                self._idle.put(self._procs[-1])
            ahead.append(self._threads.submit(self._ask, ({**head, "job": job}, body)))
            if len(ahead) > 2 * self.workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _ask(self, task: Message) -> Message:
        proc = self._idle.get()
        try:
            return proc.ask(task)
        finally:
            self._idle.put(proc)


def write_message(file: IO[bytes], message: Message) -> None:
    head, body = message
    file.write(json.dumps({**head, "_bytes": len(body)}).encode() + b"\n")
    file.write(body)
    file.flush()


def read_message(file: IO[bytes]) -> Message | None:
    """The next message, or None at the end."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    size = head.pop("_bytes")
    body = file.read(size)
    return (head, body) if len(body) == size else None


class _Worker:
    def __init__(self) -> None:
        self._proc = subprocess.Popen(
            [sys.executable, "-m", "kartina.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, task: Message) -> Message:
        assert self._proc.stdin is not None and self._proc.stdout is not None
        try:
            write_message(self._proc.stdin, task)
            reply = read_message(self._proc.stdout)
        except (BrokenPipeError, ValueError):
            reply = None
        if reply is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its pipe closes a moment before it can be reaped
                self._proc.wait(5)
            raise KartinaError(
                f"A process that decodes images ended (exit code {self._proc.returncode}); it was expected to go on. "
                f"If memory is short, free some or use --workers 1, then run it again."
            )
        failure = reply[0].get("os_error")
        if failure is not None:
            raise OSError(*failure)
        return reply

    def end(self) -> None:
        self._proc.kill()
        self._proc.wait()
        for pipe in (self._proc.stdin, self._proc.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
