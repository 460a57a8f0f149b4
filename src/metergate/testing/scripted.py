"""An API that answers with any bytes, at any pace: for everything that a well-behaved server never does.

    with ScriptedUpstream() as api:
        @api.on("/broken")
        def broken(exchange):
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly")
            exchange.reset()

A script runs in the thread of its connection, for each request whose path begins with its own. When it returns, the
connection goes on with the next request, unless the script has closed it. What a script raises is in ``failures``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from metergate.testing.processes import HOST
from metergate.testing.wire import reset

Script = Callable[["Exchange"], None]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Exchange:
    """One request that has come in, and its connection. ``target`` and ``headers`` (names in lower case) are its head."""

    def __init__(self, connection: socket.socket, head: bytes, rest: bytes) -> None:
        self.connection = connection
        self.raw_head = head
        self._buffer = rest
        self.closed = False
        self._body: bytes | None = None
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        pairs = [line.partition(":") for line in lines]
        self.headers = [(name.lower(), value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def rest(self) -> bytes:
        """What has come and was not read."""
        return self._buffer

    def send(self, data: bytes) -> None:
        """Send these very bytes."""
        self.connection.sendall(data)

    def receive(self) -> bytes:
        """What comes next of the request's body, framing and all; nothing once the gateway has closed."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        try:
            return self.connection.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def receive_until(self, mark: bytes) -> bytes:
        """What comes up to the mark and with it. Raises ConnectionError where it never comes."""
        data = b""
        while mark not in data:
            more = self.receive()
            if not more:
                raise ConnectionError(f"the connection ended after {data[-200:]!r}")
            data += more
        end = data.index(mark) + len(mark)
        self._buffer = data[end:] + self._buffer
        return data[:end]

    def body(self) -> bytes:
        """The whole body, by its content-length or its chunks; once read, it may be had again."""
        if self._body is None:
            self._body = self._read_body()
        return self._body

    def _read_body(self) -> bytes:
        if self.header("transfer-encoding") is None:
            return self._exactly(int(self.header("content-length") or "0"))
        body = b""
        while size := int(self.receive_until(b"\r\n").strip(), 16):
            body += self._exactly(size + 2)[:size]
        self._exactly(2)
        return body

    def chunk(self) -> bytes:
        """The next chunk of a chunked body."""
        size = int(self.receive_until(b"\r\n").strip(), 16)
        return self._exactly(size + 2)[:size]

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.receive()
            if not more:
                raise ConnectionError(f"{len(data)} of {length} bytes came")
            data += more
        self._buffer = data[length:] + self._buffer
        return data[:length]

    def wait_closed(self) -> None:
        """Wait until the gateway ends the connection; what it still sends is dropped."""
        while self.receive():
            pass

    def close(self) -> None:
        """End the connection in good order."""
        self.closed = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def reset(self) -> None:
        """End it with a reset, as a crashed server does."""
        self.closed = True
        reset(self.connection)


class ScriptedUpstream:
    """The server; ``url`` is where it listens. Requests that no script is for get `OK`.

    ``timeout`` bounds every wait of a script, in seconds. ``targets`` holds the request targets so far.
    """

    def __init__(self, *, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._scripts: dict[str, Script] = {}
        self._listener = socket.create_server((HOST, 0), backlog=256)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.targets: list[str] = []
        self.failures: list[BaseException] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._open)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._thread.join()

    def on(self, path: str, script: Script | None = None) -> Callable[[Script], Script]:
        """Run ``script`` for requests whose path begins with ``path``; also a decorator. The longest such path counts."""

        def register(given: Script) -> Script:
            self._scripts[path] = given
            return given

        if script is not None:
            register(script)
        return register

    def drop_connections(self) -> None:
        """Close every connection, idle or not."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(self._timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        try:
            while (exchange := _read_head(connection, buffer)) is not None:
                self.targets.append(exchange.target)
                self._script_for(exchange.target)(exchange)
                if exchange.closed:
                    return
                buffer = exchange.rest
        except OSError as failure:
            self.failures.append(failure)
        except Exception as failure:  # noqa: BLE001  # for the test to look at
            self.failures.append(failure)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _script_for(self, target: str) -> Script:
        fitting = [path for path in self._scripts if target.startswith(path)]
        return self._scripts[max(fitting, key=len)] if fitting else _answer_ok


def _answer_ok(exchange: Exchange) -> None:
    exchange.body()
    exchange.send(OK)


def _read_head(connection: socket.socket, buffer: bytes) -> Exchange | None:
    while b"\r\n\r\n" not in buffer:
        try:
            more = connection.recv(65_536)
        except OSError:
            return None
        if not more:
            return None
        buffer += more
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return Exchange(connection, head, rest)
