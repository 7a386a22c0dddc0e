"""The frame of a stack trace that belongs to the application: where an exception comes from, apart from libraries.

Traces of Python have the innermost frame last and, of several exceptions, the one that was recorded last. Those of
JavaScript and of the JVM have both first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

COMPONENTS_MAX: Final = 3  # of a path: the beginning differs from host to host
LINE_LENGTH_MAX: Final = 1000
_PYTHON: Final = re.compile(r'[\s|+]*File "(?P<path>[^"]+)", line (?P<line>\d{1,9})(?:, in (?P<function>.+))?')
_AT: Final = re.compile(
    r"\s*at (?:(?P<function>[^()]+) ?\()?(?P<path>[^()\s][^()]*?):(?P<line>\d{1,9})(?::\d{1,9})?\)?\s*"
)
_OTHER_EXCEPTION: Final = re.compile(r"\s*(?:Caused by:|Suppressed:|\[cause\]:)")
_LIBRARY: Final = re.compile(
    r"/(?:site|dist)-packages/|/lib(?:64)?/python\d|/python[\d.]*/lib/|/node_modules/|^<frozen |^node:|^internal/",
    re.IGNORECASE,
)
_LIBRARY_FUNCTION: Final = re.compile(r"(?:java|javax|jakarta|jdk|sun|kotlin|scala|org\.springframework|org\.apache)\.")
_RELEASE: Final = re.compile(r"[0-9a-f]{7,}|v?\d[\d._-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Frame:
    """``path`` is the end of the file's path, without what differs from one release to the next."""

    path: str
    function: str
    line: int

    @property
    def key(self) -> tuple[str, str]:
        """Return what frames of the same code share: lines move with every change, so that only functions without a
        name are distinguished by them."""
        return self.path, self.function or str(self.line)


def application_frame(stacktrace: str) -> Frame | None:
    """Return the innermost frame that is not of a library, or else the innermost; None where no frame is recognised."""
    lines = [line for line in stacktrace.splitlines() if len(line) <= LINE_LENGTH_MAX]
    innermost_first = _frames(_PYTHON, _last_traceback(lines))[::-1] or _frames(_AT, _first_exception(lines))
    matched = next((frame for frame in innermost_first if not _is_library(frame)), None)
    matched = matched or next(iter(innermost_first), None)
    if matched is None:
        return None
    function = (matched["function"] or "").strip()
    return Frame(_end_of(matched["path"]), "" if function == "<anonymous>" else function, int(matched["line"]))


def _frames(pattern: re.Pattern[str], lines: Sequence[str]) -> list[re.Match[str]]:
    return [match for line in lines if (match := pattern.fullmatch(line))]


def _last_traceback(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines of the exception that was recorded: the last one with a frame."""
    starts = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return next((lines[start:] for start in reversed(starts) if _frames(_PYTHON, lines[start:])), lines)


def _first_exception(lines: Sequence[str]) -> Sequence[str]:
    end = next((number for number, line in enumerate(lines) if _OTHER_EXCEPTION.match(line)), len(lines))
    return lines[:end]


def _is_library(frame: re.Match[str]) -> bool:
    path, function = frame["path"].replace("\\", "/"), frame["function"] or ""
    return bool(_LIBRARY.search(path) or _LIBRARY_FUNCTION.match(function))


def _end_of(path: str) -> str:
    components = [part for part in path.replace("\\", "/").split("/") if part][-COMPONENTS_MAX:]
    releases = [number for number, part in enumerate(components[:-1]) if _RELEASE.fullmatch(part)]
    return "/".join(components[releases[-1] + 1 :] if releases else components)
