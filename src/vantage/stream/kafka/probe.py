"""Why an address does not answer as a broker: librdkafka reports no more than that it does not.

The requests are ApiVersions and Metadata in their first versions, https://kafka.apache.org/protocol.
"""

from __future__ import annotations

import socket
import ssl
import struct
from enum import Enum, auto
from typing import Final

from vantage.stream.kafka.failures import no_tls

WAIT_S: Final = 1.5  # for a connection, and for each answer
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # its 10 ends a line: an HTTP server answers
_HTTP: Final = (b"HTTP/", b"<")  # with headers, or as its version 0.9
_METADATA: Final = struct.pack(">ihhihi", 14, 3, 0, 2, -1, 0)


class _Speaks(Enum):
    KAFKA = auto()
    KAFKA_WITH_LOGIN = auto()  # requests are refused without one
    HTTP = auto()
    NOTHING = auto()  # the connection is silent, or closed
    OTHER = auto()


def explain(hosts: str, *, tls: bool, login: bool) -> str:
    """Return why the first of the hosts does not answer as the settings expect, '' when it cannot be said. Blocks."""
    host, _, port = hosts.split(",", maxsplit=1)[0].rpartition(":")
    address = host.strip("[]"), int(port)
    try:
        speaks = _speaks(address, tls=tls)
        if speaks is _Speaks.KAFKA_WITH_LOGIN and not login:
            return f"the broker at {hosts} wants a login: put user:password@ before the hosts of broker_url"
        if speaks in (_Speaks.OTHER, _Speaks.NOTHING):
            otherwise = _speaks(address, tls=not tls)
            if otherwise in (_Speaks.KAFKA, _Speaks.KAFKA_WITH_LOGIN):
                return no_tls(hosts) if tls else f"the broker at {hosts} speaks TLS: add ?tls=true to broker_url"
            speaks = otherwise if speaks is _Speaks.NOTHING or otherwise is _Speaks.HTTP else speaks
    except OSError:
        return ""
    if speaks is _Speaks.HTTP:
        return f"what listens at {hosts} is an HTTP server and not a Kafka broker: check the hosts of broker_url"
    if speaks is _Speaks.OTHER:
        return f"what listens at {hosts} does not speak the protocol of Kafka: check the hosts of broker_url"
    return ""


def _speaks(address: tuple[str, int], *, tls: bool) -> _Speaks:
    """Send the first requests of a client. Raises OSError without a connection."""
    with socket.create_connection(address, timeout=WAIT_S) as opened:
        try:
            if not tls:
                return _answers(opened)
            with _any_certificate().wrap_socket(opened) as secured:
                return _answers(secured)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError):
            return _Speaks.NOTHING
        except ssl.SSLError:
            return _Speaks.OTHER
        except OSError:
            return _Speaks.NOTHING


def _answers(connection: socket.socket) -> _Speaks:
    connection.sendall(_API_VERSIONS)
    answer = connection.recv(8)
    if not answer:  # a broker that stops, or a load balancer without one
        return _Speaks.NOTHING
    if len(answer) < 8 or answer[4:] != _API_VERSIONS[8:12]:
        return _Speaks.HTTP if answer.startswith(_HTTP) else _Speaks.OTHER
    connection.recv(1 << 16)
    connection.sendall(_METADATA)
    return _Speaks.KAFKA if connection.recv(8)[4:] == _METADATA[8:12] else _Speaks.KAFKA_WITH_LOGIN


def _any_certificate() -> ssl.SSLContext:
    """Return a context for a connection over which nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
