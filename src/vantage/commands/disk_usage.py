"""What takes the space, as ``vantage doctor`` shows it: from the files, or as a running server tells."""

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
_PATIENCE_S: Final = 3.0
_INDENT: Final = "      "


def show_usage(folder: Path, looked: FolderContents, *, ask: Settings | None) -> None:
    """Print the largest metrics; with the settings in ``ask``, and where a server answers at their address, also what
    grows fastest."""
    told = _load_report(ask) if ask is not None else None
    try:
        if told is not None:
            _show_rows(told["files"], [_cells(*(row[name] for name in _FIELDS)) for row in told["usage"]])
            _show_growing(told["growing"])
            return
        rows, files = ReadOnlyFolder(folder).usage(looked)
        _show_rows(
            files,
            [_cells(row.service, row.metric, row.tier, row.nbytes, row.items, row.series) for row in rows],
        )
    except (sqlite3.Error, KeyError, TypeError):
        return  # what is wrong with the files was told already; of another version's answer nothing is known


def _load_report(settings: Settings) -> Any:
    client = Client(local_url(settings), api_key=settings.api_key or None, timeout_s=_PATIENCE_S)
    try:
        return client.request("/api/storage")
    except VantageError:
        return None
    finally:
        client.close()


_FIELDS: Final = ("service", "metric", "tier", "bytes", "items", "series")


def _cells(service: str, metric: str, tier: str, nbytes: int, items: int, series: int) -> list[str]:
    # Rollups hold no samples, and spans no series.
    return [service, metric, tier, size(nbytes), count(items) if items else "", count(series) if series else ""]


def _show_rows(files: Mapping[str, int], rows: Sequence[list[str]]) -> None:
    taken = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in files.items())
    if not any(files.values()):
        return
    print(f"{_INDENT}on the disk: {taken}")
    if rows:
        print_table(["service", "metric", "tier", "size", "items", "series"], rows[:ROWS_SHOWN], indent=_INDENT)


def _show_growing(growing: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [
            one["service"],
            one["metric"],
            " ".join(f"{key}={value}" for key, value in sorted(one["tags"].items())),
            count(one["samples"]),
            "" if one["bytes"] is None else size(one["bytes"]),
        ]
        for one in growing[:GROWING_SHOWN]
    ]
    if rows:
        print(f"{_INDENT}grew most in the last 24 hours:")
        print_table(["service", "metric", "tags", "samples", "size"], rows, indent=_INDENT)
