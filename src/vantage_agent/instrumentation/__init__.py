"""The libraries that can be instrumented, each by a file of this folder.

Each file has ``patch(patches, module)``, called when one of its modules has been imported; it imports nothing of the
library itself. ``Instrumentations.uninstall`` restores what it wraps.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from types import ModuleType

from vantage_agent._import_hook import ImportHook
from vantage_agent._patch import Patches

# Name for ``auto_instrument`` -> the modules to patch.
MODULES: dict[str, tuple[str, ...]] = {
    "requests": ("requests.sessions",),
    "httpx": ("httpx",),
    "httpx2": ("httpx2",),
    "urllib3": ("urllib3.connectionpool", "urllib3.poolmanager"),
    "aiohttp": ("aiohttp.client", "aiohttp.client_reqrep"),
    "flask": ("flask.app", "werkzeug.middleware.dispatcher"),
    "fastapi": (
        "fastapi.applications",
        "fastapi.routing",
        "starlette.routing",
        "starlette.responses",
        "starlette._exception_handler",
    ),
    "starlette": (
        "starlette.applications",
        "starlette.routing",
        "starlette.responses",
        "starlette._exception_handler",
    ),
    "litestar": (
        "litestar.app",
        "litestar.middleware._internal.exceptions.middleware",
        "litestar.utils.sync",
    ),
    "django": (
        "django.core.handlers.base",
        "django.core.handlers.exception",
        "django.core.handlers.wsgi",
        "django.core.handlers.asgi",
        "werkzeug.middleware.dispatcher",
    ),
    "sqlalchemy": ("sqlalchemy.engine.base",),
    "sqlite3": ("sqlite3", "django.db.backends.sqlite3.base"),
    "redis": ("redis.client", "redis.asyncio.client", "kombu.transport.redis"),
    "psycopg": ("psycopg",),
    "psycopg2": ("psycopg2",),
    "asyncpg": ("asyncpg.connection", "asyncpg.prepared_stmt"),
    "celery": (
        "celery.app.base",
        "celery.app.trace",
        "celery.worker.consumer.consumer",
        "celery.concurrency.prefork",
    ),
    "logging": ("logging",),
}
# Passes the current span to threads; installed with any of them.
ALWAYS: dict[str, tuple[str, ...]] = {"futures": ("concurrent.futures.thread",)}

_log = logging.getLogger("vantage_agent")


class Instrumentations:
    """Instruments the libraries ``names`` (``all`` for every known one) as soon as the application imports them."""

    def __init__(self, names: Iterable[str]) -> None:
        requested = list(dict.fromkeys(names))
        unknown = sorted(name for name in requested if name not in MODULES and name != "all")
        if unknown:
            _log.warning(
                "vantage_agent cannot instrument %s; it knows %s", ", ".join(unknown), ", ".join(sorted(MODULES))
            )
        selected = {name: modules for name, modules in MODULES.items() if "all" in requested or name in requested}
        if selected:
            selected.update(ALWAYS)
        self._names_of: dict[str, list[str]] = {}
        for name, modules in selected.items():
            for module in modules:
                self._names_of.setdefault(module, []).append(name)
        self._patches = Patches()
        self._watch: ImportHook | None = None
        self.installed: list[str] = []  # names whose libraries were imported

    def install(self) -> None:
        if self._names_of:
            self._watch = ImportHook(tuple(self._names_of), self._patch)
            self._watch.install()

    def uninstall(self) -> None:
        """Restore every library."""
        if self._watch is not None:
            self._watch.uninstall()
            self._watch = None
        self._patches.undo()
        self.installed.clear()

    def _patch(self, module_name: str, module: ModuleType) -> None:
        for name in self._names_of[module_name]:
            self._patch_for(name, module)

    def _patch_for(self, name: str, module: ModuleType) -> None:
        try:
            importlib.import_module(f"{__name__}.{name}").patch(self._patches, module)
            if name not in self.installed:
                self.installed.append(name)
        except Exception as error:
            _log.warning("vantage_agent could not instrument %s: %s: %s", name, type(error).__name__, error)
