"""Third-party servers, in processes of their own on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(
    command: Sequence[str],
    port: int,
    *,
    folder: Path,
    environ: Mapping[str, str],
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """Run a program that listens on ``port``, and end it as a supervisor would."""
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environ}, user=user)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{' '.join(command)} ended"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        process.wait(STOP_TIMEOUT_S)
