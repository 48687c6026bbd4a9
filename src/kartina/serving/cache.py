"""Images that were made already: the same request is the same image, so it need not be made twice. Torch-free.

An image's key is a hash of what it depends on: the model's content hash, the task, label, seed, controls and input
images, the version of Kartina that its recipe names, and FORMAT. Images stay in memory, the least recently used go
first, and together they never take more than a number of bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping

from kartina import __version__
from kartina.serving.protocol import Output, RequestSpec

FORMAT = 1  # raised when images of equal requests may differ from those of the program before
SIZE = 64 * 2**20  # bytes of PNG files
_BESIDES = 300  # bytes that an entry takes beside its PNG


class ResultCache:
    """PNG files by key, within `size` bytes; size 0 keeps nothing. Belongs to one event loop."""

    def __init__(self, size: int = SIZE):
        self.size = size
        self.bytes = 0
        self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, Output] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, spec: RequestSpec, keys: Mapping[int, bytes]) -> list[Output]:
        """Those images of a request that are kept, as its own."""
        found = []
        for index, key in keys.items():
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                found.append(kept.model_copy(update={"id": spec.id, "index": index}))
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def keep(self, key: bytes, made: Output) -> None:
        """Keep an image, and let go of the oldest for it."""
        cost = len(made.png) + _BESIDES
        if cost > self.size or key in self._kept:
            return
        self._kept[key] = made
        self.bytes += cost
        while self.bytes > self.size:
            _, old = self._kept.popitem(last=False)
            self.bytes -= len(old.png) + _BESIDES


def keys_of(spec: RequestSpec) -> dict[int, bytes]:
    """The key of every image of a request, by index."""
    shared = {
        "format": FORMAT,
        "kartina": __version__,
        "model": [spec.hash, spec.model],  # one content may have several names, and recipes tell them
        "task": spec.task,
        "controls": spec.controls,
        "deterministic": spec.deterministic,
    }
    base = hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":"), default=str).encode())
    given = {kind: [hashlib.sha256(one).digest() for one in spec.inputs[kind]] for kind in sorted(spec.inputs)}
    found = {}
    for row in spec.rows:
        key = base.copy()
        key.update(f"/{row.label}/{row.seed}".encode())
        for kind, images in given.items():
            key.update(kind.encode() + images[row.index % len(images)])
        found[row.index] = key.digest()
    return found
