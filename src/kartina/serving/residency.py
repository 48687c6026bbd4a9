"""Models in memory: loaded beside the sampling, least recently used out first, within a count and a size.

One in use stays, and so these limits may be exceeded, up to OVER times; beyond that nothing more is loaded.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kartina.errors import IntegrityError
from kartina.models.model import Model, load

if TYPE_CHECKING:
    from kartina.serving.runtimes import Runtime
    from kartina.serving.tuning import Tuning

MAX_MODELS = 64  # whatever their size: each keeps a runtime's threads and buffers
MAX_BYTES = 2 * 2**30  # of weights
OVER = 2  # times the limits that models in use may take up


@dataclass
class Resident:
    model: Model
    path: str
    weights: int  # bytes of its parameters and buffers
    tuning: Tuning | None = None  # how it is best evaluated here, once that is known
    looked: bool = False  # for a record of it
    preparing: Future[dict[str, Runtime | str]] | None = None  # its networks in other runtimes
    runtime: Runtime | None = None  # that evaluates it; None: torch

    @property
    def bytes(self) -> int:
        return self.weights + (self.runtime.bytes if self.runtime is not None else 0)


class Residency:
    """Models by hash. `ask` and `trim` belong to one thread; loading happens in another."""

    def __init__(self, device: str, wake: Callable[[], None], *, count: int = MAX_MODELS, size: int = MAX_BYTES):
        self.device = device
        self.count = count
        self.size = size
        self.left = 0  # models that have left memory so far
        self.wake = wake  # called from the loading thread when a model is there, or cannot be had
        self._ready: OrderedDict[str, Resident] = OrderedDict()  # least recently used first
        self._loading: dict[str, Future[Resident]] = {}
        self._coming: dict[str, int] = {}  # bytes on the disk of those that are loaded
        self._loader = ThreadPoolExecutor(2, thread_name_prefix="load")  # one that is waited for, and one in advance

    @property
    def hashes(self) -> tuple[str, ...]:
        return tuple(self._ready)

    @property
    def bytes(self) -> int:
        return sum(resident.bytes for resident in self._ready.values())

    @property
    def by_model(self) -> dict[str, int]:
        """Bytes of each, by name@version."""
        found: dict[str, int] = {}
        for resident in self._ready.values():
            found[resident.model.ref] = found.get(resident.model.ref, 0) + resident.bytes
        return found

    def resident(self, hash: str) -> Resident | None:
        """The model with the hash `hash` if it is in memory; it does not count as used."""
        return self._ready.get(hash)

    def size_of(self, hash: str) -> int:
        """Bytes of a model in memory; 0 for one that is not."""
        return self._ready[hash].bytes if hash in self._ready else 0

    def crowded(self, used: Collection[str], hash: str, path: str) -> bool:
        """Whether the model with the hash `hash` in the folder `path` has to wait until some of those in `used` are no
        longer that. What is not in memory yet counts as its files do."""
        if hash in used or not used:
            return False
        bytes = sum(self.size_of(one) or self._coming.get(one, 0) for one in used)
        bytes += self.size_of(hash) or _on_disk(path)
        return len(used) >= OVER * self.count or bytes > OVER * self.size

    def ask(self, hash: str, path: str) -> Model | None:
        """The model with the hash `hash`; None while it is loaded from the folder `path`.

        Raises what loading raised: IntegrityError for a package that is damaged, or no longer the one asked for.
        """
        if hash in self._ready:
            self._ready.move_to_end(hash)
            return self._ready[hash].model
        loading = self._loading.get(hash)
        if loading is None:
            self._coming[hash] = _on_disk(path)
            self._loading[hash] = loading = self._loader.submit(self._load, hash, path)
            loading.add_done_callback(lambda _: self.wake())
        if not loading.done():
            return None
        del self._loading[hash], self._coming[hash]
        self._ready[hash] = loading.result()
        return self._ready[hash].model

    def trim(self, used: Collection[str]) -> None:
        """Let go of the least recently used models beyond the limits, but of none in `used`.

        What was loaded for a request that is gone counts too: it becomes the one that was used least.
        """
        for hash in [h for h, loading in self._loading.items() if h not in used and loading.done()]:
            loading = self._loading.pop(hash)
            del self._coming[hash]
            if loading.exception() is None:
                self._ready[hash] = loading.result()
                self._ready.move_to_end(hash, last=False)
        for hash in list(self._ready):
            if len(self._ready) <= self.count and self.bytes <= self.size:
                return
            if hash not in used:
                preparing = self._ready.pop(hash).preparing
                self.left += 1
                if preparing is not None:
                    preparing.cancel()  # nobody waits for its networks any more

    def _load(self, hash: str, path: str) -> Resident:
        model = load(path, self.device)
        found = model.manifest.hash if model.manifest else ""
        if found != hash:
            raise IntegrityError(
                f"Found the model {found[:12]} in the place of {hash[:12]}, which was asked for: the package was "
                "replaced. Ask again."
            )
        tensors = [*model.family.parameters(), *model.family.buffers()]
        return Resident(model, path, sum(tensor.numel() * tensor.element_size() for tensor in tensors))


@lru_cache(maxsize=1024)
def _on_disk(path: str) -> int:
    """Bytes of a package's weights, as far as they are there."""
    found = 0
    with contextlib.suppress(OSError):
        found = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return found
