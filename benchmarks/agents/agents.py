"""Install each agent as its own documentation says. Agents send to a server that accepts anything, or drop data just
before it would be sent."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

NAMES = ("none", "hand-made", "vantage", "opentelemetry", "sentry", "elastic", "ddtrace")
_recorded: deque[tuple[float, float, int]] = deque(maxlen=100_000)


def before(agent: str, framework: str, url: str) -> None:
    """Set up an agent before the framework is imported."""
    if agent == "vantage":
        import vantage_agent

        vantage_agent.init_agent("bench", url, auto_instrument=[framework])
    if agent == "sentry":
        import sentry_sdk

        sentry_sdk.init(
            dsn=url.replace("http://", "http://key@") + "/1", traces_sample_rate=1.0, transport=lambda event: None
        )
    if agent == "ddtrace":
        os.environ.update(DD_TRACE_AGENT_URL=url, DD_INSTRUMENTATION_TELEMETRY_ENABLED="false", DD_SERVICE="bench")
        import ddtrace

        ddtrace.patch(**{framework: True})
    if agent == "opentelemetry":
        _opentelemetry()


def after(agent: str, framework: str, target: Any, url: str) -> None:
    """Set up an agent with the application, or the client."""
    if agent == "hand-made":
        _HAND_MADE[framework](target)
    if agent == "opentelemetry":
        _instrument_with_opentelemetry(framework, target)
    if agent == "elastic":
        _elastic(framework, target, url)


def _opentelemetry() -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Dropping(SpanExporter):  # its types may be missing
        def export(self, spans: Any) -> Any:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider())


def _instrument_with_opentelemetry(framework: str, target: Any) -> None:
    import importlib

    module = importlib.import_module(f"opentelemetry.instrumentation.{framework}")
    if framework == "flask":
        module.FlaskInstrumentor().instrument_app(target)
    elif framework == "fastapi":
        module.FastAPIInstrumentor.instrument_app(target)
    elif framework == "requests":
        module.RequestsInstrumentor().instrument()
    else:
        module.HTTPXClientInstrumentor.instrument_client(target)


def _elastic(framework: str, target: Any, url: str) -> None:
    settings = {"SERVER_URL": url, "SERVICE_NAME": "bench", "CENTRAL_CONFIG": False, "CLOUD_PROVIDER": "none"}
    if framework == "flask":
        from elasticapm.contrib.flask import ElasticAPM

        target.config["ELASTIC_APM"] = settings
        ElasticAPM(target)
    elif framework == "fastapi":
        from elasticapm.contrib.starlette import ElasticAPM, make_apm_client

        target.add_middleware(ElasticAPM, client=make_apm_client(settings))
    else:
        raise NotImplementedError("calls are recorded only inside a request")


def _wrap_flask(app: Any) -> None:
    call = app.wsgi_app

    def wrapper(environ: Any, start_response: Any) -> Any:
        began = time.perf_counter()
        status = 0

        def start(text: str, *args: Any) -> Any:
            nonlocal status
            status = int(text[:3])
            return start_response(text, *args)

        try:
            return call(environ, start)
        finally:
            _recorded.append((time.time(), time.perf_counter() - began, status))

    app.wsgi_app = wrapper


def _wrap_fastapi(app: Any) -> None:
    kind = type(app)
    call = kind.__call__

    async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> None:
        began = time.perf_counter()
        status = 0

        def sending(message: Any) -> Any:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await call(self, scope, receive, sending)
        finally:
            _recorded.append((time.time(), time.perf_counter() - began, status))

    kind.__call__ = wrapper


def _wrap_client(client: Any) -> None:
    """Wrap ``Session.send`` or ``Client.send``, which have the same form."""
    kind = type(client)
    send = kind.send

    def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        request.headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        response = send(self, request, **kwargs)
        _recorded.append((time.time(), time.perf_counter() - began, response.status_code))
        return response

    kind.send = wrapper


_HAND_MADE: dict[str, Callable[[Any], None]] = {
    "flask": _wrap_flask,
    "fastapi": _wrap_fastapi,
    "requests": _wrap_client,
    "httpx": _wrap_client,
}
