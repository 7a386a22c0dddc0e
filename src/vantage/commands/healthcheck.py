"""``vantage healthcheck``."""

from __future__ import annotations

import argparse
from typing import Final

from vantage.commands.client import local_url
from vantage.core.errors import UnavailableError
from vantage.http_client import HttpClient

TIMEOUT_S: Final = 5.0
_PATH: Final = "/health/ready"


def run(arguments: argparse.Namespace) -> int:
    """Return exit status 0 when the server is ready. Raises UnavailableError, InputError for an address that is
    none."""
    url = arguments.url or local_url()
    with HttpClient(url, api_key=None, timeout_s=TIMEOUT_S, follow_redirects=True) as client:
        status = client.request("GET", _PATH).status
        if status >= 400:
            raise UnavailableError(f"{client.url}{_PATH} answered {status}")
    print(f"ready ({status})")
    return 0
