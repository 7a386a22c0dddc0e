"""What the libraries of databases have in common: a span around a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from vantage_agent._context import current
from vantage_agent._semconv import database
from vantage_agent._span import Span
from vantage_agent._sql import STATEMENT_LENGTH_MAX
from vantage_agent._tracer import tracer

PLAIN_LENGTH_MAX = 100  # a longer statement counts among what the buffer holds
# System, host, port and the database's name.
Database = tuple[str, Optional[str], Optional[int], Optional[str]]


def begin_query(
    statement: Any, database_of: Callable[[Any], Database], owner: Any, *, command: str = ""
) -> Span | None:
    """None when there is nothing to do: no agent, or a call inside a call (a library on top of another).
    ``database_of(owner)`` tells where the statement goes. Of ``statement`` the beginning is remembered; what is no text
    has none that could be told. ``command`` stands for it where there is no SQL."""
    try:
        if not tracer.on:
            return None
        where = database_of(owner)
        around = current.get()
        if (
            around is not None
            and around.describe is database
            and around.duration_ns < 0
            and bool(around.method) is bool(command)
        ):
            return None
        span = tracer.begin(database, "client")
        span.database = where
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
    """For ``Patches.wrap``: a method whose calls are spans, as far as ``begin(self, args, kwargs)`` makes one."""

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
    """The same of a method that is a coroutine function."""

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
