"""The memory of a service: its threads share one heap."""

from __future__ import annotations

import re
from pathlib import Path

from tests.service import Service

HEAP = 64 * 2**20  # bytes of address space that glibc sets aside for a thread's own heap


def heaps(pid: int) -> int:
    """How many threads' own heaps there are: what is in use of each, and the rest of its address space behind it."""
    found, before = 0, (0, 0, "")
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        low, high, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
        now = int(low, 16), int(high, 16), rights
        if now[2] == "---p" and before[2] == "rw-p" and before[1] == now[0] and now[1] - before[0] == HEAP:
            found += 1
        before = now
    return found


def test_threads_share_one_heap(service: Service) -> None:
    service.wait_ready()
    for seed in range(5):
        job = service.generate(n=8, seed=seed)
        assert service.client.get(job["outputs"][0]["url"]).status_code == 200
    threads = len(list(Path(f"/proc/{service.process.pid}/task").iterdir()))
    assert threads > 3 and heaps(service.process.pid) == 0
