"""Spans around calls of database libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from vantage_agent._context import current, running, running_around
from vantage_agent._semconv import database
from vantage_agent._span import Span
from vantage_agent._sql import STATEMENT_LENGTH_MAX
from vantage_agent._tracer import tracer

SAME_LENGTH = 32  # characters that two statements have in common
PLAIN_LENGTH_MAX = 100  # a longer statement counts towards the size of the buffer
# System, host, port and the database's name.
Database = tuple[str, Optional[str], Optional[int], Optional[str]]


def begin_query(
    library: str, statement: Any, database_of: Callable[[Any], Database], owner: Any, *, command: str = ""
) -> Span | None:
    """Begin a span, or return None: without an agent, or for a statement that a driver runs on behalf of the library on
    top of it.

    ``database_of(owner)`` returns the database. The span stores the beginning of ``statement``, if that is text;
    ``command`` replaces it for databases without SQL.
    """
    try:
        if not tracer.on:
            return None
        called = database_of(owner)
        if not isinstance(statement, (str, bytes)):
            statement = ""
        outer = None if current.get() is None else _running_query()
        if outer is not None and _is_same(outer, library, called, statement, command):
            return None
        span = tracer.begin(database, "client")
        span.library = library
        span.database = called
        if command:
            span.method = command
        elif statement:
            span.statement = statement[:STATEMENT_LENGTH_MAX]
            if len(statement) > PLAIN_LENGTH_MAX:
                span.is_plain = False
        return span
    except Exception:
        return None


def _running_query() -> Span | None:
    span = running()
    while span is not None and span.describe is not database:
        span = running_around(span.outer)
    return span


def _is_same(outer: Span, library: str, called: Database, statement: str | bytes, command: str) -> bool:
    """Return whether a call inside a call is the same one: the same statement, on the same database. Of a statement the
    beginning has to agree, since a library may send it in portions. A listener's is another."""
    if bool(outer.method) is not bool(command) or outer.database is None or _differ(outer.database, called):
        return False
    if command:
        return outer.library == library  # a pipeline sends what it needs first
    return outer.library != library and _start(outer.statement) == _start(statement)


def _differ(outer: Database, inner: Database) -> bool:
    """Return whether two databases are certainly not the same: a library may know less of its database than the
    driver."""
    if outer[0] != inner[0] or any(a and b and a != b for a, b in zip(outer[1:3], inner[1:3])):
        return True
    return bool(outer[3] and inner[3]) and _file_name(outer[3]) != _file_name(inner[3])


def _file_name(name: str | None) -> str:
    return (name or "").partition("?")[0].rpartition("/")[2]


def _start(statement: str | bytes) -> str:
    text = statement if isinstance(statement, str) else statement.decode("utf-8", "replace")
    return text.lstrip()[:SAME_LENGTH]


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
