"""requests: each call of a session, with its redirects. A streamed answer counts up to its headers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, forget_redirects, inject, remove_injected
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """``requests.sessions``."""

    def make(send: Any) -> Any:
        def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
            try:
                span = begin_call(request.method, request.url)
            except Exception:  # no prepared request: requests has the words for it
                span = None
            if span is None:
                return send(self, request, **kwargs)
            headers = request.headers
            # What their mapping keeps: its own methods take longer than all the rest.
            held = getattr(headers, "_store", None)
            if isinstance(held, dict):
                headers = held
                inject(span, held, _as_held)
            else:
                inject(span, headers)
            try:
                response = send(self, request, **kwargs)
            except BaseException as error:
                remove_injected(span, headers)
                end_call(span, 0, error)
                raise
            remove_injected(span, headers)
            end_call(span, getattr(response, "status_code", 0), None)
            if getattr(response, "history", None):
                forget_redirects(span, response)
            return response

        return wrapper

    patches.wrap(module.Session, "send", make)


def _as_held(name: str, value: str) -> tuple[str, str]:
    """Under the name in lower case: the name as it was given, and the value."""
    return name, value
