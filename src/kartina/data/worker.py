"""What a worker process does with a chunk of images: pack them into rows of a file, or look at them.

A task's head says where the images are (`files`, `zip` or `array`) and what is to be done; see `pool` for the protocol.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kartina.data.archive import Entry, read_entry
from kartina.data.decode import decode, fit_array, from_array, is_grey, open_image
from kartina.data.pool import Message, read_message, write_message
from kartina.errors import DataError

Item = bytes | Path | NDArray[np.uint8]

MODES = ("?", "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I", "CMYK", "YCbCr", "La", "RGBa")

MARGIN = 6  # of 255: below it the noise of compression would decide a bit, as on plain backgrounds

LOOK = np.dtype([
    ("ok", "?"), ("width", "<u4"), ("height", "<u4"), ("mode", "u1"), ("grey", "?"),
    ("digest", "<u8", (2,)),  # of size and pixels
    ("hash", "<u8"),  # perceptual: 64-bit dHash
    ("contrast", "u1"),  # range of the 9 x 8 picture that the hash is made of
    ("thumb", "u1", (16, 16)),
])  # fmt: skip


def pack(head: dict[str, Any], body: bytes) -> Message:
    """Decode a chunk and write each image into its row of the packed file. Replies with what could not be used.

    head: the chunk, `rows` (the row of each image), `out`, `skip` (bytes before row 0), `size`, `fit`, `channels`.
    """
    size, fit, channels = head["size"], head["fit"], head["channels"]
    bad: list[list[Any]] = []
    rows: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    for i, (row, item) in enumerate(zip(head["rows"], _items(head, body), strict=True)):
        try:
            if isinstance(item, DataError):
                raise item
            made = (
                fit_array(item, size, fit, channels)
                if isinstance(item, np.ndarray)
                else decode(item, size, fit, channels)
            )
        except DataError as error:
            bad.append([i, str(error)])
            continue
        rows.append(row)
        pixels.append(made)
    _write(Path(head["out"]), head["skip"], rows, pixels)
    return {"bad": bad}, b""


def look(head: dict[str, Any], body: bytes) -> Message:
    """Decode a chunk and describe each image by a LOOK record. Replies with those and what could not be used."""
    bad: list[list[Any]] = []
    found: list[NDArray[Any]] = []
    for i, item in enumerate(_items(head, body)):
        record = np.zeros((), LOOK)
        try:
            if isinstance(item, DataError):
                raise item
            _describe(from_array(item) if isinstance(item, np.ndarray) else open_image(item, 1024), record)
        except DataError as error:
            bad.append([i, str(error)])
        found.append(record)
    return {"bad": bad}, np.array(found, LOOK).tobytes()


def _describe(image: Image.Image, record: NDArray[Any]) -> None:
    grey = is_grey(image)
    luma = image.convert("L")
    pixels = np.asarray(luma if grey else image)
    digest = hashlib.blake2b(f"{image.width}x{image.height}/".encode() + pixels.tobytes(), digest_size=16).digest()
    small = np.asarray(luma.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits(small[:, :-1] > small[:, 1:] + MARGIN)  # dHash: is a cell brighter than its right neighbour?
    mode = image.info["file_mode"]
    record["ok"], record["grey"] = True, grey
    record["width"], record["height"] = image.info["file_size"]
    record["mode"] = MODES.index(mode) if mode in MODES else 0
    record["digest"] = np.frombuffer(digest, "<u8")
    record["hash"] = bits.view("<u8")[0]
    record["contrast"] = int(small.max()) - int(small.min())
    record["thumb"] = np.asarray(luma.resize((16, 16), Image.Resampling.BOX))


def _items(head: dict[str, Any], body: bytes) -> Iterator[Item | DataError]:
    """The chunk's images, one at a time: encoded bytes, a path, an array, or why there is none."""
    if "array" in head:
        yield from np.frombuffer(body, np.uint8).reshape(head["array"])
    elif "zip" in head:
        with open(head["zip"], "rb") as file:
            for values in head["entries"]:
                try:
                    yield read_entry(file, Entry(*values))
                except DataError as error:
                    yield error
    else:
        root = Path(head["files"])
        yield from (root / name for name in head["names"])


def _write(out: Path, skip: int, rows: list[int], pixels: list[NDArray[np.uint8]]) -> None:
    """Write images at their rows, neighbours in one go."""
    if not rows:
        return
    block = np.stack(pixels)
    each = block[0].nbytes
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    handle = os.open(out, os.O_WRONLY)
    try:
        for a, b in pairwise(cuts):
            at, data = skip + rows[a] * each, memoryview(block[a:b].tobytes())
            while data:
                done = os.pwrite(handle, data, at)
                at, data = at + done, data[done:]
    except OSError as error:
        raise OSError(error.errno, error.strerror, out.name) from None
    finally:
        os.close(handle)


JOBS: dict[str, Callable[[dict[str, Any], bytes], Message]] = {"pack": pack, "look": look}


def perform(head: dict[str, Any], body: bytes) -> Message:
    """Do one task: head["job"] names it."""
    return JOBS[head["job"]](head, body)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    while (task := read_message(sys.stdin.buffer)) is not None:
        try:
            reply = perform(*task)
        except OSError as error:
            reply = ({"os_error": [error.errno, error.strerror, error.filename]}, b"")
        write_message(sys.stdout.buffer, reply)


if __name__ == "__main__":
    main()
