#!/usr/bin/env python3
"""Check the message of a commit: the first line has at most 72 characters, and the second is empty.

Run by the hook of .pre-commit-config.yaml with the file of the message; standard library only.
"""

import sys
from pathlib import Path

SUBJECT_LENGTH_MAX = 72


def subject_problem(message: str) -> str | None:
    """Return what is wrong with the first two lines of a message, or None."""
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if not subject.strip():
        return "the first line is empty: say what changes"
    if len(subject) > SUBJECT_LENGTH_MAX:
        return f"the first line has {len(subject)} characters, at most {SUBJECT_LENGTH_MAX} are allowed: {subject}"
    if len(lines) > 1 and lines[1]:
        return f"the second line must be empty; the body begins on the third: {lines[1]}"
    return None


if __name__ == "__main__":
    problem = subject_problem(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if problem:
        sys.exit(f"commit message: {problem}")
