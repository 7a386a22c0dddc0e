"""The Vantage agent: metrics and spans of an application, sent to a Vantage server in the background.

    from vantage_agent import init_agent, record_metric

    init_agent(service_name="my-api", collector_url="http://localhost:8000")
    record_metric("orders.placed", 1, metric_type="counter", tags={"shop": "berlin"})

The agent is a guest: nothing here raises into the application or waits for the network, except ``flush`` and
``shutdown``, which wait for at most the time they are given. What cannot be kept or sent is counted and reported.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from vantage_agent._agent import Agent
from vantage_agent._config import make_config

__all__ = [
    "counter",
    "flush",
    "gauge",
    "histogram",
    "init_agent",
    "record_metric",
    "record_span",
    "shutdown",
]

_log = logging.getLogger("vantage_agent")
_agent: Agent | None = None
_hooked = False


def init_agent(
    service_name: str | None = None,
    collector_url: str | None = None,
    *,
    api_key: str | None = None,
    environment: str | None = None,
    service_version: str | None = None,
    instance: str | None = None,
    auto_instrument: Iterable[str] = (),
    flush_interval_s: float = 5.0,
) -> None:
    """Start the agent; a second call changes nothing until ``shutdown``.

    What is not given is read from ``VANTAGE_AGENT_SERVICE_NAME``, ``_COLLECTOR_URL``, ``_API_KEY``, ``_ENVIRONMENT``,
    ``_SERVICE_VERSION`` and ``_INSTANCE``. A setting that cannot be used is one warning, and the agent stays off.
    """
    global _agent, _hooked  # noqa: PLW0603  # one agent a process, as there is one exit and one fork hook
    try:
        if _agent is not None:
            return
        config = make_config(
            os.environ,
            service_name=service_name,
            collector_url=collector_url,
            api_key=api_key,
            environment=environment,
            service_version=service_version,
            instance=instance,
            flush_interval_s=flush_interval_s,
        )
        names = [auto_instrument] if isinstance(auto_instrument, str) else [str(name) for name in auto_instrument or ()]
        if names:
            _log.warning("vantage_agent cannot instrument these yet, they are ignored: %s", ", ".join(names))
        _agent = Agent(config)
        if not _hooked:
            _hooked = True
            atexit.register(shutdown)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_after_fork)
            _finish_with_multiprocessing()
    except Exception as error:
        _log.warning("vantage_agent stays off: %s", error)


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

    A sample that makes no sense (a value that is no finite number, more than 32 tags, …) is counted and left out.
    """
    if _agent is not None:
        _agent.record_metric(name, value, metric_type, tags, unit, timestamp_ms, trace_id, span_id)


def counter(name: str, value: float = 1, **details: Any) -> None:
    """Count something: ``value`` is the increment. ``details`` as in ``record_metric``."""
    record_metric(name, value, **{**details, "metric_type": "counter"})


def gauge(name: str, value: float, **details: Any) -> None:
    """Record a level at this instant. ``details`` as in ``record_metric``."""
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
    if _agent is not None:
        _agent.record_span(name, trace_id, span_id, start_ns, duration_ns, parent_span_id, kind, status, attributes)


def flush(timeout_s: float = 2.0) -> bool:
    """Send what is recorded now. True when it was sent, or given up and counted, within ``timeout_s``."""
    try:
        return True if _agent is None else _agent.flush(timeout_s)
    except Exception:
        return False


def shutdown(timeout_s: float = 2.0) -> None:
    """Send what is left, for at most ``timeout_s``, and stop. Runs by itself when the interpreter exits."""
    global _agent
    agent, _agent = _agent, None
    try:
        if agent is not None:
            agent.shutdown(timeout_s)
    except Exception:
        pass


def _after_fork() -> None:
    try:
        if _agent is not None:
            _agent.reset_after_fork()
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # it forgets all finalizers in a new child, then calls those registered like this
                util.register_after_fork(_agent, lambda _: _finish_with_multiprocessing())
    except Exception:
        pass


def _finish_with_multiprocessing() -> None:
    """Children of multiprocessing leave through ``os._exit``, past atexit, but run its own finalizers before."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, shutdown, exitpriority=100)
