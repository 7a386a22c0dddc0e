"""The pieces of a stream that a framework takes one by one, each in a thread with a copy of the context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vantage_agent._context import Pieces
from vantage_agent._span import Span


class Stream:
    """An iterator in which spans stay open from piece to piece. ``span`` runs around all of it."""

    def __init__(self, iterable: Iterable[Any], span: Span) -> None:
        self._iterable = iterable
        self._pieces = Pieces(span)
        self._iterator: Iterator[Any] | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        self._pieces.enter()
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            return next(self._iterator)
        finally:
            self._pieces.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterable, name)
