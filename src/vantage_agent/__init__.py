"""The Vantage agent: metrics and spans of an application, sent to a Vantage server in the background.

    from vantage_agent import init_agent, record_metric

    init_agent(service_name="my-api", collector_url="http://localhost:8000")
    record_metric("orders.placed", 1, metric_type="counter", tags={"shop": "berlin"})

The agent is a guest: nothing here raises into the application or waits for the network, except ``flush`` and
``shutdown``, which wait for at most their timeout. What cannot be buffered or sent is counted and reported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vantage_agent import _manual_spans, _native
from vantage_agent._manual_spans import SpanScope, Timer
from vantage_agent._native import new_lock
from vantage_agent._sigterm import sigterm_handler
from vantage_agent._tracer import disown_running, tracer

# ``init_agent`` imports what only a running agent needs: not with this module, which libraries may import, and not
# later, when a fork, a signal or the exit could interrupt.
if TYPE_CHECKING:
    from vantage_agent._agent import Agent
    from vantage_agent.instrumentation import Instrumentations

__all__ = [
    "counter",
    "flush",
    "gauge",
    "histogram",
    "init_agent",
    "instrument_asgi",
    "instrument_wsgi",
    "record_exception",
    "record_metric",
    "record_span",
    "set_tags",
    "shutdown",
    "span",
    "timer",
]

_running: Agent | None = None  # not named like the module, which Python would assign here
_ending: Agent | None = None  # still sends the rest
_instrumentations: Instrumentations | None = None
_hooked = False
_starting = new_lock()


def init_agent(
    service_name: str | None = None,
    collector_url: str | None = None,
    *,
    api_key: str | None = None,
    environment: str | None = None,
    service_version: str | None = None,
    instance: str | None = None,
    auto_instrument: str | Iterable[str] | None = None,
    trace_sample_rate: float | None = None,
    tags: Mapping[str, Any] | None = None,
    allowed_tags: Iterable[str] | None = None,
    redact: Callable[[dict[str, str]], Mapping[str, Any] | None] | None = None,
    runtime_metrics: bool | None = None,
    record_exceptions: bool | None = None,
    flush_interval_s: float | None = None,
) -> None:
    """Start the agent; a second call changes nothing until ``shutdown``.

    Missing arguments are read from the environment: ``VANTAGE_AGENT_SERVICE_NAME`` and so on, then
    ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``. An invalid setting is logged as a warning, and the agent
    stays off.
    """
    global _running, _instrumentations  # noqa: PLW0603  # one agent a process, as there is one exit and one fork hook
    if _running is not None or not _starting.acquire(False):
        return
    try:
        from vantage_agent._agent import Agent
        from vantage_agent._config import make_config
        from vantage_agent.instrumentation import Instrumentations

        config = make_config(
            os.environ,
            service_name=service_name,
            collector_url=collector_url,
            api_key=api_key,
            environment=environment,
            service_version=service_version,
            instance=instance,
            auto_instrument=auto_instrument,
            trace_sample_rate=trace_sample_rate,
            tags=tags,
            allowed_tags=allowed_tags,
            redact=redact,
            runtime_metrics=runtime_metrics,
            record_exceptions=record_exceptions,
            flush_interval_s=flush_interval_s,
        )
        _running = Agent(config)
        _instrumentations = Instrumentations(config.auto_instrument)
        _instrumentations.install()
        _hook_exits()
    except Exception as error:
        shutdown(0)
        _warn_off(error)
    finally:
        _starting.release()


def record_metric(
    name: str,
    value: float,
    *,
    metric_type: str = "gauge",
    tags: Mapping[str, str] | None = None,
    unit: str = "",
    timestamp_ms: int | None = None,
    trace_id: str | None = None,
    span_id: str | None = None,
) -> None:
    """Record one sample. ``metric_type`` is gauge, counter (an increment), histogram (one observation) or cumulative.

    An invalid sample (a value that is not a finite number, more than 32 tags, …) is counted and dropped.
    """
    agent = _running  # another thread may end it
    if agent is not None:
        agent.record_metric(name, value, metric_type, tags, unit, timestamp_ms, trace_id, span_id)


def counter(name: str, value: float = 1, **details: Any) -> None:
    """Count something: ``value`` is the increment. ``details`` as in ``record_metric``."""
    record_metric(name, value, **{**details, "metric_type": "counter"})


def gauge(name: str, value: float, **details: Any) -> None:
    """Record a current level. ``details`` as in ``record_metric``."""
    record_metric(name, value, **{**details, "metric_type": "gauge"})


def histogram(name: str, value: float, **details: Any) -> None:
    """Record one observation of a distribution. ``details`` as in ``record_metric``."""
    record_metric(name, value, **{**details, "metric_type": "histogram"})


def record_span(
    name: str,
    *,
    trace_id: str,
    span_id: str,
    start_ns: int,
    duration_ns: int,
    parent_span_id: str | None = None,
    kind: str = "internal",
    status: str = "unset",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Record a finished span; ``start_ns`` is nanoseconds since the epoch."""
    agent = _running
    if agent is not None:
        agent.record_span(name, trace_id, span_id, start_ns, duration_ns, parent_span_id, kind, status, attributes)


def span(name: str, *, kind: str = "internal", attributes: Mapping[str, Any] | None = None) -> SpanScope:
    """Trace an operation: ``with span("render"):``, ``async with span("render"):``, or ``@span("render")``.

    It becomes a part of the current trace, or begins one. An exception that leaves it marks it as failed.
    ``kind`` is internal, server, client, producer or consumer.
    """
    return SpanScope(name, kind, attributes)


def timer(name: str, *, tags: Mapping[str, str] | None = None) -> Timer:
    """Measure a block, as one observation in milliseconds: ``with timer("render.duration"):`` or
    ``@timer("render.duration")``. An exception adds the tag ``error_type``."""

    def record(took_ms: float, all_tags: Mapping[str, str] | None) -> None:
        record_metric(name, took_ms, metric_type="histogram", unit="ms", tags=all_tags)

    return Timer(record, tags)


def set_tags(tags: Mapping[str, Any]) -> None:
    """Set tags of the running request or span: of its span, and of the sample of its duration. Use tags with few
    values: each combination is a series."""
    try:
        _manual_spans.set_tags(tags)
    except Exception:
        pass


def record_exception(error: BaseException) -> None:
    """Record an exception in the running span, with type, message and stack trace, which need not make it fail:
    ``span(…).set_error(error)`` does. Of several in one span the last is recorded."""
    try:
        _manual_spans.record_exception(error)
    except Exception:
        pass


def instrument_asgi(app: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return an ASGI application that records the requests of ``app``, for frameworks without instrumentation."""
    from vantage_agent._asgi import call_app, measured

    call = measured(call_app)

    async def wrapper(scope: Any, receive: Any, send: Any) -> Any:
        return await call(app, scope, receive, send)

    return wrapper


def instrument_wsgi(app: Callable[..., Any]) -> Callable[..., Any]:
    """Return a WSGI application that records the requests of ``app``, for frameworks without instrumentation."""
    from vantage_agent._wsgi import call_wsgi, no_route

    def wrapper(environ: Any, start_response: Any) -> Any:
        if not tracer.on:
            return app(environ, start_response)
        return call_wsgi(app, environ, start_response, no_route)

    return wrapper


def flush(timeout_s: float = 2.0) -> bool:
    """Send everything recorded so far. Return whether it was sent, or lost and counted, within ``timeout_s``."""
    try:
        agent = _running
        return True if agent is None else agent.flush(_seconds(timeout_s))
    except Exception:
        return False


def shutdown(timeout_s: float = 2.0) -> None:
    """Send the rest for at most ``timeout_s``, and stop. Runs automatically when the interpreter exits."""
    global _running, _ending, _instrumentations  # noqa: PLW0603
    # A signal handler that interrupts this waits for the same agent.
    agent, _running = _running or _ending, None
    _ending = agent
    instrumentations, _instrumentations = _instrumentations, None
    try:
        if instrumentations is not None:
            instrumentations.uninstall()
        if agent is not None:
            agent.shutdown(_seconds(timeout_s))
            sigterm_handler.uninstall()
    except Exception:
        pass
    finally:
        _ending = None


def _seconds(timeout_s: Any) -> float:
    """Return a valid timeout for any value."""
    try:
        seconds = float(timeout_s)
    except Exception:
        return 2.0
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else 2.0


def _warn_off(error: Exception) -> None:
    try:
        import logging

        logging.getLogger("vantage_agent").warning("vantage_agent stays off: %s", error)
    except Exception:  # a log handler of the application
        pass


def _hook_exits() -> None:
    global _hooked  # noqa: PLW0603
    import atexit

    sigterm_handler.install(shutdown)
    if not _hooked:
        _hooked = True
        atexit.register(shutdown)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
        _finish_with_multiprocessing()


def _after_fork() -> None:
    try:
        disown_running()
        _native.reset_after_fork()
        sigterm_handler.reset_after_fork()
        if _running is not None:
            _running.reset_after_fork()
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # it clears all finalizers in a new child, then calls functions registered like this
                util.register_after_fork(_running, lambda _: _finish_with_multiprocessing())
    except Exception:
        pass


def _finish_with_multiprocessing() -> None:
    """Register a finalizer: children of multiprocessing end by ``os._exit``, without atexit, but run finalizers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, shutdown, exitpriority=100)
