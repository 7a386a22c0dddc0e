"""Django: each request through its WSGI or ASGI handler, by the route that matched."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import measured
from vantage_agent._patch import Patches
from vantage_agent._request import MARK, note_cause
from vantage_agent._span import Span
from vantage_agent._tracer import tracer
from vantage_agent._wsgi import call_wsgi
from vantage_agent.instrumentation.flask import DISPATCHER, patch_dispatcher


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``django.core.handlers.base``, ``exception``, ``wsgi`` or ``asgi``, or werkzeug's dispatcher."""
    if module.__name__ == DISPATCHER:
        patch_dispatcher(patches, module)
        return
    name = module.__name__.rpartition(".")[2]
    if name == "wsgi":
        patches.wrap(module.WSGIHandler, "__call__", _make_wsgi)
    elif name == "asgi":
        patches.wrap(module.ASGIHandler, "__call__", partial(measured, route=""))
    elif name == "base":
        patches.wrap(module.BaseHandler, "resolve_request", _make_resolver)
        patches.wrap(module.BaseHandler, "process_exception_by_middleware", _make_noting)
    else:
        patches.wrap(module, "handle_uncaught_exception", _make_handler)


def _make_wsgi(call: Any) -> Any:
    def wrapper(self: Any, environ: Any, start_response: Any) -> Any:
        if not tracer.on:
            return call(self, environ, start_response)

        def application(environ: Any, start_response: Any) -> Any:
            response = call(self, environ, start_response)
            try:
                # A complete response need not be wrapped while the server sends it.
                if response.streaming is False:
                    environ[MARK].is_complete = True
            except Exception:  # a file wrapper
                pass
            return response

        return call_wsgi(application, environ, start_response, _route)

    return wrapper


def _route(environ: Any) -> str:
    span = environ.get(MARK)
    return "" if span is None else span.route or ""


def _make_resolver(resolve_request: Any) -> Any:
    def wrapper(self: Any, request: Any) -> Any:
        match = resolve_request(self, request)
        try:
            span = _span_of(request)
            if span is not None:
                route = match.route
                span.route = f"{span.mount}/{route[1:] if route.startswith('^') else route}"
        except Exception:
            pass
        return match

    return wrapper


def _make_noting(process_exception: Any) -> Any:
    """Wrap what a view's exception passes first: a middleware may answer it."""

    def wrapper(self: Any, exception: Any, request: Any) -> Any:
        try:
            note_cause(_span_of(request), exception)
        except Exception:
            pass
        return process_exception(self, exception, request)

    return wrapper


def _make_handler(handle_uncaught_exception: Any) -> Any:
    """Wrap the handler of exceptions that become a status of 500."""

    def wrapper(request: Any, resolver: Any, exc_info: Any) -> Any:
        try:
            span = _span_of(request)
            if span is not None:
                span.fail_with(exc_info[1])
        except Exception:
            pass
        return handle_uncaught_exception(request, resolver, exc_info)

    return wrapper


def _span_of(request: Any) -> Span | None:
    """Return the span in the request's scope or environ: the current span may be a manual one. None without a server,
    as for Django's test client."""
    environ = getattr(request, "scope", None)
    if environ is None:
        environ = request.environ
    span: Span | None = environ.get(MARK)
    return span
