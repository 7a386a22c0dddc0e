"""The pages people look at, one file a page. ``app`` mounts HANDLERS."""

from __future__ import annotations

from vantage.web.pages import overview

HANDLERS = [*overview.HANDLERS]
