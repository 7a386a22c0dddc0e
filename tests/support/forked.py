"""Programs of Vantage in processes of their own, forked from one that has loaded the modules.

Loading them takes a second of a core, most programs of the tests some tenths. What is forked is a process like any
other, with its own arguments, variables, folder, files and end. Programs that begin with the interpreter are run by
``tests/e2e/test_wheel.py`` and ``tests/e2e/test_readme.py``, among others.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MESSAGE_NBYTES_MAX = 1 << 18
KNOWN_OF_PYTHON = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}  # the interpreter reads the others when it starts
MEASURED = "COVERAGE_PROCESS_START"  # set by coverage, which begins with the interpreter
MODULES = (
    "vantage.cli",
    "vantage.commands.client",
    "vantage.commands.serve",
    "vantage.parts",
    "vantage.app",
    "vantage.server",
    "vantage.vql.text.lower_select",
    "alembic.command",
    # Programs load these only while they start.
    "httpcore2",
    "litestar._kwargs",
    "litestar.exceptions.responses",
    "litestar.middleware.allowed_hosts",
    "litestar.middleware.csrf",
    "litestar.plugins.attrs",
    "litestar.plugins.pydantic",
    "uvicorn.lifespan.off",
    "uvicorn.loops.uvloop",
)


class ForkedProgram(subprocess.Popen[str]):
    """What ``subprocess.Popen([sys.executable, *program])`` is, in text mode. Any thread."""

    def __init__(
        self, program: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, **files: Any
    ) -> None:
        self._status = ""
        super().__init__([sys.executable, *program], env=env, cwd=cwd, text=True, **files)

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """Ask for the process instead of making it. The last arguments of this method of ``Popen`` are the ends of
        the pipes: the child's and own_end of standard input, own_end and the child's of the outputs."""
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = next(
            rest[at : at + 6] for at in range(len(rest) - 5) if all(type(end) is int for end in rest[at : at + 6])
        )
        cwd, env = rest[4], rest[5]
        own_end, child_end = os.pipe()
        self._status_fd = own_end
        request = {"program": list(args[1:]), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        files = [inherited if fd == -1 else fd for fd, inherited in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
        try:
            _forking().request(request, [*files, child_end])
        finally:
            os.close(child_end)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]
        self._child_created = True
        self.pid = int(self._line())

    def _line(self) -> str:
        """Return the next line about the process, when there is one."""
        while "\n" not in self._status:
            piece = os.read(self._status_fd, 64)
            if not piece:
                raise ChildProcessError("the process that forks has ended")
            self._status += piece.decode()
        line, _, self._status = self._status.partition("\n")
        return line

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG:
            with selectors.DefaultSelector() as ready:
                ready.register(self._status_fd, selectors.EVENT_READ)
                if not ready.select(0):
                    return 0, 0
        status = int(self._line())
        os.close(self._status_fd)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def can_fork(program: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a forked program does the same as one with an interpreter of its own."""
    own = {name for name in (*env, *os.environ) if name.startswith("PYTHON") and name not in KNOWN_OF_PYTHON}
    same = all(env.get(name) == os.environ.get(name) for name in own)
    return same and MEASURED not in env and sys.platform == "linux" and program[0] in ("-m", "-c")


def start_program(
    program: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, **files: Any
) -> subprocess.Popen[str]:
    """Start ``python`` with the arguments ``program``, forked where that makes no difference."""
    if can_fork(program, env):
        return ForkedProgram(program, env=env, cwd=cwd, **files)
    return subprocess.Popen([sys.executable, *program], env=env, cwd=cwd, text=True, **files)


class _Forking:
    """The process that forks, one for each worker of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_NBYTES_MAX)
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process with threads must not fork
        with child_end:
            command = [sys.executable, "-m", "tests.support.forked", str(child_end.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=environ, pass_fds=[child_end.fileno()])
        atexit.register(self.close)

    def request(self, request: Mapping[str, Any], files: Sequence[int]) -> None:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], files)

    def close(self) -> None:
        self._channel.close()
        self._process.wait(10)


_started: list[_Forking] = []
_starting = threading.Lock()


def _forking() -> _Forking:
    with _starting:
        if not _started:
            _started.append(_Forking())
        return _started[0]


def serve(channel: socket.socket) -> Callable[[], None]:
    """Fork a process for each request and report its id and, later, how it ended. Return, in a process that was
    forked, what it shall do."""
    with selectors.DefaultSelector() as ready:
        ready.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.data is not None:
                    pid, report = key.data
                    ready.unregister(key.fileobj)
                    os.close(key.fd)
                    os.write(report, f"{os.waitpid(pid, 0)[1]}\n".encode())
                    os.close(report)
                    continue
                message, files, _, _ = socket.recv_fds(channel, MESSAGE_NBYTES_MAX, 4)
                if not message:
                    os._exit(0)  # the run is over
                report = files[3]
                if (pid := os.fork()) == 0:
                    channel.close()
                    os.close(report)
                    for entry in [entry for entry in ready.get_map().values() if entry.data]:
                        os.close(entry.fd)
                        os.close(entry.data[1])
                    return lambda: become(json.loads(message), files[:3])
                os.write(report, f"{pid}\n".encode())
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))
                for fd in files[:3]:
                    os.close(fd)


def become(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Run a program as the interpreter does."""
    for number, fd in enumerate(files):
        os.dup2(fd, number)
    for fd in files:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115 - open until the process ends
    sys.stdout = sys.__stdout__ = _text_output(1, errors="strict", at_once=at_once)
    sys.stderr = sys.__stderr__ = _text_output(2, errors="backslashreplace", at_once=at_once)
    sys.orig_argv = [sys.executable, *request["program"]]  # what a server starts again by
    option, name, *arguments = request["program"]
    sys.argv = [name, *arguments]
    if option == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    sys.argv[0] = "-c"
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(name, "<string>", "exec"), main.__dict__)


def _text_output(fd: int, *, errors: str, at_once: bool) -> TextIOWrapper:
    file = open(fd, "wb", 0 if at_once else -1, closefd=False)  # noqa: SIM115 - open until the process ends
    return TextIOWrapper(file, errors=errors, line_buffering=fd == 2 or os.isatty(fd), write_through=at_once)


def run() -> None:
    for name in MODULES:
        __import__(name)
    # What is loaded stays: a collection in a forked process would look at all of it, and copy its pages by that.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in an interpreter of its own
    serve(socket.socket(fileno=int(sys.argv[1])))()


if __name__ == "__main__":
    run()
