"""An ASGI application without a framework: `uvicorn examples.any_asgi:app`."""

from typing import Any

from vantage_agent import init_agent, instrument_asgi

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


app = instrument_asgi(application)
