"""A real ClickHouse server, empty and on loopback, with its native protocol and HTTP.

Its program is the library of ClickHouse in an npm package, which opens the server's own ports. It differs from a
packaged server: it has no CREATE USER and no replicated tables, its database ``default`` cannot be used, and a login
that the native protocol refuses ends the process after the answer.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.environments import cannot
from tests.support.npm_package import file_of_package
from tests.support.programs import STOP_TIMEOUT_S, free_port
from tests.support.wait import wait_until

PACKAGE = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1"
# The query reads standard input to its end: the server lives as long as the pipe from its parent.
RUN = """
import ctypes, os, sys
class Result(ctypes.Structure):
    _fields_ = [("buf", ctypes.c_void_p), ("len", ctypes.c_size_t), ("vec", ctypes.c_void_p),
                ("elapsed", ctypes.c_double), ("rows", ctypes.c_uint64), ("bytes", ctypes.c_uint64),
                ("error", ctypes.c_char_p)]
run = ctypes.CDLL(sys.argv[1]).query_stable_v2
run.restype = ctypes.POINTER(Result)
# It first loads its tables: a login to a database that is not loaded yet would end the process.
query = ("SELECT count() FROM system.tables FORMAT Null; SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; "
         "SELECT 1 FROM file('/dev/stdin', LineAsString) FORMAT Null")
argv = [text.encode() for text in ("clickhouse", *sys.argv[2:], "--query", query)]
result = run(len(argv), (ctypes.c_char_p * len(argv))(*argv))
if result and result.contents.error:
    print(result.contents.error.decode(errors="replace"), file=sys.stderr, flush=True)
os._exit(0)
"""


def library() -> Path:
    """Return ClickHouse's library."""
    if sys.platform != "linux":
        cannot("a ClickHouse server needs Linux")
    return file_of_package(PACKAGE, "libchdb.so", "clickhouse")


class ClickHouseServer:
    """A server on a data folder, which keeps its ports; ``config`` is a file of settings in ClickHouse's XML."""

    def __init__(self, folder: Path, *, config: Path | None = None) -> None:
        self._library = library()
        self._folder = folder
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.http_port = free_port(), free_port()

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = [
            f"--path={self._folder / 'store'}",
            "--listen_host=127.0.0.1",
            f"--tcp_port={self.port}",
            f"--http_port={self.http_port}",
            "--logger.console=1",
            "--log-level=warning",
        ]
        if self._config is not None:
            options.append(f"--config-file={self._config}")
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(self._library), *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"ClickHouse ended:\n{self.log()}"
        return self.answers()

    def answers(self) -> bool:
        """Return whether the server accepts queries."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/ping", timeout=2) as answer:
                return answer.read() == b"Ok.\n"
        except OSError:
            return False

    def revive(self) -> None:
        """Start it again if it ended by itself: this build aborts when a client dies in the middle of an insert."""
        if self._process is not None and self._process.poll() is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self.start()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def query(self, text: str) -> str:
        """Run a statement over HTTP, beside any client under test; return its result as tab-separated text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/", data=text.encode())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                result: str = answer.read().decode()
                return result.rstrip("\n")
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def new_database(self) -> str:
        """Return the URL of a database of a new name, which does not exist yet."""
        self.revive()
        return f"clickhouse://default@127.0.0.1:{self.port}/test_{secrets.token_hex(4)}"

    def log(self) -> str:
        """Return the end of the server's log."""
        return (self._folder / "server.log").read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def running_clickhouse(*, config: Path | None = None, within: Path | None = None) -> Iterator[ClickHouseServer]:
    """Run a server on an empty folder, ``within`` another if that is given."""
    with tempfile.TemporaryDirectory(dir=within) as name:
        server = ClickHouseServer(Path(name), config=config)
        server.start()
        try:
            yield server
        finally:
            server.kill()  # its data is deleted: nothing needs to be closed in order
