"""Temporary database servers from the system's packages, empty and on loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg

from tests.support.environments import cannot
from tests.support.programs import STOP_TIMEOUT_S, free_port
from tests.support.wait import wait_until


class DatabaseServer:
    """A program that listens on a port of its own, with its children; it can be killed, paused and started again."""

    def __init__(self, command: Sequence[str], port: int, *, folder: Path, user: str | None = None) -> None:
        self._command, self._user = command, user
        self.folder, self.port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the port is open."""
        self._process = subprocess.Popen(self._command, cwd=self.folder, user=self._user)
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._command[0]} ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        """End it as a power cut would: on return none of its processes is left."""
        self._signal(signal.SIGSTOP)  # so that it starts no other
        children = self._children()
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT_S)
        wait_until(lambda: not any(_is_alive(child) for child in children))

    def pause(self) -> None:
        """Stop it in a state in which connections are accepted and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            # SIGTERM would make PostgreSQL wait for connections that a failing test has not closed.
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_TIMEOUT_S)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = self._children()
        self._process.send_signal(number)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    def _children(self) -> list[psutil.Process]:
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # which nobody may collect
    except psutil.NoSuchProcess:
        return False


class PostgresServer(DatabaseServer):
    """PostgreSQL. The user is ``vantage`` without a password."""

    def start(self) -> None:
        """Start, and wait until it accepts queries: it listens before."""
        super().start()
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        return f"postgresql://vantage@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements, each committed at once; return the rows of the last."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    def new_database(self) -> str:
        """Create an empty database; return its name."""
        name = f"test_{secrets.token_hex(4)}"
        self.run(f"CREATE DATABASE {name}")
        return name


@contextlib.contextmanager
def postgres_server(*, certificate: tuple[Path, Path] | None = None) -> Iterator[PostgresServer]:
    """Run PostgreSQL on an empty folder. ``certificate`` are the files of one and of its key, for TLS."""
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
        if certificate is not None:
            for source, setting in zip(certificate, ("ssl_cert_file", "ssl_key_file"), strict=True):
                copy = folder / source.name
                shutil.copyfile(source, copy)
                copy.chmod(0o600)
                if user is not None:
                    shutil.chown(copy, user)
                settings.append(f"{setting}={copy}")
            settings.append("ssl=on")
        command = [program, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
        server = PostgresServer(command, port, folder=folder, user=user)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_postgres() -> Iterator[int]:
    """Run PostgreSQL; yield its port. The user is ``vantage`` without a password, the database ``postgres``."""
    with postgres_server() as server:
        yield server.port


@contextlib.contextmanager
def redis_server(*options: str, certificate: tuple[Path, Path] | None = None) -> Iterator[DatabaseServer]:
    """Run Redis, which stores nothing on disk. ``certificate`` are the files of one and of its key: TLS alone."""
    program = shutil.which("redis-server")
    if program is None:
        cannot("redis-server is not installed")
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning", *options]
    if certificate is None:
        command += ["--port", str(port)]
    else:
        pem, key = map(str, certificate)
        command += ["--port", "0", "--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", key]
        command += ["--tls-auth-clients", "no"]
    with tempfile.TemporaryDirectory() as name:
        server = DatabaseServer(command, port, folder=Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_redis() -> Iterator[int]:
    """Run Redis, which stores nothing on disk; yield its port."""
    with redis_server() as server:
        yield server.port


def _ordinary_user() -> str | None:
    """Return a user for PostgreSQL, which refuses to run as root; None for the current user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
