"""httpx: each call of a client, plain and async, with its redirects. A streamed answer counts up to its headers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._client import begin_call, end_call, forget_redirects
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """``httpx``."""

    def make(send: Any) -> Any:
        def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
            span = _begin(request)
            if span is None:
                return send(self, request, **kwargs)
            try:
                response = send(self, request, **kwargs)
            except BaseException as error:
                end_call(span, request.headers, 0, error)
                raise
            _end(span, request, response)
            return response

        return wrapper

    def make_async(send: Any) -> Any:
        async def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
            span = _begin(request)
            if span is None:
                return await send(self, request, **kwargs)
            try:
                response = await send(self, request, **kwargs)
            except BaseException as error:
                end_call(span, request.headers, 0, error)
                raise
            _end(span, request, response)
            return response

        return wrapper

    patches.wrap(module.Client, "send", make)
    patches.wrap(module.AsyncClient, "send", make_async)


def _begin(request: Any) -> Span | None:
    if not tracer.on:
        return None
    try:
        # Host and port are cheaper to ask for than the whole URL; a port that is the scheme's own is not in it.
        return begin_call(request.method, f"//{request.url.netloc.decode()}", request.headers)
    except Exception:  # no request: httpx has the words for it
        return None


def _end(span: Span, request: Any, response: Any) -> None:
    end_call(span, request.headers, getattr(response, "status_code", 0), None)
    if getattr(response, "history", None):
        forget_redirects(span, response)
