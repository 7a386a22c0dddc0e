"""What commands print: tables, notices, and how far something long has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Self

QUIET_S: Final = 2.0  # what is over sooner needs no progress
_TERMINAL_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 10.0


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Columns as wide as their widest cell."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print((indent + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def notice(text: str) -> None:
    """One line on standard error."""
    print(f"vantage: {text}", file=sys.stderr)


class Progress:
    """How far something has come, on standard error, from the third second on: one line that is written over on a
    terminal, a line every ten seconds elsewhere."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._terminal = sys.stderr.isatty()
        self._next_s = monotonic_s() + QUIET_S
        self._width = 0

    def show(self, text: str) -> None:
        """Told as often as one likes."""
        now_s = self._monotonic_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        if self._terminal:
            sys.stderr.write(f"\r{text.ljust(self._width)}")
            self._width = len(text)
        else:
            sys.stderr.write(f"vantage: {text}\n")
        sys.stderr.flush()

    def done(self) -> None:
        """Take the line away again."""
        if self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            sys.stderr.flush()
            self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.done()
