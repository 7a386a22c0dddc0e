"""What changed between two renderings of a view, so that a tab that has the one gets no more than it lacks.

Responses are deltas in the sense of RFC 3229: a tab names what it has by its entity tag (``If-None-Match``) and that it
understands our edits (``A-IM: edits``), and receives them with the status 226.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

MANIPULATION: Final = "edits"
_BEYOND_UTF16: Final = "\U00010000"  # from here on, a script counts two where Python counts one
_encode: Final = msgspec.json.Encoder().encode

# Lines are counted from 0. Of a line: [line, characters to keep at its start, at its end, text between them].
# Of lines: [line, lines to remove, lines to insert].
LineEdit = tuple[int, int, int, str]
LinesEdit = tuple[int, int, Sequence[str]]
Edit = LineEdit | LinesEdit


def edits(old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    """Return what makes the lines ``new`` of the lines ``old``: to be applied from the last to the first."""
    if len(old) == len(new):
        return [_edit(line, *pair) for line, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    return [(start, len(old) - end - start, new[start : len(new) - end])]


def encode_edits(old: str, new: str) -> bytes | None:
    """Return the edits that make ``new`` of ``old`` as JSON, or None when they would not save much."""
    changes = edits(old.split("\n"), new.split("\n"))
    body = _encode({"length": _utf16_length(new), "edits": changes})
    return body if len(body) * 2 < len(new) else None


def applied(old: str, changes: Sequence[Any]) -> str:
    """Return what the edits make of a text; the twin of the script's function."""
    lines = old.split("\n")
    for line, *change in reversed(changes):
        if len(change) == 3:
            before, after, text = change
            lines[line] = lines[line][:before] + text + lines[line][len(lines[line]) - after :]
        else:
            removed, inserted = change
            lines[line : line + removed] = inserted
    return "\n".join(lines)


def _edit(line: int, old: str, new: str) -> Edit:
    if max(old, default="") >= _BEYOND_UTF16 or max(new, default="") >= _BEYOND_UTF16:
        return (line, 1, [new])
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    return (line, start, end, new[start : len(new) - end])


def _alike(left: Sequence[str], right: Sequence[str]) -> int:
    """Return how many items at the start are the same."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
