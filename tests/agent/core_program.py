"""A program that uses the core of the agent, for any Python the agent supports: run it with the receiver's URL.

It asserts what it can see itself; ``test_versions.py`` looks at what it has sent. Only the standard library is there.
"""

# mypy: disable-error-code="no-untyped-def,union-attr"

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import vantage_agent as v
from vantage_agent._context import running


@v.span("function")
@v.timer("function.time")
def function(number):
    with v.span("inside"):
        return number


@v.span("coroutine")
async def coroutine():
    await asyncio.sleep(0)
    with v.span("inside"):
        return 1


@v.span("generator")
def generator():
    for number in range(3):
        with v.span("inside"):
            pass
        yield number


@v.span("async generator")
async def async_generator():
    for number in range(3):
        with v.span("inside"):
            pass
        yield number


class Methods:
    @v.span("static")
    @staticmethod
    def static():
        return 1

    @v.span("class")
    @classmethod
    def of_class(cls):
        return cls


@v.span("block")
@contextlib.contextmanager
def block():
    yield 1


async def asynchronous():
    assert await coroutine() == 1
    async for _ in async_generator():
        assert running() is None
    async for _ in async_generator():
        break
    task = asyncio.ensure_future(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_asyncgens()


async def cancelled():
    with v.span("cancelled"):
        await asyncio.Event().wait()


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise KeyError("behind")
    start_response("200 OK", [])

    def pieces():
        with v.span("pieces"):
            for _ in range(3):
                with v.span("piece"):
                    pass
                yield b"x"

    return pieces()


def requests():
    app = v.instrument_wsgi(wsgi)
    assert b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)) == b"xxx"
    left = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    next(left)
    left.close()
    assert running() is None
    with contextlib.suppress(KeyError):
        app({"REQUEST_METHOD": "GET", "PATH_INFO": "/fails"}, lambda *_: None)
    assert running() is None


def forks():
    with v.span("forking"):
        pid = os.fork()
        if not pid:
            assert running() is None
            with v.span("child"):
                pass
            v.record_metric("total", 1, metric_type="cumulative")
            v.shutdown()
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def main():
    v.init_agent("s", sys.argv[1], auto_instrument="all", flush_interval_s=600)
    assert function(1) == 1
    assert list(generator()) == [0, 1, 2]
    for _ in generator():
        break
    assert (Methods.static(), Methods().static(), Methods.of_class()) == (1, 1, Methods)
    with block() as value:
        assert (value, running().name) == (1, "block")
    asyncio.run(asynchronous())
    requests()
    forks()
    with v.span("outer"), ThreadPoolExecutor(1) as pool:
        pool.submit(function, 2).result()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("SELECT 1")
    v.record_metric("total", 1, metric_type="cumulative")
    assert v.flush(10)
    v.shutdown()
    v.init_agent("s", sys.argv[1], flush_interval_s=600, runtime_metrics=False)
    v.counter("last")
    threading.Thread(target=v.counter, args=("last",)).start()
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
