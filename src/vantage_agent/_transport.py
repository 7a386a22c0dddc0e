"""Exchanges with the server: one deadline over all of a request and its response, and a bound on what is read.

A timeout of ``http.client`` is one of each read, so that a server which sends a byte a second is never late. Sockets
here are those of the system: see ``_native.py``.
"""

from __future__ import annotations

import _socket
import http.client
import io
import os
import ssl
import time
from typing import Any

HEAD_NBYTES_MAX = 64 << 10  # of a response, with everything that precedes it
BODY_NBYTES_MAX = 64 << 10
_CHUNK_NBYTES = 16 << 10

Timeout = _socket.timeout


class Connection(http.client.HTTPConnection):
    """A connection that is kept open. ``set_deadline`` before each exchange."""

    def __init__(self, scheme: str, host: str, port: int) -> None:
        super().__init__(host, port)
        self._is_tls = scheme == "https"
        if self._is_tls:
            self.default_port = http.client.HTTPS_PORT  # which the header ``Host`` omits
        self._end_s = 0.0

    def set_deadline(self, end_s: float) -> None:
        """Let the exchange that follows end at ``end_s`` of the monotonic clock, and read a bounded number of bytes."""
        self._end_s = end_s
        if self.sock is not None:
            self.sock.begin(end_s)

    def connect(self) -> None:
        """Connect to the first address that answers. Looking up the name is the system's: no deadline ends it."""
        addresses = _socket.getaddrinfo(self.host, self.port, 0, _socket.SOCK_STREAM)
        failure: Exception = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            sock = _socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_remaining_s(self._end_s))
                sock.connect(address)
                sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                self.sock: Any = _Socket(sock, self._end_s, self.host if self._is_tls else None)
                return
            except Exception as error:
                sock.close()
                failure = error
        raise failure

    def abandon(self) -> None:
        """Close the socket without a word to the server: it is the parent's, in a forked child."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.abandon()


class _Socket:
    """As much of a socket as ``http.client`` needs, with a deadline. ``server_name`` is that of TLS, None without."""

    def __init__(self, sock: _socket.socket, end_s: float, server_name: str | None) -> None:
        self._sock = sock
        self._readers = 0
        self._is_closed = False
        self._tls: ssl.SSLObject | None = None
        self.begin(end_s)
        if server_name is not None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_name)
            self._drive(self._tls.do_handshake)

    def begin(self, end_s: float) -> None:
        """Begin an exchange."""
        self._end_s = end_s
        self._nbytes_left = HEAD_NBYTES_MAX + BODY_NBYTES_MAX

    def sendall(self, data: Any) -> None:
        """Send everything before the deadline."""
        if self._tls is None:
            self._sock.settimeout(_remaining_s(self._end_s))
            self._sock.sendall(data)  # the timeout is one of all of it
            return
        view = memoryview(data)
        while view:
            view = view[self._drive(self._tls.write, view[:_CHUNK_NBYTES]) :]

    def read(self, nbytes: int) -> bytes:
        """Read at most ``nbytes``; empty at the end. Raise OSError beyond the bound of an exchange."""
        if self._nbytes_left <= 0:
            raise OSError("the server's response is too long")
        if self._tls is None:
            data = self._receive(nbytes)
        else:
            try:
                data = self._drive(self._tls.read, nbytes)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
        self._nbytes_left -= len(data)
        return data

    def makefile(self, *_: Any) -> io.BufferedReader:
        """Return a reader of one response."""
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Close, after the last reader."""
        self._is_closed = True
        if self._readers <= 0:
            self._sock.close()

    def close_reader(self) -> None:
        self._readers -= 1
        if self._is_closed and self._readers <= 0:
            self._sock.close()

    def abandon(self) -> None:
        os.close(self._sock.detach())

    def _receive(self, nbytes: int) -> bytes:
        self._sock.settimeout(_remaining_s(self._end_s))
        return self._sock.recv(nbytes)

    def _drive(self, step: Any, *args: Any) -> Any:
        """Call a function of the TLS object until it needs nothing more from the other side."""
        while not (result := self._step(step, *args)):
            pass
        return result[0]

    def _step(self, step: Any, *args: Any) -> tuple[Any] | None:
        try:
            return (step(*args),)
        except ssl.SSLWantReadError:
            self._flush()
            data = self._receive(_CHUNK_NBYTES)
            if data:
                self._received.write(data)
            else:
                self._received.write_eof()
            return None
        finally:
            self._flush()  # after an error, the alert that says why

    def _flush(self) -> None:
        if self._to_send.pending:
            self._sock.settimeout(_remaining_s(self._end_s))
            self._sock.sendall(self._to_send.read())


class _Reader(io.RawIOBase):
    def __init__(self, sock: _Socket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._sock.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.close_reader()


def _remaining_s(end_s: float) -> float:
    """Return the seconds until ``end_s``. Raise a timeout when they are over."""
    remaining_s = end_s - time.monotonic()
    if remaining_s <= 0:
        raise Timeout("timed out")
    return remaining_s
