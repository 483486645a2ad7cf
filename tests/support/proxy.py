"""A TCP way to a server that can be made slow or lossy."""

import contextlib
import selectors
import socket
import struct
import threading

from servers import Server


class Proxy:
    """Passes everything on, between whoever connects and the server's own TCP port.

    ``delay``: seconds each reply is held back. ``drip``: seconds before each byte of a reply.
    ``swallow``: the reply never arrives and the connection stays. ``lose``, ``halve``, ``reset``:
    how many replies, counted over all connections, do not arrive, or only their first half; the
    request was passed on, and the connection ends, in the last case with a reset.
    """

    def __init__(self, server: Server) -> None:
        self._target = ("127.0.0.1", server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wake, wakened = socket.socketpair()
        self._selector.register(wakened, selectors.EVENT_READ, None)
        self._ends: list[socket.socket] = [self._listener, self._wake, wakened]
        self._closing = threading.Event()
        self.delay = self.drip = 0.0
        self.lose = self.halve = self.reset = 0
        self.swallow = False
        self._over = False
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def target(self, server: Server) -> None:
        """New connections go there."""
        self._target = ("127.0.0.1", server.port)

    def close(self) -> None:
        self._closing.set()
        self._wake.send(b"!")
        self._thread.join()
        self._selector.close()
        for end in self._ends:
            end.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select():
                known = self._selector.get_map().values()  # one end's turn may close the other
                if key.data is not None and key in known:
                    key.data()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self._ends += [client, server]
        self._selector.register(
            client, selectors.EVENT_READ, lambda: self._pass_on(client, server, request=True)
        )
        self._selector.register(
            server, selectors.EVENT_READ, lambda: self._pass_on(server, client, request=False)
        )

    def _pass_on(self, source: socket.socket, target: socket.socket, *, request: bool) -> None:
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            if data and not request:
                self._closing.wait(self.delay)
                if self.swallow:
                    return
                data = self._spoilt(data, target)
            if data:
                target.sendall(data)
                if not self._over:
                    return
                self._over = False
        for end in (source, target):
            self._selector.unregister(end)
            end.close()

    def _spoilt(self, data: bytes, target: socket.socket) -> bytes:
        """What is still to arrive of a reply."""
        if self.lose:
            self.lose -= 1
            return b""
        if self.reset:
            self.reset -= 1
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        if self.halve:
            self.halve -= 1
            self._over = True
            return data[: len(data) // 2]
        if self.drip:
            for place in range(len(data) - 1):
                target.sendall(data[place : place + 1])
                if self._closing.wait(self.drip):
                    break
            return data[-1:]
        return data
