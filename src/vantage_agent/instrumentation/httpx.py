"""httpx: each call of a client, plain and async, with its redirects. A streamed answer counts up to its headers.

The client is measured, and the transport below it gives the header: what hooks, authentication and mocked transports
see of a request is the application's own.
"""

from __future__ import annotations

from operator import itemgetter
from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, inject, remove_injected, running_call
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer


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
        span = running_call()
        if span is None:
            return handle(self, request)
        headers = request.headers
        held = _give(span, headers)
        try:
            return handle(self, request)
        finally:
            _take(span, headers, held)

    return wrapper


def _make_async_handle(handle: Any) -> Any:
    async def wrapper(self: Any, request: Any) -> Any:
        span = running_call()
        if span is None:
            return await handle(self, request)
        headers = request.headers
        held = _give(span, headers)
        try:
            return await handle(self, request)
        finally:
            _take(span, headers, held)

    return wrapper


Held = tuple[bytes, bytes, bytes]  # name, name in lower case, value
_lower = itemgetter(1)


def _give(span: Span, headers: Any) -> tuple[Held, ...]:
    """Done to the list that ``httpx.Headers`` keeps, and what was put there. Their own methods encode and look through
    everything each time, which takes longer than all the rest."""
    items = getattr(headers, "_list", None)
    if type(items) is not list:
        inject(span, headers)
        return ()
    try:
        if b"traceparent" in map(_lower, items):
            return ()
        held: tuple[Held, ...] = ((b"traceparent", b"traceparent", traceparent_of(span).encode()),)
        if span.tracestate:
            held += ((b"tracestate", b"tracestate", span.tracestate.encode()),)
        items.extend(held)
        return held
    except Exception:
        return ()


def _take(span: Span, headers: Any, held: tuple[Held, ...]) -> None:
    try:
        for item in held:
            headers._list.remove(item)  # noqa: SLF001
    except Exception:  # the application took it out meanwhile
        pass
    remove_injected(span, headers)


def _begin(request: Any) -> Span | None:
    if not tracer.on:
        return None
    try:
        url = request.url
        try:
            parts = url._uri_reference  # noqa: SLF001  # the public parts are made anew each time
            return begin_call(request.method, (parts.host, parts.port))
        except AttributeError:
            return begin_call(request.method, f"//{url.netloc.decode()}")
    except Exception:  # no request: httpx has the words for it
        return None
