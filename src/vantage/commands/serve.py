"""``vantage serve``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from vantage import __version__
from vantage.commands.config import load
from vantage.commands.data_folder import make_folder
from vantage.config import Loaded, Settings
from vantage.core.errors import ConfigError

SAME_STOP_S: Final = 0.3  # supervisors signal every process of a group, and the first hands its signal on


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal and return the exit status."""
    from vantage import log, server
    from vantage.app import create_app

    loaded = load(arguments)
    settings = loaded.settings
    if sys.platform == "win32":
        raise ConfigError("the server runs on Linux and macOS")
    log.configure(log_format=settings.log_format, log_level="debug" if settings.debug else settings.log_level)
    if settings.workers > 1:
        return _serve_with_processes(loaded, with_demo=arguments.demo)
    app = create_app(settings, origins=loaded.origins)
    make_folder(Path(settings.data))  # for keys and deployments, wherever the telemetry is
    listening = server.listen(settings)
    demo: list[Callable[[], None]] = []

    def ready(url: str) -> None:
        _say_ready(url, settings)
        if arguments.demo:
            demo.append(_demo_beside(url, settings.api_key))

    with closing(listening):
        try:
            status = server.serve(app, settings, listening, ready)
        finally:
            for stop in demo:
                stop()
        if status is None:
            server.start_again(listening)
    return status


def _say_ready(url: str, settings: Settings) -> None:
    print(f"Vantage {__version__} is ready: {url}  (data in {settings.data}, API at {url}/schema)", flush=True)


def _serve_with_processes(loaded: Loaded, *, with_demo: bool) -> int:
    """Serve the port with several processes."""
    settings = loaded.settings
    from vantage import server
    from vantage.app import create_app
    from vantage.processes import serve_with
    from vantage.web.process_metrics import Siblings

    _check_processes(settings, with_demo=with_demo)
    make_folder(Path(settings.data))
    listening = server.listen(settings)
    sockets = Path(mkdtemp(prefix="vantage-"))
    first = os.getpid()

    def serve(number: int, ready: Callable[[], None]) -> int:
        app = create_app(settings, siblings=Siblings(number, settings.workers, sockets), origins=loaded.origins)
        status = server.serve(app, settings, listening, lambda _url: ready(), same_stop_s=SAME_STOP_S)
        return status or 0  # None only where a promotion ends, which is of one process

    try:
        return serve_with(settings.workers, serve, lambda: _say_ready(server.url_of(settings, listening), settings))
    finally:
        if os.getpid() == first:
            shutil.rmtree(sockets, ignore_errors=True)


def _check_processes(settings: Settings, *, with_demo: bool) -> None:
    """Raise ConfigError when several processes cannot serve."""
    from vantage.storage.clickhouse.server_url import is_server_url

    if with_demo:
        raise ConfigError("--demo is for one process: leave --workers away")
    if settings.role == "worker":
        raise ConfigError("--workers is for the roles ingest and api; of the role worker start any number")
    shared = settings.broker_url and settings.metadata_url and is_server_url(settings.store_url)
    if settings.role == "all" and not shared:
        raise ConfigError(
            "--workers above 1 is not possible on the embedded store, which has one writer: it needs broker_url, "
            "a ClickHouse server as store_url, and metadata_url"
        )


def _demo_beside(url: str, api_key: str) -> Callable[[], None]:
    """Start the demo sender as a process of its own, and return a function that stops it."""
    import subprocess

    command = [sys.executable, "-m", "vantage", "demo", "--url", url]
    environ = {**os.environ, **({"VANTAGE_API_KEY": api_key} if api_key else {})}
    sender = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)

    def stop() -> None:
        sender.terminate()
        try:
            sender.wait(5)
        except subprocess.TimeoutExpired:
            sender.kill()

    return stop
