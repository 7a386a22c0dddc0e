"""httpx: each call of a client, plain and async, with its redirects. A streamed answer counts up to its headers.

The client is measured, and the transport below it gives the header: what hooks, authentication and mocked transports
see of a request is the application's own.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._client import begin_call, end_call, give_header, take_header
from vantage_agent._context import current
from vantage_agent._describe import http_client
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``httpx``."""
    patches.wrap(module.Client, "send", _make_send)
    patches.wrap(module.AsyncClient, "send", _make_async_send)
    patches.wrap(module.HTTPTransport, "handle_request", _make_handle)
    patches.wrap(module.AsyncHTTPTransport, "handle_async_request", _make_async_handle)


def _make_send(send: Any) -> Any:
    def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        span = _begin(request)
        if span is None:
            return send(self, request, **kwargs)
        try:
            response = send(self, request, **kwargs)
        except BaseException as error:
            end_call(span, 0, error)
            raise
        end_call(span, getattr(response, "status_code", 0), None)
        return response

    return wrapper


def _make_async_send(send: Any) -> Any:
    async def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        span = _begin(request)
        if span is None:
            return await send(self, request, **kwargs)
        try:
            response = await send(self, request, **kwargs)
        except BaseException as error:
            end_call(span, 0, error)
            raise
        end_call(span, getattr(response, "status_code", 0), None)
        return response

    return wrapper


def _make_handle(handle: Any) -> Any:
    def wrapper(self: Any, request: Any) -> Any:
        span = _running_call()
        if span is None:
            return handle(self, request)
        give_header(span, _headers(request))
        try:
            return handle(self, request)
        finally:
            take_header(span, _headers(request))

    return wrapper


def _make_async_handle(handle: Any) -> Any:
    async def wrapper(self: Any, request: Any) -> Any:
        span = _running_call()
        if span is None:
            return await handle(self, request)
        give_header(span, _headers(request))
        try:
            return await handle(self, request)
        finally:
            take_header(span, _headers(request))

    return wrapper


def _running_call() -> Span | None:
    span = current.get() if tracer.on else None
    return span if span is not None and span.describe is http_client and span.duration_ns < 0 else None


class _Headers:
    """What is done to ``httpx.Headers`` here, done to the list it keeps: (name, name in lower case, value), in bytes.
    Its own methods encode and look through everything each time, which takes longer than all the rest."""

    __slots__ = ("_items",)

    def __init__(self, items: list[tuple[bytes, bytes, bytes]]) -> None:
        self._items = items

    def __contains__(self, name: str) -> bool:
        wanted = name.encode()
        return wanted in [lower for _, lower, _ in self._items]

    def __setitem__(self, name: str, value: str) -> None:
        raw = name.encode()
        self._items.append((raw, raw, value.encode()))

    def __delitem__(self, name: str) -> None:
        wanted = name.encode()
        self._items[:] = [item for item in self._items if item[1] != wanted]


def _headers(request: Any) -> Any:
    items = getattr(request.headers, "_list", None)
    return _Headers(items) if type(items) is list else request.headers


def _begin(request: Any) -> Span | None:
    if not tracer.on:
        return None
    try:
        # Host and port are cheaper to ask for than the whole URL; a port that is the scheme's own is not in it.
        return begin_call(request.method, f"//{request.url.netloc.decode()}")
    except Exception:  # no request: httpx has the words for it
        return None
