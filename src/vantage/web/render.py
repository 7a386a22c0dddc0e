"""Render templates: the complete page, or only the block that a fragment request needs.

One URL serves both: htmx sends a header, and responses name it in ``Vary``. Scripts and styles are never inline, so the
pages need no exception in the content security policy.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2_fragments import render_block
from litestar import Request, Response
from litestar_htmx import HTMXDetails
from markupsafe import Markup

from vantage.core import number_format
from vantage.core.clock import Clock
from vantage.core.deployment import REPORTED, Deployment
from vantage.query import thresholds
from vantage.web.api.agent_wheel import WHEEL_NAME
from vantage.web.api.live import HEARTBEAT_S
from vantage.web.edits import MANIPULATION
from vantage.web.sparkline import sparkline
from vantage.web.views import SharedViews, Variables

AnyRequest = Request[Any, Any, Any]
NAV: Final = (
    ("/", "Overview", "overview"),
    ("/map", "Map", "map"),
    ("/explore", "Explore", "explore"),
    ("/vql", "VQL", "vql"),
    ("/traces", "Traces", "traces"),
    ("/compare", "Compare", "compare"),
    ("/anomalies", "Anomalies", "noticed"),
    ("/alerts", "Alerts", "bell"),
    ("/settings", "Settings", "settings"),
    ("/schema", "API", "api"),
)
NAV_WITH_BROKER: Final = (*NAV[:-2], ("/pipeline", "Pipeline", "pipeline"), *NAV[-2:])
FONT_URL: Final = "/static/vendor/inter-latin-5.woff2"  # as the style sheet names it
COLOURS: Final = 10  # classes c0 … c9 of the style sheet
# Values that Python defines for scripts, in an attribute of <body>.
SCRIPT_LIMITS: Final = {
    "heartbeat_s": HEARTBEAT_S,
    "empty_percent_top": thresholds.ERROR_RATIO_CRITICAL * 100,  # the top of a chart of percentages that are all zero
    "colours": COLOURS,
}
_HASH_LENGTH: Final = 12
_HEADERS: Final = {"Cache-Control": "no-cache", "Vary": "HX-Request, Accept"}


async def render(
    request: AnyRequest, template: str, *, block: str = "view", status: int = 200, **context: Any
) -> Response[str]:
    """Render a page, or its ``block`` when htmx requests a fragment, with the application's ``state.renderer``. A large
    page takes seconds: it is rendered in a thread."""
    renderer: Renderer = request.app.state.renderer
    return await asyncio.to_thread(renderer.page, request, template, block=block, status=status, **context)


async def shared_page(
    request: AnyRequest, template: str, read: Callable[[], Coroutine[Any, Any, Variables]], *, block: str = "view"
) -> Response[bytes]:
    """Render a page, or its ``block`` as a fragment, of what ``read`` returns for all who look at the same URL, with
    the application's ``state.views``. A live page that says what it has receives what changed, status 226, or 304.
    Raises what ``read`` raises."""
    renderer: Renderer = request.app.state.renderer
    views: SharedViews = request.app.state.views
    signed_in = _signed_in(request)
    is_fragment = wants_fragment(request)
    has = request.headers.get("if-none-match", "")
    live = request.headers.get("a-im") == MANIPULATION

    def rendered(variables: Variables) -> str:
        return renderer.text(template, is_fragment=is_fragment, block=block, signed_in=signed_in, **variables)

    key = (request.url.path, request.url.query, str(request.base_url), signed_in)
    rendering = await views.read(key, "fragment" if is_fragment else "page", read, rendered, live=live, has=has)
    headers = {**_HEADERS, "ETag": rendering.etag}
    if has == rendering.etag:
        return Response(b"", status_code=304, headers=headers)
    if (edits := rendering.edits.get(has)) is not None:
        return Response(edits, status_code=226, media_type="application/json", headers={**headers, "IM": MANIPULATION})
    body = rendering.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = rendering.gzip
        headers |= {"Content-Encoding": "gzip", "Vary": f"{headers['Vary']}, Accept-Encoding"}
    return Response(body, media_type="text/html; charset=utf-8", headers=headers)


class Renderer:
    """Caches templates and the hashes of static files; one object per process."""

    def __init__(
        self,
        *,
        templates: Path,
        static: Path,
        clock: Clock,
        version: str = "",
        notice: Callable[[], str] = str,
        has_broker: bool = False,
    ) -> None:
        """``notice`` returns what every page says above its contents, '' for nothing. With a broker, the navigation has
        the page of the pipeline."""
        self._static = static
        self._clock = clock
        self._hashes: dict[str, tuple[int, str]] = {}
        self._environment = Environment(
            loader=FileSystemLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "count": number_format.count,
            "rate": number_format.rate,
            "size": number_format.size,
            "ratio": number_format.ratio,
            "quantity": number_format.quantity,
            "duration_ms": number_format.duration_ms,
            "duration_ns": number_format.duration_ns,
            "change": number_format.change,
            "error_level": thresholds.error_level,
            "p95_change_level": thresholds.p95_change_level,
            "ago": self.ago,
            "moment": moment,
            "segment": segment,
            "colour": colour,
        }
        self._environment.globals |= {
            "agent_wheel": WHEEL_NAME,
            "asset": self.asset,
            "font_url": FONT_URL,
            "error_ratio_critical": thresholds.ERROR_RATIO_CRITICAL,
            "is_p95_change_shown": thresholds.is_p95_change_shown,
            "has_broker": has_broker,
            "nav": NAV_WITH_BROKER if has_broker else NAV,
            "notice": notice,
            "sparkline": sparkline,
            "palette": palette,
            "script_limits": msgspec.json.encode(SCRIPT_LIMITS).decode(),
            "query_string": query_string,
            "version": version,
            "is_reported": is_reported,
        }

    def page(
        self, request: AnyRequest, template: str, *, block: str = "view", status: int = 200, **context: Any
    ) -> Response[str]:
        """Render a page, or its ``block`` when htmx requests a fragment, with the variables ``context``."""
        text = self.text(
            template,
            block=block,
            is_fragment=wants_fragment(request),
            **{"status": status, "signed_in": _signed_in(request), **context},
        )
        return html(text, status=status)

    def text(self, template: str, *, is_fragment: bool, block: str = "view", **context: Any) -> str:
        """Return a page, or its ``block`` alone."""
        variables = {"section": "", "status": 200, **context}
        return self.block(template, block, **variables) if is_fragment else self.page_as_string(template, **variables)

    def page_as_string(self, template: str, **context: Any) -> str:
        return self._environment.get_template(template).render(context)

    def block(self, template: str, block: str, **context: Any) -> str:
        return render_block(self._environment, template, block, context)

    def asset(self, name: str) -> str:
        """Return the URL of a static file. It changes with the content, so that browsers may cache it forever."""
        path = self._static / name
        changed_ns = path.stat().st_mtime_ns if path.is_file() else 0
        cached = self._hashes.get(name)
        if cached is None or cached[0] != changed_ns:
            content = path.read_bytes() if changed_ns else b""
            cached = (changed_ns, hashlib.sha256(content).hexdigest()[:_HASH_LENGTH])
            self._hashes[name] = cached
        return f"/static/{quote(name)}?v={cached[1]}"

    def ago(self, at_ms: int) -> Markup:
        """Return ``3 s ago``, which a script updates, with the local time as its title."""
        text = number_format.ago(at_ms, now_ms=self._clock.now_ms())
        return Markup('<time datetime="{}" data-ago="">{}</time>').format(number_format.rfc3339(at_ms), text)


def _signed_in(request: AnyRequest) -> bool:
    """Return whether a session authorized the request, rather than a key."""
    return bool(getattr(request.state.get("principal"), "by_session", False))


def wants_fragment(request: AnyRequest) -> bool:
    """Return whether htmx requests a part of the page, rather than to restore history or a complete body."""
    htmx = HTMXDetails(request)
    return bool(htmx) and not htmx.history_restore_request and request.headers.get("hx-request-type") != "full"


def html(text: str, *, status: int = 200) -> Response[str]:
    """Return an HTML response. No caching, since a page is seconds old; ``Vary`` separates fragments from pages."""
    return Response(
        text,
        status_code=status,
        media_type="text/html",
        headers=dict(_HEADERS),
    )


def moment(at_ms: int) -> Markup:
    """Return a date and time of day; UTC until a script makes it local."""
    return Markup('<time datetime="{}" data-at="{}">{}</time>').format(
        number_format.rfc3339(at_ms), at_ms, number_format.utc(at_ms)
    )


def segment(text: str) -> str:
    """Quote a text as one segment of a path: service names may contain anything but a slash."""
    return quote(text, safe="")


def colour(name: str) -> str:
    """Return the CSS class of a service's colour, the same on every page and in every process."""
    return f"c{hashlib.sha256(name.encode('utf-8', 'replace')).digest()[0] % COLOURS}"


def palette(names: Sequence[str]) -> dict[str, str]:
    """Return a CSS class for each service, distinct while colours last: its own colour, or the next unused."""
    classes: dict[str, str] = {}
    for name in names:
        own = int(colour(name)[1:])
        candidates = (f"c{(own + step) % COLOURS}" for step in range(COLOURS))
        classes[name] = next((c for c in candidates if c not in classes.values()), f"c{own}")
    return classes


def query_string(state: Mapping[str, object], **changed: object) -> str:
    """Return ``?range=1h&…`` from a page's state and changes to it, without empty values; a tuple has several."""
    pairs = [(name, value) for name, value in {**state, **changed}.items() if value not in ("", None, ())]
    return f"?{urlencode(pairs, doseq=True)}" if pairs else "?"


def explore_query(service: str, metric: str, **fields: object) -> dict[str, object]:
    """Return the parameters of Explore's first query; ``fields`` are ``agg``, ``by`` and ``tag``, which may be several.
    The page is at ``/explore``."""
    return {f"a.{name}": value for name, value in {"service": service, "metric": metric, **fields}.items()}


def is_reported(deployment: Deployment) -> bool:
    """Return whether a deployment was reported, rather than detected in the data."""
    return deployment.source == REPORTED
