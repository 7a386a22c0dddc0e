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
        span = _begin(method, url)
        if span is None:
            return urlopen(self, method, url, *args, **kwargs)
        try:
            if not url.startswith(("http://", "https://")):
                span.peer = _address(self)
            # Retries and redirects pass the headers by position.
            headers = args[1] if len(args) > 1 else kwargs.get("headers")
            headers = with_header(span, self.headers if headers is None else headers)
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
        # Without headers the pools use their own, and each pool is measured by itself.
        span = None if kwargs.get("headers", self) is None else _begin(method, url)
        if span is None:
            return urlopen(self, method, url, *args, **kwargs)
        try:
            kwargs["headers"] = with_header(span, kwargs.get("headers", self.headers))
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


def _begin(method: Any, url: Any) -> Span | None:
    # For anything else urllib3 raises a better error.
    return begin_call(method, url) if tracer.on and isinstance(method, str) and isinstance(url, str) else None


def _address(pool: Any) -> str:
    host = f"[{pool.host}]" if ":" in pool.host else pool.host
    return f"{pool.scheme}://{host}" if pool.port is None else f"{pool.scheme}://{host}:{pool.port}"
