"""Disk usage, as ``vantage doctor`` prints it: from the files, or from a running server's report."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vantage.commands.client import Client, local_url
from vantage.commands.console import print_table
from vantage.config import Settings
from vantage.core.errors import VantageError
from vantage.core.number_format import count, size
from vantage.storage.embedded.offline.folder_reader import FolderContents, ReadOnlyFolder

ROWS_SHOWN: Final = 10
GROWING_SHOWN: Final = 5
_TIMEOUT_S: Final = 3.0
_INDENT: Final = "      "


def show_usage(folder: Path, contents: FolderContents, *, server: Settings | None) -> None:
    """Print the largest metrics. Where a server answers at the address of the settings ``server``, print also the
    series that grow fastest."""
    report = _load_report(server) if server is not None else None
    try:
        if report is not None:
            _show_rows(report["files"], [_cells(*(row[name] for name in _FIELDS)) for row in report["usage"]])
            _show_growing(report["growing"])
            return
        rows, files = ReadOnlyFolder(folder).usage(contents)
        _show_rows(
            files,
            [_cells(row.service, row.metric, row.tier, row.nbytes, row.items, row.series) for row in rows],
        )
    except (sqlite3.Error, KeyError, TypeError):
        return  # damage of the files is reported already; a report of another version cannot be read


def _load_report(settings: Settings) -> Any:
    client = Client(local_url(settings), api_key=settings.api_key or None, timeout_s=_TIMEOUT_S)
    try:
        return client.request("/api/storage")
    except VantageError:
        return None
    finally:
        client.close()


_FIELDS: Final = ("service", "metric", "tier", "bytes", "items", "series")


def _cells(service: str, metric: str, tier: str, nbytes: int, items: int, series: int) -> list[str]:
    # Rollups have no samples, and spans no series.
    return [service, metric, tier, size(nbytes), count(items) if items else "", count(series) if series else ""]


def _show_rows(files: Mapping[str, int], rows: Sequence[list[str]]) -> None:
    sizes = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in files.items())
    if not any(files.values()):
        return
    print(f"{_INDENT}on the disk: {sizes}")
    if rows:
        print_table(["service", "metric", "tier", "size", "items", "series"], rows[:ROWS_SHOWN], indent=_INDENT)


def _show_growing(growing: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [
            series["service"],
            series["metric"],
            " ".join(f"{key}={value}" for key, value in sorted(series["tags"].items())),
            count(series["samples"]),
            "" if series["bytes"] is None else size(series["bytes"]),
        ]
        for series in growing[:GROWING_SHOWN]
    ]
    if rows:
        print(f"{_INDENT}grew most in the last 24 hours:")
        print_table(["service", "metric", "tags", "samples", "size"], rows, indent=_INDENT)
