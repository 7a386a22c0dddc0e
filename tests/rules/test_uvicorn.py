"""What ``server.py`` uses of uvicorn beyond its documented interface: uvicorn is pinned, and these names are why.

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
from uvicorn.server import ServerState

from vantage import server

ROOT = Path(__file__).resolve().parents[2]
OVERRIDDEN = {
    uvicorn.Server: {"__init__", "capture_signals", "serve", "startup"},
    httptools_impl.HttpToolsProtocol: {
        "__init__", "connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete",
        "on_body", "on_message_complete", "_start_asgi_task", "handle_websocket_upgrade",
    },
}  # fmt: skip
USED = {
    uvicorn.Server: {"started", "should_exit", "force_exit", "server_state"},
    ServerState: {"connections"},
    httptools_impl.HttpToolsProtocol: {"connections", "cycle", "loop", "transport"},
    httptools_impl.RequestResponseCycle: {
        "default_headers", "disconnected", "flow", "keep_alive", "message_event", "on_response", "response_complete",
        "response_started", "scope", "send", "transport",
    },
}  # fmt: skip
IMPORTED = {
    _types: {"ASGI3Application", "ASGISendEvent", "HTTPResponseStartEvent"},
    httptools_impl: {"STATUS_LINE", "HttpToolsProtocol", "RequestResponseCycle"},
}


def members(cls: type) -> set[str]:
    """Names that the class has or annotates, and those that its methods assign to ``self``."""
    assigned = set(re.findall(r"\bself\.(\w+)\s*(?::[^=\n]+)?=", inspect.getsource(cls)))
    return assigned | set(dir(cls)) | set(cls.__annotations__)


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


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(server._Server, uvicorn.Server), (server._BoundedProtocol, httptools_impl.HttpToolsProtocol)],
)
def test_the_list_is_complete(ours: type, expected: type) -> None:
    own = members(ours) - members(expected)
    overridden = {name for name in vars(ours) if inspect.isfunction(vars(ours)[name]) and name in members(expected)}
    assert overridden == OVERRIDDEN[expected]
    assert attributes_of(ours, "self") - own - overridden == USED[expected]


def test_the_list_of_the_request_cycle_is_complete() -> None:
    used = attributes_of(server._SingleWriteResponse, "cycle") | attributes_of(server._BoundedProtocol, "cycle")
    assert used == USED[httptools_impl.RequestResponseCycle]


def test_uvicorn_is_pinned_to_the_version_that_was_read() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'"uvicorn(?:\[\w+\])?([^;"]*)', pyproject) == [f"=={uvicorn.__version__}"]
