"""redis: each command and each pipeline, sync and async.

Blocking commands and subscriptions are not instrumented: their duration means nothing. Nor are clients of a cluster,
which send by functions of their own, nor kombu's transport of messages, such as Celery's: a worker polls all the time,
outside of any trace.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from weakref import WeakSet

from vantage_agent._db_client import Database, begin_query, measured, measured_async
from vantage_agent._patch import Patches
from vantage_agent._span import Span
from vantage_agent._tracer import tracer

PIPELINE = "PIPELINE"
COMMAND_LENGTH_MAX = 64
_BLOCKING = frozenset(
    ("BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF", "MONITOR")
)
_BLOCKING_BY_OPTION = frozenset(("XREAD", "XREADGROUP"))
_pools_of_kombu: WeakSet[Any] = WeakSet()


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``redis.client``, ``redis.asyncio.client`` or ``kombu.transport.redis``."""
    if module.__name__ == "kombu.transport.redis":
        patches.wrap(module.Channel, "_get_pool", _make_get_pool)
        return
    make = measured_async if module.__name__ == "redis.asyncio.client" else measured
    patches.wrap(module.Redis, "execute_command", make(_begin_command))
    patches.wrap(module.Pipeline, "immediate_execute_command", make(_begin_command))
    patches.wrap(module.Pipeline, "execute", make(_begin_pipeline))


def _make_get_pool(get_pool: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        pool = get_pool(*args, **kwargs)
        try:
            _pools_of_kombu.add(pool)
        except Exception:
            pass
        return pool

    return wrapper


def _is_of_kombu(client: Any) -> bool:
    return bool(_pools_of_kombu) and client.connection_pool in _pools_of_kombu


def _begin_command(client: Any, args: tuple[Any, ...], _kwargs: Any) -> Span | None:
    if not tracer.on:
        return None
    try:
        name = args[0]
        if type(name) is bytes:
            name = name.decode("ascii", "replace")
        name = name[:COMMAND_LENGTH_MAX].upper()
        if name in _BLOCKING or (name in _BLOCKING_BY_OPTION and b"BLOCK" in args) or _is_of_kombu(client):
            return None
    except Exception:  # not a command: redis raises a better error
        return None
    return begin_query("redis", None, _database, client, command=name)


def _begin_pipeline(pipeline: Any, _args: Any, _kwargs: Any) -> Span | None:
    try:
        # An empty pipeline sends nothing.
        if not tracer.on or not pipeline.command_stack or _is_of_kombu(pipeline):
            return None
    except Exception:
        return None
    return begin_query("redis", None, _database, pipeline, command=PIPELINE)


def _database(client: Any) -> Database:
    settings = client.connection_pool.connection_kwargs
    return "redis", settings.get("host"), settings.get("port"), str(settings.get("db") or 0)
