"""Exceptions of spans, by OpenTelemetry's names: type, message and stack trace, without any local variable.

Noted in the application's thread without a reference to its frames, and written in the exporter's.
https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
"""

from __future__ import annotations

import linecache
from types import TracebackType

MESSAGE_LENGTH_MAX = 1000
STACKTRACE_LENGTH_MAX = 2048  # the server's limit of an attribute
FRAMES_MAX = 30  # of each exception, the innermost
CHAINED_MAX = 4  # exceptions: the one recorded, and those it was raised from or in
_CUT = "…\n"

Frame = tuple[str, int, str]  # file, line, function
_Chained = tuple[str, str, "list[Frame]", str]  # type, message, frames, the sentence that leads to the next

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


class RecordedException:
    """A type, a message and the places that the exception came through."""

    __slots__ = ("_chain", "message", "type")

    def __init__(self, error: BaseException) -> None:
        self.type = type_name(error)
        self.message = _message(error)
        self._chain = _chain(error)

    @property
    def nbytes(self) -> int:
        """Estimated memory. The names of files and functions are the code's."""
        return 500 + sum(len(message) + 150 * len(frames) for _, message, frames, _ in self._chain)

    def attributes(self) -> dict[str, str]:
        return {
            "exception.type": self.type,
            "exception.message": self.message,
            "exception.stacktrace": self._stacktrace(),
        }

    def _stacktrace(self) -> str:
        """Return what Python prints, without its outermost frames where that is too long."""
        parts = [[_line(*frame) for frame in frames] for _, _, frames, _ in self._chain]
        is_cut = [False] * len(parts)
        text = self._text(parts, is_cut)
        while len(text) > STACKTRACE_LENGTH_MAX and any(parts):
            longest = max(range(len(parts)), key=lambda index: len(parts[index]))
            del parts[longest][0]
            is_cut[longest] = True
            text = self._text(parts, is_cut)
        return text if len(text) <= STACKTRACE_LENGTH_MAX else _CUT + text[len(_CUT) - STACKTRACE_LENGTH_MAX :]

    def _text(self, parts: list[list[str]], is_cut: list[bool]) -> str:
        text = ""
        for (kind, message, _, link), lines, cut in zip(self._chain, parts, is_cut):
            head = "Traceback (most recent call last):\n" if lines or cut else ""
            text += (
                f"{head}{'  ' + _CUT if cut else ''}{''.join(lines)}{kind}{': ' if message else ''}{message}\n{link}"
            )
        return text


def _chain(error: BaseException) -> list[_Chained]:
    """Return the exceptions as Python prints them, the first cause first."""
    chain: list[_Chained] = []
    seen: set[int] = set()
    link = ""
    now: BaseException | None = error
    while now is not None and id(now) not in seen and len(chain) < CHAINED_MAX:
        seen.add(id(now))
        chain.append((type_name(now), _message(now), _frames(now.__traceback__), link))
        if now.__cause__ is not None:
            now, link = now.__cause__, _CAUSE
        elif now.__suppress_context__:
            break
        else:
            now, link = now.__context__, _CONTEXT
    return chain[::-1]


def _frames(trace: TracebackType | None) -> list[Frame]:
    frames: list[Frame] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        if len(frames) >= 2 * FRAMES_MAX:  # an endless recursion
            del frames[:FRAMES_MAX]
        trace = trace.tb_next
    return frames[-FRAMES_MAX:]


def _line(file: str, number: int, function: str) -> str:
    source = linecache.getline(file, number).strip()
    return f'  File "{file}", line {number}, in {function}\n' + (f"    {source}\n" if source else "")


def _message(error: BaseException) -> str:
    try:
        return str(error)[:MESSAGE_LENGTH_MAX].replace("\0", "\\0")
    except Exception:  # of the application's own
        return ""


def type_name(error: BaseException) -> str:
    """Return the type as tracebacks write it: with its module, unless that is ``builtins``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
