"""What ``server.py`` and ``connections/`` use of uvicorn beyond its documented interface.

uvicorn is pinned, and these names are why.

A new version of uvicorn may rename or remove any of them. Change the pin only together with this test.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import uvicorn
from uvicorn import _types
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.websockets import websockets_sansio_impl
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from vantage import server
from vantage.connections import http, tls, websocket

ROOT = Path(__file__).resolve().parents[2]
OVERRIDDEN = {
    uvicorn.Server: {"__init__", "capture_signals", "on_tick", "serve", "startup"},
    httptools_impl.HttpToolsProtocol: {
        "__init__", "connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete",
        "on_body", "on_message_complete", "pause_writing", "resume_writing", "send_400_response",
        "shutdown", "_start_asgi_task", "_unsupported_upgrade_warning", "handle_websocket_upgrade",
    },
    websockets_sansio_impl.WebSocketsSansIOProtocol: {
        "__init__", "connection_made", "connection_lost", "data_received", "handle_cont", "handle_connect",
        "handle_ping", "pause_writing", "resume_writing", "send", "shutdown",
    },
}  # fmt: skip
USED = {
    uvicorn.Server: {"started", "should_exit", "force_exit", "server_state"},
    ServerState: {"connections"},
    httptools_impl.HttpToolsProtocol: {
        "connections", "cycle", "headers", "loop", "parser", "pipeline", "scope", "transport", "url", "_should_upgrade",
    },
    websockets_sansio_impl.WebSocketsSansIOProtocol: {
        "close_sent", "close_timeout", "close_timer", "conn", "disconnected", "frames", "handle_events",
        "handle_parser_exception", "handshake_complete", "loop", "read_paused", "scope", "transport", "writable",
    },
    httptools_impl.RequestResponseCycle: {
        "default_headers", "disconnected", "flow", "keep_alive", "message_event", "more_body", "on_response",
        "response_complete", "response_started", "scope", "send", "transport",
    },
    ServerProtocol: {"data_to_send", "events", "parser_exc", "receive_data"},
}  # fmt: skip
IMPORTED = {
    _types: {"ASGI3Application", "ASGISendEvent", "HTTPResponseStartEvent"},
    httptools_impl: {"STATUS_LINE", "HttpToolsProtocol", "RequestResponseCycle"},
    websockets_sansio_impl: {"WebSocketsSansIOProtocol"},
}
OURS = {
    uvicorn.Server: server._Server,
    httptools_impl.HttpToolsProtocol: http.HttpConnection,
    websockets_sansio_impl.WebSocketsSansIOProtocol: websocket.WebSocketConnection,
}


def members(cls: type) -> set[str]:
    """Names that the class has or annotates, and those that its methods assign to ``self``."""
    source = "".join(inspect.getsource(base) for base in cls.__mro__ if base.__module__ not in {"builtins", "typing"})
    assigned = set(re.findall(r"\bself\.(\w+)\s*(?::[^=\n]+)?=", source))
    return assigned | set(dir(cls)) | {name for base in cls.__mro__ for name in inspect.get_annotations(base)}


def attributes_of(cls: type, *names: str) -> set[str]:
    """Attributes that a class of ``server.py`` looks up on variables of these names."""
    tree = ast.parse(inspect.getsource(cls))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
    }


@pytest.mark.parametrize("cls", [*OVERRIDDEN, *USED])
def test_uvicorn_has_what_the_server_relies_on(cls: type) -> None:
    assert (OVERRIDDEN.get(cls, set()) | USED.get(cls, set())) - members(cls) == set()


def test_uvicorn_has_the_modules_the_server_imports_from() -> None:
    assert [
        f"{module.__name__}.{name}" for module in IMPORTED for name in IMPORTED[module] if not hasattr(module, name)
    ] == []


@pytest.mark.parametrize("expected", OURS)
def test_the_list_is_complete(expected: type) -> None:
    ours = OURS[expected]
    own = members(ours) - members(expected)
    overridden = {name for name in vars(ours) if inspect.isfunction(vars(ours)[name]) and name in members(expected)}
    assert overridden == OVERRIDDEN[expected]
    assert attributes_of(ours, "self") - own - overridden == USED[expected]


def test_the_list_of_the_request_cycle_is_complete() -> None:
    used = attributes_of(http.SingleWriteResponse, "cycle") | attributes_of(http.HttpConnection, "cycle", "last")
    assert used == USED[httptools_impl.RequestResponseCycle]


def test_the_server_s_state_is_used_for_its_connections_alone() -> None:
    assert attributes_of(tls.TlsHandshake, "server_state") == USED[ServerState]


def test_uvicorn_is_pinned_to_the_version_that_was_read() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'"uvicorn(?:\[\w+\])?([^;"]*)', pyproject) == [f"=={uvicorn.__version__}"]
