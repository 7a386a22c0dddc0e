"""A table of an answer as lines of text that fit a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from wcwidth import wcswidth, wcwidth

from vantage.vql.table import Table, TableColumn

CELL_WIDTH_MIN: Final = 8
CELL_WIDTH_MAX: Final = 200
_GAP: Final = "  "
_MORE: Final = "…"
_RIGHT: Final = ("int", "float")


def grid(table: Table, *, width: int) -> Iterator[str]:
    """A head, a rule and a line a row, at most ``width`` cells wide. Numbers stand to the right; what is too long ends
    with an ellipsis, the widest columns being cut first. Where not even that fits, a row is a list of its columns."""
    texts = [
        [_text(value, column) for value in values] for column, values in zip(table.columns, table.data, strict=True)
    ]
    heads = [_printable(column.name) for column in table.columns]
    wanted = [
        min(CELL_WIDTH_MAX, max([cells(head), *map(cells, column)])) for head, column in zip(heads, texts, strict=True)
    ]
    room = width - len(_GAP) * (len(wanted) - 1)
    if sum(min(one, CELL_WIDTH_MIN) for one in wanted) > room:
        yield from _lists(heads, texts, width)
        return
    widths = _fit(wanted, room)
    rights = [column.type in _RIGHT for column in table.columns]
    yield _line(heads, widths, rights)
    yield _GAP.join("─" * one for one in widths)
    for row in zip(*texts, strict=True):
        yield _line(row, widths, rights)


def _lists(heads: Sequence[str], texts: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    name_width = min(max(map(cells, heads)), max(1, width // 2))
    for number, row in enumerate(zip(*texts, strict=True), 1):
        yield f"── row {number} ".ljust(width, "─")
        for head, text in zip(heads, row, strict=True):
            yield _line([head, text], [name_width, max(1, width - name_width - len(_GAP))], [False, False])


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return max(0, wcswidth(text))


def rfc3339(at_ms: int) -> str:
    """Such as 2026-11-17T12:00:00.250Z; milliseconds where there are any."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")


def _text(value: Any, column: TableColumn) -> str:
    if value is None:
        return "NULL"
    if column.type == "time":
        return rfc3339(int(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, dict):
        return _printable(json.dumps(value, ensure_ascii=False))
    return _printable(str(value))


def _printable(text: str) -> str:
    """No letter that moves the cursor or has no width of its own to be counted by."""
    return "".join(letter if wcwidth(letter) >= 0 else "\ufffd" for letter in text)


def _fit(wanted: Sequence[int], room: int) -> list[int]:
    """Widths that fit: the widest columns share what is left by the others."""
    widths = list(wanted)
    while sum(widths) > room and max(widths) > CELL_WIDTH_MIN:
        widest = max(widths)
        second = max([one for one in widths if one < widest], default=CELL_WIDTH_MIN)
        places = [place for place, one in enumerate(widths) if one == widest]
        excess = sum(widths) - room
        target = max(CELL_WIDTH_MIN, second, widest - -(-excess // len(places)))
        target = min(target, widest - 1)
        for place in places:
            widths[place] = target
    return widths


def _line(texts: Sequence[str], widths: Sequence[int], rights: Sequence[bool]) -> str:
    shown = []
    for text, width, right in zip(texts, widths, rights, strict=True):
        cut = _cut(text, width)
        space = " " * (width - cells(cut))
        shown.append(space + cut if right else cut + space)
    return _GAP.join(shown).rstrip()


def _cut(text: str, width: int) -> str:
    if cells(text) <= width:
        return text
    kept, taken = [], 0
    for letter in text:
        taken += max(0, wcwidth(letter))
        if taken > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + _MORE
