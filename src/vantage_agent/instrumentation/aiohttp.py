"""aiohttp's client: each call of a session, with its redirects. A streamed response counts up to its headers.
WebSockets are not instrumented.

The span is around the session's call. The header is injected while the request writes its own, so that tracing,
middleware and the response see only the application's headers.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, inject, remove_injected, running_call
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

_SOCKET = "Sec-WebSocket-Key"  # of a handshake


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``aiohttp.client`` or ``aiohttp.client_reqrep``."""
    if module.__name__ == "aiohttp.client":
        patches.wrap(module.ClientSession, "_request", _make_request)
    else:
        patches.wrap(module.ClientRequest, "send", _make_send)


def _make_request(request: Any) -> Any:
    async def wrapper(self: Any, method: Any, str_or_url: Any, **kwargs: Any) -> Any:
        span = _begin(self, method, str_or_url, kwargs)
        if span is None:
            return await request(self, method, str_or_url, **kwargs)
        try:
            response = await request(self, method, str_or_url, **kwargs)
        except BaseException as error:
            end_call(span, _status_of(error), error)
            raise
        end_call(span, getattr(response, "status", 0), None)
        return response

    return wrapper


def _make_send(send: Any) -> Any:
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        span = running_call()
        # CONNECT to a proxy is not the application's request.
        if span is None or self.method == "CONNECT" or _SOCKET in self.headers:
            return await send(self, *args, **kwargs)
        inject(span, self.headers)
        try:
            return await send(self, *args, **kwargs)
        finally:
            remove_injected(span, self.headers)

    return wrapper


def _begin(session: Any, method: Any, url: Any, kwargs: dict[str, Any]) -> Span | None:
    try:
        if not tracer.on or not isinstance(method, str):
            return None
        headers: Any = kwargs.get("headers")
        # Headers of a WebSocket have aiohttp's own type; other headers may be an iterator that is read once.
        if hasattr(headers, "getall") and _SOCKET in headers:
            return None
        if getattr(session, "_base_url", None) is not None:
            url = session._build_url(url)  # noqa: SLF001  # joins base and path as aiohttp does
        return begin_call("aiohttp", method, str(url), headers)
    except Exception:  # aiohttp raises a better error
        return None


def _status_of(error: BaseException) -> int:
    """Return the status of an exception that ``raise_for_status`` raised; 0 for others."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0
