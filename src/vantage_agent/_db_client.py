"""Spans around calls of database libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from vantage_agent._context import current
from vantage_agent._semconv import database
from vantage_agent._span import Span
from vantage_agent._sql import STATEMENT_LENGTH_MAX
from vantage_agent._tracer import tracer

PLAIN_LENGTH_MAX = 100  # a longer statement counts towards the size of the buffer
# System, host, port and the database's name.
Database = tuple[str, Optional[str], Optional[int], Optional[str]]


def begin_query(
    statement: Any, database_of: Callable[[Any], Database], owner: Any, *, command: str = ""
) -> Span | None:
    """Begin a span, or return None: without an agent, or for a call inside a call (a library on top of another).

    ``database_of(owner)`` returns the database. The span stores the beginning of ``statement``, if that is text;
    ``command`` replaces it for databases without SQL.
    """
    try:
        if not tracer.on:
            return None
        called = database_of(owner)
        outer = current.get()
        if (
            outer is not None
            and outer.describe is database
            and outer.duration_ns < 0
            and bool(outer.method) is bool(command)
        ):
            return None
        span = tracer.begin(database, "client")
        span.database = called
        if command:
            span.method = command
        elif isinstance(statement, (str, bytes)):
            span.statement = statement[:STATEMENT_LENGTH_MAX]
            if len(statement) > PLAIN_LENGTH_MAX:
                span.is_plain = False
        return span
    except Exception:
        return None


def end_query(span: Span, error: BaseException | None) -> None:
    try:
        if error is not None:
            span.fail(error)
    except Exception:
        pass
    tracer.finish(span)


def measured(begin: Callable[[Any, Any, Any], Span | None]) -> Callable[[Any], Any]:
    """Return a factory for ``Patches.wrap``: calls of a method become spans if ``begin(self, args, kwargs)`` begins
    one."""

    def make(execute: Any) -> Any:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            span = begin(self, args, kwargs)
            if span is None:
                return execute(self, *args, **kwargs)
            try:
                result = execute(self, *args, **kwargs)
            except BaseException as error:
                end_query(span, error)
                raise
            end_query(span, None)
            return result

        return wrapper

    return make


def measured_async(begin: Callable[[Any, Any, Any], Span | None]) -> Callable[[Any], Any]:
    """Return the same as ``measured`` for a method that is a coroutine function."""

    def make(execute: Any) -> Any:
        async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            span = begin(self, args, kwargs)
            if span is None:
                return await execute(self, *args, **kwargs)
            try:
                result = await execute(self, *args, **kwargs)
            except BaseException as error:
                end_query(span, error)
                raise
            end_query(span, None)
            return result

        return wrapper

    return make
