"""``vantage serve``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vantage import __version__
from vantage.commands.config import load
from vantage.commands.data_folder import make_folder
from vantage.core.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal and return the exit status."""
    from vantage import log, server
    from vantage.app import create_app

    settings = load(arguments).settings
    if (arguments.workers or 1) != 1:
        raise ConfigError("--workers above 1 is not possible on the embedded store: it has one writer")
    if sys.platform == "win32":
        raise ConfigError("the server runs on Linux and macOS")
    log.configure(log_format=settings.log_format, log_level="debug" if settings.debug else settings.log_level)
    app = create_app(settings)
    make_folder(Path(settings.data))  # for keys and deployments, wherever the telemetry is
    listening = server.listen(settings)
    demo: list[Callable[[], None]] = []

    def ready(url: str) -> None:
        print(f"Vantage {__version__} is ready: {url}  (data in {settings.data}, API at {url}/schema)", flush=True)
        if arguments.demo:
            demo.append(_demo_beside(url, settings.api_key))

    try:
        return server.serve(app, settings, listening, ready)
    finally:
        listening.close()
        for stop in demo:
            stop()


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
