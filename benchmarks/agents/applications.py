"""The smallest application of each framework, called in process: without a socket, the agent's share is visible."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

Calls = Callable[[int], None]


def flask() -> tuple[Any, Calls]:
    """Return a Flask application and a function that calls it ``count`` times, as a server would."""
    from flask import Flask

    app = Flask("bench")

    @app.get("/users/<int:user_id>")
    def user(user_id: int) -> str:
        return "ok"

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        return None

    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/users/7", "QUERY_STRING": "", "SERVER_NAME": "api",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "api",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO(), "wsgi.multithread": True,
        "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip

    def calls(count: int) -> None:
        for _ in range(count):
            response: Any = app({**environ, "wsgi.input": io.BytesIO()}, start_response)
            for _ in response:
                pass
            response.close()

    return app, calls


def fastapi() -> tuple[Any, Calls]:
    """Return the same for FastAPI, in one event loop."""
    from fastapi import FastAPI
    from starlette.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/users/{user_id}")
    async def user(user_id: int) -> PlainTextResponse:
        return PlainTextResponse("ok")

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/users/7", "raw_path": b"/users/7", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"api")], "client": ("10.0.0.1", 1), "server": ("api", 80),
    }  # fmt: skip
    loop = asyncio.new_event_loop()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        return None

    async def many(count: int) -> None:
        for _ in range(count):
            await app(dict(scope), receive, send)

    return app, lambda count: loop.run_until_complete(many(count))


def requests() -> tuple[Any, Calls]:
    """Return a session whose adapter responds by itself."""
    from requests import Response, Session
    from requests.adapters import BaseAdapter

    class LocalAdapter(BaseAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            response = Response()
            response.status_code = 200
            response.url = request.url
            response.request = request
            response.raw = io.BytesIO(b"ok")
            return response

        def close(self) -> None:
            pass

    session = Session()
    session.trust_env = False
    session.mount("http://", LocalAdapter())

    def calls(count: int) -> None:
        for _ in range(count):
            session.get("http://payments:8080/charges/7")

    return session, calls


def httpx() -> tuple[Any, Calls]:
    """Return a client whose transport has a pool that responds by itself: agents wrap the client or the transport."""
    import httpcore
    from httpx import Client, HTTPTransport

    class Pool:
        def handle_request(self, request: Any) -> Any:
            return httpcore.Response(200, content=b"ok")

        def close(self) -> None:
            pass

    transport: Any = HTTPTransport()
    transport._pool = Pool()
    client = Client(transport=transport, trust_env=False)

    def calls(count: int) -> None:
        for _ in range(count):
            client.get("http://payments:8080/charges/7")

    return client, calls


FRAMEWORKS: dict[str, Callable[[], tuple[Any, Calls]]] = {
    "flask": flask,
    "fastapi": fastapi,
    "requests": requests,
    "httpx": httpx,
}
SERVERS = ("flask", "fastapi")
