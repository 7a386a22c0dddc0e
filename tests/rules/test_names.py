"""Names and sentences use the field's words: a list of names and phrases that are not used, with what to write."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.rules.test_tree import committed

ROOT = Path(__file__).resolve().parents[2]
# A name that says neither what a value is nor what a function does, and names that do.
NAMES = {
    "anew": "again",
    "asked": "query, requests",
    "came": "received",
    "forgotten": "deleted",
    "found": "the result: points, rows, series",
    "gone": "deleted, expired",
    "held": "cached, locked, nbytes",
    "kept": "stored, cached",
    "lately": "last_hours",
    "looked": "checked, read",
    "mine": "own",
    "one": "the element: series, row, span",
    "place": "index, position, offset",
    "settled": "final",
    "shelf": "segment_files",
    "some": "the element: block, rows",
    "taken": "removed, elapsed",
    "theirs": "expected",
    "thing": "item",
    "things": "items",
    "told": "reported, recorded",
    "whole": "complete, integer",
}
PHRASES = {
    "anew": "again",
    "are told": "are listed, are reported",
    "is had": "is available",
    "is no duration": "is not a duration",
    "is told": "is reported, is recorded",
    "in vain": "without a result",
    "let go": "delete, release",
    "letting go": "deleting",
    "passed over": "skipped",
    "put aside": "quarantined",
    "tells of": "reports",
    "to be had": "available",
    "told of": "notified of",
    "was told": "was reported",
    "whoever": "the caller, the reader",
    "whom": "callers, callees",
}
PROSE_SUFFIXES = {".css", ".html", ".js", ".md", ".py", ".sql", ".toml"}
# The words may stand on two lines of a comment.
PHRASE = re.compile(r"\b(" + "|".join(r"[\s#]+".join(phrase.split()) for phrase in PHRASES) + r")\b", re.IGNORECASE)


def retired_names(text: str) -> list[tuple[int, str]]:
    """Line and name of every variable, parameter, attribute, function and class of Python code that is on the list."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.append((node.lineno, name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.append((node.lineno, name))
    return [(line, name) for line, name in names if name.strip("_").lower() in NAMES]


def retired_phrases(text: str) -> list[tuple[int, str]]:
    """Line and phrase of everything on the list."""
    return [
        (text.count("\n", 0, match.start()) + 1, " ".join(re.split(r"[\s#]+", match.group().lower())))
        for match in PHRASE.finditer(text)
    ]


def sources(*suffixes: str) -> list[Path]:
    """Committed files with any of the suffixes, without this one."""
    return [path for path in committed(ROOT) if path.suffix in suffixes and path != Path(__file__).resolve()]


def test_no_name_is_on_the_list() -> None:
    paths = sources(".py")
    assert paths
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}: say {NAMES[name.strip('_').lower()]}"
        for path in paths
        for line, name in retired_names(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_sentence_has_a_phrase_on_the_list() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {phrase}: say {PHRASES[phrase]}"
        for path in sources(*PROSE_SUFFIXES)
        for line, phrase in retired_phrases(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "for one in rows: pass",
        "def told(): pass",
        "def f(*, kept): pass",
        "self._held = 1",
        "class Shelf: pass",
    ],
)
def test_a_retired_name_is_noticed(code: str) -> None:
    assert len(retired_names(code)) == 1


def test_a_name_that_only_reads_or_contains_one_is_allowed() -> None:
    assert retired_names("first_found = rows.found + len(one_row)") == []


def test_a_retired_phrase_is_noticed_across_lines() -> None:
    assert retired_phrases("# Segments are\n# fine. They are put\n#  aside by a reader, to be had later.") == [
        (2, "put aside"),
        (3, "to be had"),
    ]
