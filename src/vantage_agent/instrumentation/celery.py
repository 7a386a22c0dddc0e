"""Celery: each task that is sent, and each that is run, in whatever kind of pool. The message's headers carry the trace
from the one to the other.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._patch import Patches
from vantage_agent._semconv import task_run, task_sent
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

FLUSH_S = 2.0


def patch(patches: Patches, module: ModuleType) -> None:
    """``celery.app.base``, ``celery.app.trace``, ``celery.worker.consumer.consumer`` or
    ``celery.concurrency.prefork``."""
    if hasattr(module, "Celery"):
        patches.wrap(module.Celery, "send_task", _make_send)
    elif hasattr(module, "process_destructor"):
        patches.wrap(module, "process_destructor", _make_last)
    else:
        # What was imported from another module after that was instrumented: each is wrapped and put back by itself.
        found = module.build_tracer
        if getattr(found, "__vantage_agent__", False):
            module.build_tracer = found.__wrapped__  # type: ignore[attr-defined]
        patches.wrap(module, "build_tracer", _make_build)


def _make_send(send: Any) -> Any:
    def wrapper(self: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        span = _begin(task_sent, "producer", name, None)
        if span is None:
            return send(self, name, *args, **kwargs)
        _give_header(span, kwargs)
        try:
            result = send(self, name, *args, **kwargs)
        except BaseException as error:
            _end(span, error)
            raise
        _end(span, None)
        return result

    return wrapper


def _make_build(build: Any) -> Any:
    """Of the function that makes a task's own function: what the worker then calls for each message."""

    def wrapper(name: Any, *args: Any, **kwargs: Any) -> Any:
        run = build(name, *args, **kwargs)

        def traced(uuid: Any, task_args: Any, task_kwargs: Any, request: Any = None) -> Any:
            span = _begin(task_run, "consumer", name, request)
            if span is None:
                return run(uuid, task_args, task_kwargs, request)
            try:
                outcome = run(uuid, task_args, task_kwargs, request)
            except BaseException as error:
                _end(span, error)
                raise
            _end(span, None, getattr(outcome, "info", None))
            return outcome

        return traced

    return wrapper


def _make_last(process_destructor: Any) -> Any:
    """A process of the pool leaves past everything that runs at exit, but calls this before."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return process_destructor(*args, **kwargs)
        finally:
            try:
                from vantage_agent import flush

                flush(FLUSH_S)
            except Exception:
                pass

    return wrapper


def _begin(describe: Any, kind: str, name: Any, request: Any) -> Span | None:
    try:
        if not tracer.on:
            return None
        traceparent = tracestate = None
        if request:
            traceparent, tracestate = request.get("traceparent"), request.get("tracestate")
        span = tracer.begin(describe, kind, traceparent, tracestate or "")
        span.name = name
        return span
    except Exception:
        return None


def _give_header(span: Span, options: dict[str, Any]) -> None:
    """A ``traceparent`` of the application's own is left as it is. One of this trace is what a task that is tried again
    was sent with before."""
    try:
        headers = dict(options.get("headers") or {})
        own = headers.get("traceparent")
        if not own or span.trace_id in own:
            headers["traceparent"] = traceparent_of(span)
            if span.tracestate:
                headers["tracestate"] = span.tracestate
            options["headers"] = headers
    except Exception:
        pass


def _end(span: Span, error: BaseException | None, info: Any = None) -> None:
    """``info`` is Celery's word for how a task ended, none where it succeeded."""
    try:
        if span.describe is task_run:
            span.method = "FAILURE" if error is not None else "SUCCESS" if info is None else info.state
        if error is None and span.method == "FAILURE":
            error = info.retval
        if error is not None:
            span.fail(error)
    except Exception:
        pass
    tracer.finish(span)
