"""``vantage alerts``: what fires on a running server, and what people do about it; ``rules`` are files of YAML."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlencode

from vantage.commands import alert_rules, alert_silence
from vantage.commands.client import open_client
from vantage.commands.console import paint
from vantage.commands.grid import grid
from vantage.core.errors import InputError, NotFoundError
from vantage.vql.table import Table, TableColumn

_COLUMNS: Final = (
    ("ID", "id", "int"),
    ("SEVERITY", "severity", "text"),
    ("STATE", "state", "text"),
    ("SINCE", "since", "time"),
    ("RULE", "rule", "text"),
    ("ALERT", "text", "text"),
)
_WIDTH_UNLIMITED: Final = 10_000


def run(arguments: argparse.Namespace) -> int:
    """List alerts, acknowledge or resolve some, or do what ``rules`` says. Raises what the client raises."""
    if arguments.action == "rules":
        return alert_rules.run(arguments)
    if arguments.action == "silence":
        return alert_silence.run(arguments)
    if arguments.action == "list":
        return _list(arguments)
    return _act(arguments)


def _list(arguments: argparse.Namespace) -> int:
    names = ("state", "service", "rule", "severity", "limit")
    query = urlencode({name: getattr(arguments, name) for name in names if getattr(arguments, name)})
    with closing(open_client(arguments)) as client:
        document: dict[str, Any] = client.request(f"/api/alerts?{query}")
    alerts = document["alerts"]
    if arguments.format == "json":
        print(json.dumps(document, indent=2))
        return 0
    if not alerts:
        print("nothing fires" if arguments.state == "open" else "there are no such alerts")
        return 0
    table = Table(
        tuple(TableColumn(title, kind) for title, _, kind in _COLUMNS),  # type: ignore[arg-type]
        tuple([alert[name] for alert in alerts] for _, name, _ in _COLUMNS),
    )
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _WIDTH_UNLIMITED
    for line in grid(table, width=width, paint=lambda text, style: paint(text, style, sys.stdout)):
        print(line)
    if document["before"] is not None:
        print(f"there are more: --limit {arguments.limit * 2}", file=sys.stderr)
    return 0


def _act(arguments: argparse.Namespace) -> int:
    """Acknowledge or resolve each of the alerts, and return 1 if one could not be."""
    verb = "acknowledge" if arguments.action == "ack" else "resolve"
    status = 0
    with closing(open_client(arguments)) as client:
        for alert_id in arguments.ids:
            try:
                alert = client.request(
                    f"/api/alerts/{alert_id}/{verb}", json.dumps({"note": arguments.note or ""}).encode()
                )
            except NotFoundError:
                print(f"{alert_id}: there is no such alert", file=sys.stderr)
                status = 1
            except InputError as error:
                print(f"{alert_id}: {error}", file=sys.stderr)
                status = 1
            else:
                print(f"{alert_id}: {alert['state']}: {alert['rule']}")
    return status
