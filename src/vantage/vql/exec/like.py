"""LIKE without a regular-expression engine: linear passes over literal pieces, so no pattern can run away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_ANY_ONE: Final = object()
Piece = list[object]  # characters, or _ANY_ONE


def like_matcher(pattern: str) -> Callable[[str], bool]:  # noqa: C901 - a scanner of one character at a time
    r"""Return a test for ``pattern``: ``%`` is any run, ``_`` any one character, ``\`` takes the next one literally."""
    pieces: list[Piece] = [[]]
    taken_literally = False
    for character in pattern:
        if taken_literally:
            pieces[-1].append(character)
            taken_literally = False
        elif character == "\\":
            taken_literally = True
        elif character == "%":
            pieces.append([])
        else:
            pieces[-1].append(_ANY_ONE if character == "_" else character)
    if taken_literally:
        pieces[-1].append("\\")
    head, tail, middle = pieces[0], pieces[-1], [piece for piece in pieces[1:-1] if piece]
    if len(pieces) == 1:
        return lambda text: len(text) == len(head) and _at(text, 0, head)

    def matches(text: str) -> bool:
        if len(text) < len(head) + len(tail) or not _at(text, 0, head):
            return False
        end = len(text) - len(tail)
        if not _at(text, end, tail):
            return False
        position = len(head)
        for piece in middle:  # the leftmost fit is always the best: what follows has the most room
            while position + len(piece) <= end and not _at(text, position, piece):
                position += 1
            if position + len(piece) > end:
                return False
            position += len(piece)
        return True

    return matches


def _at(text: str, position: int, piece: Piece) -> bool:
    return all(want is _ANY_ONE or text[position + i] == want for i, want in enumerate(piece))
