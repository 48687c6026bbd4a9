"""A relay between a client and a service that breaks connections, as networks do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class Relay:
    """Passes bytes on. `cut()` breaks what is open; while `lose` is set, answers are lost after the request came."""

    def __init__(self, port: int):
        self.service = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.lose = 0  # answers that are lost from now on
        self.cut_after: int | None = None  # bytes of an answer after which its connection breaks, once
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection that is open."""
        for each in list(self._open):
            _break(each)

    def close(self) -> None:
        _break(self.listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                service = socket.create_connection(("127.0.0.1", self.service))
            except OSError:
                _break(caller)
                continue
            self._open |= {caller, service}
            for source, target, change in ((caller, service, self._ask), (service, caller, self._answer)):
                threading.Thread(target=self._pass, args=(source, target, change), daemon=True).start()

    def _ask(self, data: bytes) -> bytes:
        """The service answers to its own port only."""
        return data.replace(f"Host: 127.0.0.1:{self.port}".encode(), f"Host: 127.0.0.1:{self.service}".encode())

    def _answer(self, data: bytes) -> bytes | None:
        if self.lose:
            self.lose -= 1
            return None
        if self.cut_after is not None:
            self.cut_after -= len(data)
            if self.cut_after < 0:
                self.cut_after = None
                return None
        return data

    def _pass(self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes | None]) -> None:
        try:
            while data := source.recv(65536):
                changed = change(data)
                if changed is None:
                    break
                target.sendall(changed)
        except OSError:
            return  # cut
        finally:
            for each in (source, target):
                _break(each)
                self._open.discard(each)


def _break(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed
    finally:
        sock.close()
