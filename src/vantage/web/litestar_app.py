"""The Litestar application: everything but ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar, Request, Router
from litestar.config.compression import CompressionConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import CacheControlHeader, State
from litestar.di import Provide
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.static_files import create_static_files_router
from litestar.types import Guard

from vantage.alerting.changes import AlertChanges
from vantage.alerting.notices import Notices
from vantage.core.errors import VantageError
from vantage.query.administration import Administered
from vantage.query.compare import Comparisons
from vantage.query.context import QueryContext
from vantage.query.deletion import Deletion
from vantage.query.deployments import DeploymentReports
from vantage.query.detector_runs import Watched
from vantage.query.live import LiveUpdates
from vantage.query.promotion import Promotion
from vantage.query.saved_queries import SavedQueries
from vantage.roles import Routes
from vantage.telemetry import Telemetry
from vantage.web import exception_handlers, pages
from vantage.web.api import (
    agent_wheel,
    alert_channels,
    alert_noise,
    alert_rules,
    alert_silences,
    alerts,
    anomalies,
    changes,
    checks,
    compare,
    deployments,
    export,
    health,
    health_score,
    live,
    metrics,
    schema,
    service_map,
    services,
    sessions,
    slos,
    storage,
    traces,
    vql,
)
from vantage.web.api import deletion as deletion_api
from vantage.web.api import promotion as promotion_api
from vantage.web.api import saved_queries as saved_queries_api
from vantage.web.authorize import Authorizer, require_scope
from vantage.web.compression import GzipMiddleware
from vantage.web.pages import alert_links
from vantage.web.process_metrics import ProcessMetrics
from vantage.web.pushed_views import PushedViews
from vantage.web.render import Renderer
from vantage.web.streaming import UNCOMPRESSED
from vantage.web.views import SharedViews

REQUEST_NBYTES_MAX = 1 << 20


class _SchemaPage(OpenAPIRenderPlugin):
    """A page to browse the OpenAPI document, without internet access."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(path="/")
        self._renderer = renderer

    def render(self, request: Request[Any, Any, Any], _openapi_schema: dict[str, Any]) -> bytes:
        page = self._renderer.page(request, "schema.html")
        return str(page.content).encode()


class _SchemaDocument(JsonRenderPlugin):
    """The OpenAPI document, with the endpoints that Litestar does not know."""

    def __init__(self) -> None:
        super().__init__()
        self._body = b""

    def render(self, _request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        self._body = self._body or msgspec.json.encode(schema.add_ingest_paths(openapi_schema))
        return self._body


def _only_known(static: Path) -> Guard:
    """Return a guard that lets no path reach the file system but those of files that were there at the start."""
    known = frozenset(path.relative_to(static).as_posix() for path in static.rglob("*") if path.is_file())

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        if str(connection.path_params.get("file_path", "")).lstrip("/") not in known:
            raise NotFoundException

    return guard


def create_litestar(
    *,
    routes: frozenset[Routes],
    context: QueryContext | None,
    deletion: Deletion | None,
    promotion: Promotion | None,
    deployment_reports: DeploymentReports,
    saved_queries: SavedQueries,
    comparisons: Comparisons | None,
    watched: Watched,
    administered: Administered,
    alerting: AlertChanges | None,
    notices: Notices,
    live_updates: LiveUpdates,
    telemetry: Telemetry,
    process_metrics: ProcessMetrics,
    health_checks: health.HealthChecks,
    authorizer: Authorizer,
    renderer: Renderer,
    static: Path,
    version: str,
    websockets_max: int,
    debug: bool,
) -> Litestar:
    """Wire handlers, guards, errors and the OpenAPI document. Reads nothing but the names of static files.

    Without the API ``context`` and ``deletion`` are None, and ``promotion`` where the store is never moved.
    """
    guarded: list[Any] = []
    unguarded: list[Any] = [*health.handlers]
    if Routes.API in routes:
        for resource in (
            alerts,
            alert_noise,
            alert_rules,
            slos,
            checks,
            alert_channels,
            alert_silences,
            anomalies,
            services,
            metrics,
            traces,
            service_map,
            deployments,
            storage,
            deletion_api,
            export,
            vql,
        ):
            guarded += resource.handlers
        guarded += [*saved_queries_api.handlers, *compare.handlers, *health_score.handlers, *changes.handlers]
        if promotion is not None:
            guarded += promotion_api.handlers
        unguarded += [*live.handlers, *checks.unguarded]  # a heartbeat's token is its secret
    if Routes.PAGES in routes:
        guarded += pages.handlers
        unguarded += [*sessions.handlers, *agent_wheel.handlers]  # an installer has no key
        unguarded += alert_links.handlers  # their token is the permission
        unguarded.append(
            create_static_files_router(
                path="/static",
                directories=[static],
                guards=[_only_known(static)],
                include_in_schema=False,
                cache_control=CacheControlHeader(max_age=31_536_000, immutable=True, public=True),
            )
        )

    def provide(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    return Litestar(
        route_handlers=[Router("/", route_handlers=guarded, guards=[require_scope]), *unguarded],
        dependencies={
            "context": provide(context),
            "live": provide(live_updates),
            "telemetry": provide(telemetry),
            "process_metrics": provide(process_metrics),
            "health_checks": provide(health_checks),
            "renderer": provide(renderer),
            "deletion": provide(deletion),
            "promotion": provide(promotion),
            "deployment_reports": provide(deployment_reports),
            "saved_queries": provide(saved_queries),
            "comparisons": provide(comparisons),
            "watched": provide(watched),
            "administered": provide(administered),
            "alerting": provide(alerting),
            "notices": provide(notices),
        },
        exception_handlers={
            VantageError: exception_handlers.on_vantage_error,
            HTTPException: exception_handlers.on_http_exception,
            Exception: exception_handlers.on_any_error,
        },
        openapi_config=OpenAPIConfig(
            title="Vantage",
            version=version,
            description="Metrics and traces: send, query and watch them live.",
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[_SchemaPage(renderer), _SchemaDocument()],
        ),
        compression_config=CompressionConfig(
            backend="gzip", middleware_class=GzipMiddleware, exclude_opt_key=UNCOMPRESSED
        ),
        request_max_body_size=REQUEST_NBYTES_MAX,
        state=State(
            {
                "authorizer": authorizer,
                "renderer": renderer,
                "views": SharedViews(lambda: live_updates.ticks),
                "pushed_views": PushedViews(live_updates),
                "websockets_max": websockets_max,
                "debug": debug,
                "exports": export.OpenExports(),
            }
        ),
        debug=False,
        logging_config=None,
    )
