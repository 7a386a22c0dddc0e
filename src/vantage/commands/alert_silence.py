"""``vantage alerts silence``: silence alerts on a running server, list silences, or end one."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

from vantage.commands.client import open_client
from vantage.commands.console import print_table
from vantage.core.errors import InputError
from vantage.core.number_format import date_time


def run(arguments: argparse.Namespace) -> int:
    """Silence what the options name; with ``--list`` or ``--remove`` list silences or end one. Raises what the client
    raises."""
    with closing(open_client(arguments)) as client:
        if arguments.remove:
            client.request(f"/api/alerts/silences/{arguments.remove}", method="DELETE")
            print(f"silence {arguments.remove} is removed; what still fires is notified")
            return 0
        if arguments.list:
            rows = client.request("/api/alerts/silences")["silences"]
            print_table(
                ["id", "state", "what", "when", "author", "comment"],
                [[str(row["id"]), row["state"], _what(row), _when(row), row["author"], row["comment"]] for row in rows],
            )
            return 0
        saved = client.request("/api/alerts/silences", json.dumps(_body(arguments)).encode())
    print(f"silence {saved['id']} is {saved['state']}: {_what(saved)}, {_when(saved)}")
    return 0


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    entity: dict[str, str] = {}
    for text in arguments.entity:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError("is not like pod=web-*", field="--entity")
        entity[name] = value
    names = ("rule", "service", "severity", "start", "end", "duration", "cron", "timezone", "comment")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    return {**given, "entity": entity}


def _what(row: dict[str, Any]) -> str:
    named = [f"{name}={row[name]}" for name in ("rule", "service", "severity") if row[name]]
    return " ".join([*named, *(f"{name}={text}" for name, text in row["entity"].items())])


def _when(row: dict[str, Any]) -> str:
    if row["active"] is not None:
        return f"until {date_time(row['active']['end'])}"
    if row["coming"]:
        return f"next {date_time(row['coming'][0]['start'])} to {date_time(row['coming'][0]['end'])}"
    return "ended"
