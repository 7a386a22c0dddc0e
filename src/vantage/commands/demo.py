"""``vantage demo``."""

from __future__ import annotations

import argparse

from vantage.commands.client import client_key, local_url


def run(arguments: argparse.Namespace) -> int:
    """Send the demo's traffic, or delete it."""
    from vantage import demo

    api_key = client_key(arguments)
    if arguments.remove:
        deleted = demo.remove_demo(arguments.url or local_url(), api_key=api_key)
        print(f"removed {deleted.get('samples', 0)} samples and {deleted.get('spans', 0)} spans of the demo")
        return 0
    return demo.run_demo(arguments.url or local_url(), api_key=api_key, once=arguments.once)
