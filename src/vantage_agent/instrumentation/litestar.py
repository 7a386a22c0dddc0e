"""Litestar: each request, by the template of its path."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import measured
from vantage_agent._context import running
from vantage_agent._patch import Patches
from vantage_agent._request import MARK
from vantage_agent._stream import Stream


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``litestar.app``, ``litestar.utils.sync``, or the module of the middleware that turns exceptions into
    responses."""
    if module.__name__ == "litestar.app":
        patches.wrap(module.Litestar, "__call__", partial(measured, route_of=_template))
    elif module.__name__ == "litestar.utils.sync":
        patches.wrap(module.AsyncIteratorWrapper, "__init__", _make_iterator)
    else:
        patches.wrap(module.ExceptionHandlerMiddleware, "handle_request_exception", _make_handler)


def _make_iterator(init: Any) -> Any:
    """Wrap what takes the pieces of a stream in threads."""

    def wrapper(self: Any, iterator: Any, *args: Any, **kwargs: Any) -> None:
        try:
            span = running()
            if span is not None:
                iterator = Stream(iterator, span)
        except Exception:
            pass
        init(self, iterator, *args, **kwargs)

    return wrapper


def _template(scope: Any) -> str:
    template = scope.get("path_template")
    if template:
        return str(template)
    if getattr(scope.get("route_handler"), "is_mount", False):
        # The path of a mount has no parameters; the rest is the mounted application's.
        path, rest = scope["raw_path"].decode("latin-1").rstrip("/"), scope["path"].rstrip("/")
        return str(path[: len(path) - len(rest)])
    return ""


def _make_handler(handle: Any) -> Any:
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            span = kwargs["scope"].get(MARK)
            if span is not None:
                span.cause = kwargs["exc"]  # it counts if the response is an error
        except Exception:
            pass
        return handle(self, *args, **kwargs)

    return wrapper
