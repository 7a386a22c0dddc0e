"""httpx and its successor httpx2: each call of a client, sync and async, with its redirects. A streamed response counts
up to its headers.

The span is around the client's call. The transport below it injects the header, so that hooks, authentication and mock
transports see only the application's headers.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, inject, remove_injected, running_call
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``httpx`` or ``httpx2``."""
    patches.wrap(module.Client, "send", partial(_make_send, module.__name__))
    patches.wrap(module.AsyncClient, "send", partial(_make_async_send, module.__name__))
    patches.wrap(module.HTTPTransport, "handle_request", _make_handle)
    patches.wrap(module.AsyncHTTPTransport, "handle_async_request", _make_async_handle)
    patches.wrap(module.WSGITransport, "handle_request", _make_in_process)
    patches.wrap(module.ASGITransport, "handle_async_request", _make_in_process)


def _make_send(library: str, send: Any) -> Any:
    def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        span = _begin(library, request)
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


def _make_async_send(library: str, send: Any) -> Any:
    async def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        span = _begin(library, request)
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
        injected = _inject(span, headers)
        try:
            return handle(self, request)
        finally:
            _remove(span, headers, injected)

    return wrapper


def _make_async_handle(handle: Any) -> Any:
    async def wrapper(self: Any, request: Any) -> Any:
        span = running_call()
        if span is None:
            return await handle(self, request)
        headers = request.headers
        injected = _inject(span, headers)
        try:
            return await handle(self, request)
        finally:
            _remove(span, headers, injected)

    return wrapper


def _make_in_process(handle: Any) -> Any:
    """Wrap a transport that calls an application in this process: what it calls is a part of the call, and sees only
    the application's headers."""

    def wrapper(self: Any, request: Any) -> Any:
        span = running_call()
        if span is not None:
            span.is_in_process = True
        return handle(self, request)

    return wrapper


HeaderItem = tuple[bytes, bytes, bytes]  # name, name in lower case, value
_lower = itemgetter(1)


def _inject(span: Span, headers: Any) -> tuple[HeaderItem, ...]:
    """Inject into the list inside ``httpx.Headers``, and return the new items. The methods of ``Headers`` encode and
    search everything each time, which takes longer than all the rest."""
    items = getattr(headers, "_list", None)
    if type(items) is not list:
        inject(span, headers)
        return ()
    try:
        if b"traceparent" in map(_lower, items):
            return ()
        injected: tuple[HeaderItem, ...] = ((b"traceparent", b"traceparent", traceparent_of(span).encode()),)
        if span.tracestate:
            injected += ((b"tracestate", b"tracestate", span.tracestate.encode()),)
        items.extend(injected)
        return injected
    except Exception:
        return ()


def _remove(span: Span, headers: Any, injected: tuple[HeaderItem, ...]) -> None:
    try:
        for item in injected:
            headers._list.remove(item)  # noqa: SLF001
    except Exception:  # the application has removed it
        pass
    remove_injected(span, headers)


def _begin(library: str, request: Any) -> Span | None:
    if not tracer.on:
        return None
    try:
        url = request.url
        try:
            parts = url._uri_reference  # noqa: SLF001  # the public parts are built on each access
            return begin_call(library, request.method, (parts.host, parts.port), request.headers)
        except AttributeError:
            return begin_call(library, request.method, f"//{url.netloc.decode()}", request.headers)
    except Exception:  # not a request: httpx raises a better error
        return None
