"""Output of commands: tables, notices, colours and progress. What is written to no terminal is plain text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from vantage.core.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

QUIET_S: Final = 2.0  # what is over sooner needs no progress
_TERMINAL_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 10.0
_UNLIMITED: Final = 1 << 20  # cells of a line that goes to no terminal


def paint(text: str, style: str, stream: TextIO) -> str:
    """Return the text in a style of rich, such as ``bold red``, where the stream shows styles."""
    if not _is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    from rich.style import Style

    return Style.parse(style).render(text)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Print columns as wide as their widest cell. On a terminal, cells are folded to fit it; nothing is cut off."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    terminal = _is_terminal(sys.stdout)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    no_style = bool(os.environ.get("NO_COLOR")) or not terminal
    console = Console(
        force_terminal=terminal,
        width=None if terminal else _UNLIMITED,
        color_system=None if no_style else "auto",
        highlight=False,
    )
    with console.capture() as capture:
        console.print(Padding(table, (0, 0, 0, len(indent)), expand=False))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def notice(text: str) -> None:
    """Print one line on standard error."""
    print(f"vantage: {printable(text)}", file=sys.stderr)


class Progress:
    """Progress of something long, on standard error, from the third second on: one line that changes on a terminal, a
    line every ten seconds elsewhere."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._terminal = _is_terminal(sys.stderr)
        self._next_s = monotonic_s() + QUIET_S
        self._bar: ProgressBar | None = None
        self._task: Any = None

    def show(self, text: str, *, share: float | None = None) -> None:
        """Show a state, as often as the caller likes; with the share that is done, also as a bar."""
        now_s = self._monotonic_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        if not self._terminal:
            sys.stderr.write(f"vantage: {printable(text)}\n")
            sys.stderr.flush()
            return
        if self._bar is None:
            self._bar = _open_bar(has_share=share is not None)
            self._task = self._bar.add_task("", total=1.0)
        self._bar.update(self._task, description=printable(text), completed=share or 0)

    def done(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.done()


def _open_bar(*, has_share: bool) -> ProgressBar:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    columns: list[progress.ProgressColumn] = [progress.SpinnerColumn()]
    if has_share:
        columns += [progress.BarColumn(), progress.TaskProgressColumn()]
    text = Column(no_wrap=True, overflow="ellipsis")
    columns.append(progress.TextColumn("{task.description}", markup=False, table_column=text))
    console = Console(stderr=True, force_terminal=True, color_system=None if os.environ.get("NO_COLOR") else "auto")
    # Standard output may be the data itself.
    bar = progress.Progress(*columns, console=console, transient=True, redirect_stdout=False)
    bar.start()
    return bar


def _is_terminal(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that moves its cursor and shows styles. The variables that force
    colours into a pipe are not consulted: a pipe is read by programs."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
