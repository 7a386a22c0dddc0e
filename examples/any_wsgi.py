"""A WSGI application without a framework: `gunicorn examples.any_wsgi:app`."""

from collections.abc import Iterable
from typing import Any

from vantage_agent import init_agent, instrument_wsgi

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000")


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


app = instrument_wsgi(application)
