"""Pages for people, one file each. ``litestar_app`` mounts ``handlers``; ``/traces`` calls ``traces_page``."""

from __future__ import annotations

from vantage.web.pages import explore, overview, pipeline, service, trace

handlers = [*overview.handlers, *explore.handlers, *service.handlers, *pipeline.handlers, *trace.handlers]
