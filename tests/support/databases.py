"""Temporary database servers from the system's packages, empty and on loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.support.environments import cannot
from tests.support.programs import START_TIMEOUT_S, free_port, listening


@contextlib.contextmanager
def running_postgres() -> Iterator[int]:
    """Run PostgreSQL; yield its port. The user is ``vantage`` without a password, the database ``postgres``."""
    # Debian does not add its programs to the path.
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join((*folders, os.environ["PATH"]))
    program, initdb = shutil.which("postgres", path=path), shutil.which("initdb", path=path)
    if program is None or initdb is None:
        cannot("PostgreSQL is not installed")
    user = _ordinary_user()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        make = [initdb, "-A", "trust", "-U", "vantage", "-E", "UTF8", "--no-locale"]
        done = subprocess.run(
            [*make, "--no-sync", "-D", str(folder / "data")], user=user, cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        port = free_port()
        settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"]
        settings += ["fsync=off", "log_min_messages=panic"]
        command = [program, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
        # SIGTERM would wait for connections that a failing test has not closed.
        with listening(command, port, folder=folder, environ={}, user=user, stop=signal.SIGINT):
            # It listens before it accepts queries.
            end_s = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    psycopg.connect(f"postgresql://vantage@127.0.0.1:{port}/postgres").close()
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < end_s, "PostgreSQL does not answer"
                    time.sleep(0.05)
            yield port


@contextlib.contextmanager
def running_redis() -> Iterator[int]:
    """Run Redis, which stores nothing on disk; yield its port."""
    program = shutil.which("redis-server")
    if program is None:
        cannot("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
    with tempfile.TemporaryDirectory() as name, listening(command, port, folder=Path(name), environ={}):
        yield port


def _ordinary_user() -> str | None:
    """Return a user for PostgreSQL, which refuses to run as root; None for the current user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
