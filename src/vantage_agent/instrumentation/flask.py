"""Flask: each request, by the rule that matched, with what werkzeug's dispatcher mounts it under."""

from __future__ import annotations

import sys
from types import MethodType, ModuleType
from typing import Any

from vantage_agent._context import current
from vantage_agent._patch import Patches
from vantage_agent._request import MARK, note_cause, running_request
from vantage_agent._semconv import http_server
from vantage_agent._tracer import tracer
from vantage_agent._wsgi import BASE, call_wsgi

DISPATCHER = "werkzeug.middleware.dispatcher"


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``flask.app`` or ``werkzeug.middleware.dispatcher``."""
    if module.__name__ == DISPATCHER:
        patch_dispatcher(patches, module)
        return
    patches.wrap(module.Flask, "wsgi_app", _make_app)
    patches.wrap(module.Flask, "process_response", _make_last)
    patches.wrap(module.Flask, "handle_exception", _make_handler)
    patches.wrap(module.Flask, "handle_user_exception", _make_user_handler)


def patch_dispatcher(patches: Patches, module: ModuleType) -> None:
    """Patch ``werkzeug.middleware.dispatcher``, which mounts applications: note what the server mounts under, which may
    be anything and belongs to no route."""
    patches.wrap(module.DispatcherMiddleware, "__call__", _make_dispatcher)


def _make_app(wsgi_app: Any) -> Any:
    def wrapper(self: Any, environ: Any, start_response: Any) -> Any:
        if not tracer.on:
            return wsgi_app(self, environ, start_response)
        return call_wsgi(MethodType(wsgi_app, self), environ, start_response, _rule)

    return wrapper


def _make_last(process_response: Any) -> Any:
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = process_response(self, *args, **kwargs)
        try:
            span = current.get()
            if span is not None and span.describe is not http_server:
                span = running_request()  # inside a span of the application's own
            if span is not None:
                # A complete response need not be wrapped while the server sends it.
                span.is_complete = type(response.response) is list or not response.is_streamed
        except Exception:
            pass
        return response

    return wrapper


def _make_handler(handle_exception: Any) -> Any:
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            span = running_request()
            if span is not None and isinstance(args[-1], BaseException):
                span.fail_with(args[-1])
                # The exception may leave the application, and then no response begins.
                span.route = _rule(sys.modules["flask.globals"].request.environ)
        except Exception:
            pass
        return handle_exception(self, *args, **kwargs)

    return wrapper


def _make_user_handler(handle_user_exception: Any) -> Any:
    """Wrap what each exception passes first, whatever handles it."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if isinstance(args[-1], BaseException):
                note_cause(running_request(), args[-1])
        except Exception:
            pass
        return handle_user_exception(self, *args, **kwargs)

    return wrapper


def _make_dispatcher(call: Any) -> Any:
    def wrapper(self: Any, environ: Any, start_response: Any) -> Any:
        try:
            environ.setdefault(BASE, environ.get("SCRIPT_NAME", ""))
        except Exception:
            pass
        return call(self, environ, start_response)

    return wrapper


def _rule(environ: dict[str, Any]) -> str:
    request = environ.get("werkzeug.request")
    rule = None if request is None else request.url_rule
    if rule is None:
        return ""
    span = environ.get(MARK)
    template: str = rule.rule
    return template if span is None else span.mount + template
