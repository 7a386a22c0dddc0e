"""Celery: each task that is sent and each that is run, in any kind of pool. Message headers propagate the trace."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vantage_agent._patch import Patches
from vantage_agent._semconv import task_run, task_sent
from vantage_agent._span import Span
from vantage_agent._tracer import traceparent_of, tracer

FLUSH_S = 2.0


def patch(patches: Patches, module: ModuleType) -> None:
    """Patch ``celery.app.base``, ``celery.app.trace``, ``celery.worker.consumer.consumer`` or
    ``celery.concurrency.prefork``."""
    if hasattr(module, "Celery"):
        patches.wrap(module.Celery, "send_task", _make_send)
    elif hasattr(module, "process_destructor"):
        patches.wrap(module, "process_destructor", _make_last)
    else:
        # It may be imported from a module that is instrumented already: each module is wrapped and restored by itself.
        build_tracer = module.build_tracer
        if getattr(build_tracer, "__vantage_agent__", False):
            module.build_tracer = build_tracer.__wrapped__  # type: ignore[attr-defined]
        patches.wrap(module, "build_tracer", _make_build)


def _make_send(send: Any) -> Any:
    def wrapper(self: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        span = _begin(task_sent, "producer", name, None)
        if span is None:
            return send(self, name, *args, **kwargs)
        _inject(span, kwargs)
        try:
            result = send(self, name, *args, **kwargs)
        except BaseException as error:
            _end(span, error)
            raise
        _end(span, None)
        return result

    return wrapper


def _make_build(build: Any) -> Any:
    """Wrap ``build_tracer``, which returns the function that the worker calls for each message of a task."""

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
    """Flush in ``process_destructor``: a process of the pool calls it before it exits without exit hooks."""

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


def _inject(span: Span, options: dict[str, Any]) -> None:
    """Set ``traceparent``, unless the application has set one. One of this trace is that of a retried task, and is
    replaced."""
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
    """End a span. ``info`` is Celery's result of a task, None after success."""
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
