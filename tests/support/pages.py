"""Pages over stores in memory, without the rest of the application."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.testing import AsyncTestClient

from tests.support.samples import MovedClock
from vantage.core.errors import InputError, NotFoundError, VantageError
from vantage.query.context import QueryContext
from vantage.resources import static_dir, templates_dir
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry
from vantage.web.auth import LOCAL
from vantage.web.render import Renderer
from vantage.web.views import SharedViews

Client = AsyncTestClient[Litestar]
FRAGMENT: Mapping[str, str] = {"HX-Request": "true", "HX-Request-Type": "partial"}


@asynccontextmanager
async def page_context(*, cache_nbytes_max: int = 0) -> AsyncIterator[QueryContext]:
    """Yield a context over empty stores, whose clock stands at ``NOW_MS``."""
    clock = MovedClock()
    async with MemoryMetadataStore(clock) as metadata:
        store = MemoryStore(clock=clock)
        yield QueryContext(store, metadata, clock, Telemetry(), cache_nbytes_max=cache_nbytes_max)


@asynccontextmanager
async def page_client(context: QueryContext, handlers: Sequence[Any], **provided: Any) -> AsyncIterator[Client]:
    """Yield a client of an application that has the handlers. ``provided`` are what they depend on, beside the
    context."""
    renderer = Renderer(templates=templates_dir(), static=static_dir(), clock=context.clock)

    def on_error(request: Any, error: VantageError) -> Any:
        status = 404 if isinstance(error, NotFoundError) else 400 if isinstance(error, InputError) else 500
        return renderer.page(request, "error.html", status=status, title="No", detail=str(error), request_id="r")

    def provide(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    def authorize(request: Any) -> None:
        request.state.principal = LOCAL

    app = Litestar(
        list(handlers),
        dependencies={name: provide(value) for name, value in {"context": context, **provided}.items()},
        state=State({"renderer": renderer, "views": SharedViews(itertools.count().__next__)}),
        before_request=authorize,
        exception_handlers={VantageError: on_error},
        openapi_config=None,
    )
    async with AsyncTestClient(app) as client:
        yield client


def text_of(page: str) -> str:
    """Return the text of a page without its markup, with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
