"""HTTP/1.1 over gevent sockets, just enough for a load driver: keep-alive pools, one deadline for the whole exchange.

Locust's FastHttpUser was tried first. Its client starts its clock when it sends, retries on its own account, and has no
deadline over connect, send and receive together; the driver needs all three the other way.
"""

from __future__ import annotations

import errno
import time
from typing import Any

import httptools
from gevent import socket

_CLOSED = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)


class RequestFailed(Exception):
    """No answer. `reason` is what the output file says: timeout | connect | reset | protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Answer:
    """One answer, told by httptools as its bytes come. Interim (1xx) answers are passed over."""

    __slots__ = ("_parser", "done", "keep", "status")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.done = False
        self.keep = False
        self.status = 0

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        # Asked here: once the message is over, the parser is ready for the next and says no to everything.
        self.status = self._parser.get_status_code()
        self.keep = self._parser.should_keep_alive()
        self.done = self.status >= 200


class Client:
    """Connections to one address, shared by all greenlets."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[Any] = []

    def exchange(self, request: bytes, deadline: float) -> tuple[int, int]:
        """Sends, and returns (status, bytes received). `deadline` is on `time.monotonic`.

        A kept connection that was closed before any byte of the answer is replaced once.

        Raises:
            RequestFailed
        """
        while self._idle:
            connection = self._idle.pop()
            try:
                return self._on(connection, request, deadline)
            except _Stale:
                connection.close()
                continue
        return self._on(self._connect(deadline), request, deadline)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _connect(self, deadline: float) -> Any:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_remaining(deadline))
            connection.connect(self._address)
        except TimeoutError:
            connection.close()
            raise RequestFailed("timeout") from None
        except OSError:
            connection.close()
            raise RequestFailed("connect") from None
        except BaseException:
            connection.close()
            raise
        return _Connection(connection)

    def _on(self, connection: _Connection, request: bytes, deadline: float) -> tuple[int, int]:
        status, received, keep = connection.exchange(request, deadline)
        if keep:
            self._idle.append(connection)
        else:
            connection.close()
        return status, received


class _Stale(Exception):
    """The peer had closed a kept connection; nobody read the request."""


class _Connection:
    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._fresh = True

    def close(self) -> None:
        self._socket.close()

    def exchange(self, request: bytes, deadline: float) -> tuple[int, int, bool]:
        """(status, bytes, whether the connection can be kept). Closes itself before it raises."""
        fresh, self._fresh = self._fresh, False
        answer = _Answer()
        received = 0
        try:
            self._socket.settimeout(_remaining(deadline))
            self._socket.sendall(request)
            while not answer.done:
                self._socket.settimeout(_remaining(deadline))
                data = self._socket.recv(65536)
                if not data:
                    if not received and not fresh:
                        raise _Stale
                    raise RequestFailed("reset")
                received += len(data)
                answer.feed(data)
        except TimeoutError:
            self.close()
            raise RequestFailed("timeout") from None
        except OSError as error:
            self.close()
            if not received and not fresh and error.errno in _CLOSED:
                raise _Stale from None
            raise RequestFailed("reset") from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            raise RequestFailed("protocol") from None
        except BaseException:
            self.close()
            raise
        return answer.status, received, answer.keep


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
