"""Sandbox: images from strangers, decoded in a process of their own with little memory and little time.

    sandbox = Sandbox()
    clean = sandbox.clean(content)     # a PNG of ours, upright, 8 bits, no alpha; or a DataError

A decoder that is brought down by a file takes nothing with it: the process is started again, and the file refused. The
process reads messages as `kartina.data.pool` has them, and holds nothing but numpy and Pillow.
"""

from __future__ import annotations

import io
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kartina.data.decode import open_image
from kartina.data.pool import Message, read_message, write_message
from kartina.errors import DataError, UnavailableError

MAX_BYTES = 20 * 2**20  # of a file
MAX_PIXELS = 16_000_000  # checked before any pixel is decoded
MEMORY = 1 << 30  # bytes of address space that decoding may take, over what the process has at its start
TIME = 20.0  # seconds for one image
_PATIENCE = 60.0  # seconds to wait for a free process


@dataclass(frozen=True)
class Clean:
    """What an image from outside became."""

    png: bytes
    width: int
    height: int
    channels: int  # 1 grey, 3 colour
    note: str  # what was done to it; "" for nothing


class Sandbox:
    """Decoding processes, started when they are first needed. Methods may be called from any thread."""

    def __init__(self, processes: int = 2):
        self.processes = processes
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._all: list[_Process] = []

    def clean(self, content: bytes, what: str = "image") -> Clean:
        """The image as a PNG of ours. With what="mask", transparent parts become white and the rest black, where it has
        transparent parts; else its own greys. Raises DataError with the reason, UnavailableError when all are busy."""
        head, png = self._ask(what, content)
        return Clean(png=png, **head)

    def recipe(self, content: bytes) -> str | None:
        """The text that a PNG or WebP of ours carries about itself, if it does. Raises as `clean` does."""
        text = self._ask("recipe", content)[1].decode(errors="replace")
        return text or None

    def _ask(self, what: str, content: bytes) -> Message:
        if len(content) > MAX_BYTES:
            raise DataError(f"Found an image of {len(content):,} bytes; expected at most {MAX_BYTES:,}.")
        try:
            process = self._idle.get(timeout=_PATIENCE)
        except queue.Empty:
            raise UnavailableError("Found every decoder of images busy; try again later.") from None
        try:
            if process is not None and process.dead:
                process.end()
            if process is None or process.dead:
                process = _Process()
                self._all = [*(one for one in self._all if not one.dead), process]
            head, reply = process.ask({"what": what}, content)
        finally:
            self._idle.put(process)
        if "error" in head:
            raise DataError(head["error"])
        return head, reply

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            process.end()


class _Process:
    def __init__(self) -> None:
        self.proc = subprocess.Popen(
            [sys.executable, "-m", "kartina.data.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what Pillow's libraries print about hostile files
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    @property
    def dead(self) -> bool:
        return self.proc.poll() is not None

    def ask(self, head: dict[str, Any], content: bytes) -> Message:
        assert self.proc.stdin is not None and self.proc.stdout is not None
        timer = threading.Timer(TIME, self.proc.kill)
        timer.start()
        try:
            write_message(self.proc.stdin, (head, content))
            reply = read_message(self.proc.stdout)
        except (BrokenPipeError, ValueError):
            reply = None
        finally:
            timer.cancel()
        if reply is None:
            self.end()
            raise DataError(
                f"Found an image that could not be decoded within {TIME:.0f} s and {MEMORY >> 20} MiB; expected a "
                "whole JPEG, PNG or WebP image."
            )
        return reply

    def end(self) -> None:
        self.proc.kill()
        self.proc.wait()
        for pipe in (self.proc.stdin, self.proc.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


# -- inside the process ------------------------------------------------------------------------------------------------


def convert(content: bytes, what: str) -> Message:
    """An encoded image -> a clean PNG, or the reason why not."""
    try:
        width, height = _size(content)
        if width * height > MAX_PIXELS:
            raise DataError(
                f"found {width} x {height} pixels, expected at most {MAX_PIXELS // 1_000_000} megapixels: scale it down"
            )
        if what == "recipe":
            return {}, _recipe(content).encode()
        image = open_image(content, mask=what == "mask")
    except DataError as error:
        return {"error": f"Could not use the image: {error}."}, b""
    mode = image.info["file_mode"]
    image.info = {}
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    note = "" if mode in ("L", "RGB") else f"made {image.mode} of {mode}"
    channels = 1 if image.mode == "L" else 3
    return {"width": image.width, "height": image.height, "channels": channels, "note": note}, out.getvalue()


def _size(content: bytes) -> tuple[int, int]:
    """What the file's header says; (0, 0) for what is no image: `open_image` says what it is."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            return image.size
    except Image.DecompressionBombError:
        return MAX_PIXELS, MAX_PIXELS
    except Exception:  # Pillow's parsers end in any of a dozen: `open_image` finds the words
        return 0, 0


def _recipe(content: bytes) -> str:
    """The PNG's text chunk or the WebP's EXIF description; "" for none."""
    open_image(content)  # checked whole first
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        found = getattr(image, "text", {}).get("kartina") if image.format == "PNG" else image.getexif().get(0x010E)
    return found if isinstance(found, str) else ""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = 4 * MAX_PIXELS
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (task := read_message(sys.stdin.buffer)) is not None:
        head, content = task
        write_message(sys.stdout.buffer, convert(content, head["what"]))


if __name__ == "__main__":
    main()
