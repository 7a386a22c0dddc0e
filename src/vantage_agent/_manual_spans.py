"""Manual spans and timers: ``with span("name"):``, ``async with``, or ``@span("name")``."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, TypeVar

from vantage_agent._context import running
from vantage_agent._span import Span, internal, is_failure, perf_ns
from vantage_agent._tracer import tracer

KINDS = frozenset(("internal", "server", "client", "producer", "consumer"))
NAME_LENGTH_MAX = 512
KEY_LENGTH_MAX = 128
VALUE_LENGTH_MAX = 2048
PAIRS_MAX = 64
F = TypeVar("F", bound=Callable[..., Any])


class _Scope:
    """A context manager, sync and async, and a decorator of functions, coroutines and generators. One operation at a
    time, or nested: a decorated function creates an object for each call."""

    _begun: Any = None
    _outer: Any = None  # operations of this object that have not ended: nested pairs, the innermost first

    def _begin(self) -> Any:
        raise NotImplementedError

    def _end(self, begun: Any, error: BaseException | None) -> None:
        raise NotImplementedError

    def _copy(self) -> _Scope:
        raise NotImplementedError

    def __enter__(self) -> Any:
        if self._begun is not None:
            self._outer = (self._begun, self._outer)
        try:
            self._begun = self._begin()
        except Exception:
            self._begun = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun, self._begun = self._begun, None
        if self._outer is not None:
            self._begun, self._outer = self._outer
        if begun is not None:
            try:
                self._end(begun, error)
            except Exception:
                pass

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Wrap ``function`` so that each call is one operation, up to the end of a coroutine, a generator or a context
        manager. Raise TypeError for classes, properties and whatever else is not called as a function is."""
        from vantage_agent._decorate import decorated  # slow to import, and few applications decorate

        return decorated(function, self._copy)  # type: ignore[no-any-return]


class SpanScope(_Scope):
    """The result of ``span()``."""

    def __init__(self, name: Any, kind: Any, attributes: Any) -> None:
        self._name = name
        self._kind = kind
        self._attributes = attributes

    def _copy(self) -> SpanScope:
        return SpanScope(self._name, self._kind, self._attributes)

    def _begin(self) -> Span | None:
        if not tracer.on:
            return None
        name = str(self._name)[:NAME_LENGTH_MAX]
        attributes = added(None, self._attributes) if self._attributes else None
        span = tracer.begin(internal, self._kind if self._kind in KINDS else "internal")
        span.name = name
        span.attributes = attributes
        return span

    def _end(self, begun: Span, error: BaseException | None) -> None:
        if error is not None:
            begun.fail_with(error)
            if begun.failed:
                begun.attributes = added(begun.attributes, {"error.type": begun.error_type})
        try:
            tracer.end(begun, measured=False)
        finally:
            tracer.deactivate(begun)

    @property
    def trace_id(self) -> str:
        """The trace's id while the span runs; empty otherwise."""
        return self._begun.trace_id if self._begun is not None else ""

    @property
    def span_id(self) -> str:
        return self._begun.span_id if self._begun is not None else ""

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute of the running operation."""
        try:
            self.set_attributes({name: value})
        except Exception:  # an unhashable name
            pass

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        try:
            if self._begun is not None:
                self._begun.attributes = added(self._begun.attributes, attributes)
        except Exception:
            pass

    def set_error(self, error: BaseException | str) -> None:
        """Mark the operation as failed, though no exception leaves it."""
        try:
            if self._begun is not None:
                if isinstance(error, BaseException):
                    self._begun.fail_with(error)
                else:
                    self._begun.fail(error)
        except Exception:
            pass


class Timer(_Scope):
    """The result of ``timer()``. ``record(milliseconds, tags)`` records the duration."""

    def __init__(self, record: Callable[[float, Any], None], tags: Any) -> None:
        self._record = record
        self._tags = tags

    def _copy(self) -> Timer:
        return Timer(self._record, self._tags)

    def _begin(self) -> int:
        return perf_ns()

    def _end(self, begun: int, error: BaseException | None) -> None:
        took_ms = (perf_ns() - begun) / 1_000_000
        tags = (
            self._tags
            if error is None or not is_failure(error)
            else {**(self._tags or {}), "error_type": type(error).__name__}
        )
        self._record(took_ms, tags)


def set_tags(tags: Mapping[str, Any]) -> None:
    """Set tags of the running request or span: of its span, and of the sample of its duration."""
    span = running()
    if span is not None:
        span.is_plain = False
        span.tags = added(span.tags, tags)


def record_exception(error: BaseException) -> None:
    """Record an exception in the running span."""
    span = running()
    if span is not None and isinstance(error, BaseException):
        span.record(error)


def added(before: dict[str, str] | None, more: Mapping[str, Any]) -> dict[str, str]:
    """Return a new dictionary, since the exporter may be reading the previous one."""
    after = dict(before or {})
    for key, value in more.items():
        if len(after) >= PAIRS_MAX:
            break
        after[str(key)[:KEY_LENGTH_MAX]] = str(value)[:VALUE_LENGTH_MAX]
    return after
