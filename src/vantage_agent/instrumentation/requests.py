"""requests: each call of a session, with its redirects. A streamed response counts up to its headers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, inject, remove_from_redirects, remove_injected
from vantage_agent._patch import Patches


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``requests.sessions``."""

    def make(send: Any) -> Any:
        def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
            try:
                span = begin_call("requests", request.method, request.url, request.headers)
            except Exception:  # not a prepared request: requests raises a better error
                span = None
            if span is None:
                return send(self, request, **kwargs)
            headers = request.headers
            # The dictionary inside the mapping, whose methods take longer than all the rest.
            store = getattr(headers, "_store", None)
            if isinstance(store, dict):
                headers = store
                inject(span, store, _store_item)
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
                remove_from_redirects(span, response)
            return response

        return wrapper

    patches.wrap(module.Session, "send", make)


def _store_item(name: str, value: str) -> tuple[str, str]:
    """Return an item of the mapping's dictionary, whose keys are lower-case names: the name as sent, and the value."""
    return name, value
