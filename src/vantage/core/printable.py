"""Text that a terminal shows as it is. Parses on any Python: the command line needs it to say what is missing."""

from __future__ import annotations

import re

# Controls, line and paragraph separators, marks that reorder what follows, and halves of letters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with U+FFFD in place of what moves the cursor, ends the line or reorders it."""
    return _UNPRINTABLE.sub("\ufffd", text)
