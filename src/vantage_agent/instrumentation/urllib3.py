"""urllib3: each call of a manager or a pool, with its retries and redirects. A streamed response counts up to its
headers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._http_client import begin_call, end_call, with_header
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``urllib3.connectionpool`` or ``urllib3.poolmanager``."""
    if module.__name__ == "urllib3.connectionpool":
        patches.wrap(module.HTTPConnectionPool, "urlopen", _make_pool)
    else:
        # It follows redirects by calling one pool after the other.
        patches.wrap(module.PoolManager, "urlopen", _make_manager)


def _make_pool(urlopen: Any) -> Any:
    def wrapper(self: Any, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
        if not tracer.on or not isinstance(method, str) or not isinstance(url, str):
            return urlopen(self, method, url, *args, **kwargs)  # urllib3 raises a better error
        try:
            # Retries and redirects pass the headers by position.
            headers = args[1] if len(args) > 1 else kwargs.get("headers")
            if headers is None:
                headers = self.headers
            peer = url if url.startswith(("http://", "https://")) else _address(self)
        except Exception:
            return urlopen(self, method, url, *args, **kwargs)
        span = begin_call("urllib3", method, peer, headers)
        if span is None:
            return urlopen(self, method, url, *args, **kwargs)
        try:
            headers = with_header(span, headers)
            if len(args) > 1:
                args = (args[0], headers, *args[2:])
            else:
                kwargs["headers"] = headers
        except Exception:
            pass
        return _call(span, urlopen, (self, method, url, *args), kwargs)

    return wrapper


def _make_manager(urlopen: Any) -> Any:
    def wrapper(self: Any, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
        headers = kwargs.get("headers", self.headers)
        span = None
        # Without headers the pools use their own, and each pool is measured by itself. For what is no request urllib3
        # raises a better error.
        if tracer.on and headers is not None and isinstance(method, str) and isinstance(url, str):
            span = begin_call("urllib3", method, url, headers)
        if span is None:
            return urlopen(self, method, url, *args, **kwargs)
        try:
            kwargs["headers"] = with_header(span, headers)
        except Exception:
            pass
        return _call(span, urlopen, (self, method, url, *args), kwargs)

    return wrapper


def _call(span: Span, urlopen: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        response = urlopen(*args, **kwargs)
    except BaseException as error:
        end_call(span, 0, error)
        raise
    end_call(span, getattr(response, "status", 0), None)
    return response


def _address(pool: Any) -> str:
    host = f"[{pool.host}]" if ":" in pool.host else pool.host
    return f"{pool.scheme}://{host}" if pool.port is None else f"{pool.scheme}://{host}:{pool.port}"
