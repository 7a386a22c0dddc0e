"""The pages people look at, one file a page. ``app`` mounts ``handlers``; ``traces_page`` is called by ``/traces``."""

from __future__ import annotations

from vantage.web.pages import overview, service, trace

handlers = [*overview.handlers, *service.handlers, *trace.handlers]
