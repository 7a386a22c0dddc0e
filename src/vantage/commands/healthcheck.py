"""``vantage healthcheck``."""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request

from vantage.commands.client import local_url, unchecked_context
from vantage.core.errors import UnavailableError


def run_healthcheck(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the server is ready. Raises UnavailableError."""
    url = (arguments.url or local_url()).rstrip("/") + "/health/ready"
    unchecked = unchecked_context() if url.startswith("https://127.0.0.1:") else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=unchecked) as answer:  # noqa: S310 - the user's own address
            print(f"ready ({answer.status})")
            return 0
    except urllib.error.HTTPError as error:
        raise UnavailableError(f"{url} answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from error
