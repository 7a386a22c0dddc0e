"""Flask: each request, by the rule that matched."""

from __future__ import annotations

import sys
from types import MethodType, ModuleType
from typing import Any

from vantage_agent._context import current
from vantage_agent._patch import Patches
from vantage_agent._semconv import http_server
from vantage_agent._tracer import tracer
from vantage_agent._wsgi import call_wsgi


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``flask.app``."""

    def make(wsgi_app: Any) -> Any:
        def wrapper(self: Any, environ: Any, start_response: Any) -> Any:
            if not tracer.on:
                return wsgi_app(self, environ, start_response)
            return call_wsgi(MethodType(wsgi_app, self), environ, start_response, _rule)

        return wrapper

    def make_handler(handle_exception: Any) -> Any:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                span = current.get()
                if span is not None and span.describe is http_server and isinstance(args[-1], BaseException):
                    span.fail(args[-1])
                    # The exception may leave the application, and then no response begins.
                    span.route = _rule(sys.modules["flask.globals"].request.environ)
            except Exception:
                pass
            return handle_exception(self, *args, **kwargs)

        return wrapper

    def make_last(process_response: Any) -> Any:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            response = process_response(self, *args, **kwargs)
            try:
                span = current.get()
                if span is not None and span.describe is http_server:
                    # A complete response need not be wrapped while the server sends it.
                    span.is_complete = type(response.response) is list or not response.is_streamed
            except Exception:
                pass
            return response

        return wrapper

    patches.wrap(module.Flask, "wsgi_app", make)
    patches.wrap(module.Flask, "process_response", make_last)
    patches.wrap(module.Flask, "handle_exception", make_handler)


def _rule(environ: dict[str, Any]) -> str:
    request = environ.get("werkzeug.request")
    rule = None if request is None else request.url_rule
    return "" if rule is None else rule.rule
