"""A TCP proxy on loopback that answers 503 or cuts connections while a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PASS, UNAVAILABLE, CUT = "pass", "503", "cut"
ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FaultyProxy:
    """Passes connections on to one server.

    Attributes:
        num_faults: connections that were refused or cut so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._mode = PASS
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.num_faults = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def failing(self, mode: str) -> Iterator[None]:
        """Every connection fails that way, those that are open are cut."""
        self.set(mode)
        try:
            yield
        finally:
            self.set(PASS)

    def set(self, mode: str) -> None:
        """From now on."""
        with self._lock:
            self._mode = mode
            if mode != PASS:
                for side in self._open:
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the proxy and every connection."""
        self.set(CUT)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(1 << 16)
            if self._mode != PASS:
                self.num_faults += 1
                if self._mode == UNAVAILABLE:
                    client.sendall(ANSWER)
                return
            with socket.create_connection(self._target) as server:
                with self._lock:
                    self._open |= {client, server}
                try:
                    server.sendall(head)
                    back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                    back.start()
                    _pump(client, server)
                    back.join()
                finally:
                    with self._lock:
                        self._open -= {client, server}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies bytes until one side ends."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
