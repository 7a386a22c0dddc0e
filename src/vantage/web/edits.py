"""What changed between two renderings of a view, so that a tab that has the one gets no more than it lacks.

Responses are deltas in the sense of RFC 3229: a tab names what it has by its entity tag (``If-None-Match``) and that it
understands our edits (``A-IM: edits``), and receives them with the status 226.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
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
    changes: list[Edit] = []
    old_start = new_start = 0
    for old_end, new_end in (*_anchors(old, new), (len(old), len(new))):
        changes += _edits_between(old_start, old[old_start:old_end], new[new_start:new_end])
        old_start, new_start = old_end + 1, new_end + 1
    return changes


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of positions that ascend in both texts, of lines that each of them has once: the longest such list,
    as Bram Cohen's patience diff finds it."""
    old_counts, new_counts = Counter(old), Counter(new)
    position = {line: j for j, line in enumerate(new) if new_counts[line] == 1}
    pairs = [(i, position[line]) for i, line in enumerate(old) if old_counts[line] == 1 and line in position]
    ends: list[int] = []  # of each length of list, the least position in ``new`` at which one can end
    last: list[int] = []  # the pair that is there
    before = [-1] * len(pairs)
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(ends, j)
        ends[length : length + 1] = [j]
        last[length : length + 1] = [number]
        before[number] = last[length - 1] if length else -1
    chosen: list[tuple[int, int]] = []
    number = last[-1] if last else -1
    while number >= 0:
        chosen.append(pairs[number])
        number = before[number]
    return chosen[::-1]


def _edits_between(line: int, old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    """Return the edits of lines between two anchors, the first of which is ``line`` of the old text."""
    if len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True), line)
        return [_edit(number, *pair) for number, pair in pairs if pair[0] != pair[1]]
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    return [(line + start, len(old) - end - start, new[start : len(new) - end])]


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
