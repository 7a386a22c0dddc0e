"""Runs in a Python of its own, with whatever chdb that has: reads statements as JSON, prints what each gave.

``{"before": [text, …], "asked": [[text, {name: value}], …]}`` becomes a list of rows, as lists of texts, or of
``{"error": …}``; nothing of Vantage is imported, so that it runs beside an engine of another age.
"""

import json
import sys
import tempfile

from chdb import session

FORMAT = "JSONCompactStringsEachRow"


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    wanted = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        engine = session.Session(folder)
        engine.query("CREATE DATABASE IF NOT EXISTS vantage ENGINE = Atomic")
        engine.query("USE vantage")
        result: list[object] = []
        for text in wanted["before"]:
            engine.query(text)
        for text, params in wanted["asked"]:
            set_params = "".join(f"SET param_{name} = {quoted(value)};\n" for name, value in params.items())
            try:
                answer = str(engine.query(set_params + text, FORMAT))
                result.append([json.loads(line) for line in answer.splitlines() if line.strip()])
            except Exception as error:  # noqa: BLE001 - each engine has errors of its own
                result.append({"error": str(error)[:500]})
        version = str(engine.query("SELECT version()", "TabSeparated")).strip()
        json.dump({"version": version, "found": result}, sys.stdout)


main()
