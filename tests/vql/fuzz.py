"""Coverage-guided fuzzing of the language, by hand: whatever the text, it is a query or is refused with a reason.

    pip install atheris
    PYTHONPATH=src python tests/vql/fuzz.py -max_total_time=3600 -max_len=4000 CORPUS

``CORPUS`` is a folder, empty at first, in which libFuzzer keeps the texts that reached something new.
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["vantage.vql", "sqlglot"]):
    import vantage.vql.text.lower_select
    import vantage.vql.text.parse  # noqa: F401 - loaded here, to be instrumented
    from vantage.vql.text.compile import compile_condition, compile_query

from vantage.core.errors import QueryError

NOW_MS = 1_795_000_000_000


def try_text(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for run in (compile_query, compile_condition):
        try:
            run(text, now_ms=NOW_MS)
        except QueryError as refused:
            assert refused.reason  # noqa: PT017 - no test of pytest's
            assert refused.line is None or refused.line >= 1  # noqa: PT017


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    atheris.Setup(sys.argv, try_text)
    atheris.Fuzz()
