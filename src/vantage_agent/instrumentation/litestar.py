"""Litestar: each request, by the template of its path."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from vantage_agent._asgi import MARK, measured
from vantage_agent._patch import Patches
from vantage_agent._span import type_name


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``litestar.app``, or the module of the middleware that turns exceptions into responses."""
    if module.__name__ == "litestar.app":
        patches.wrap(module.Litestar, "__call__", partial(measured, route_of=_template))
    else:
        patches.wrap(module.ExceptionHandlerMiddleware, "handle_request_exception", _make_handler)


def _template(scope: Any) -> str:
    return scope.get("path_template") or ""


def _make_handler(handle: Any) -> Any:
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            span = kwargs["scope"].get(MARK)
            if span is not None:
                span.error_type = type_name(kwargs["exc"])  # it counts if the response is an error
        except Exception:
            pass
        return handle(self, *args, **kwargs)

    return wrapper
