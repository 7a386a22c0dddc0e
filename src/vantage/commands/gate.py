"""``vantage gate``: waits until it is known whether a new version is better or worse, for a delivery pipeline.

The version is compared with the versions that serve beside it, or, where there are none, with the time before. It is
looked at again and again, with intervals that stay right however often; a version that is clearly worse ends the wait.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from typing import Any, Final

from vantage.commands.client import Client, open_client
from vantage.commands.compare import common_body
from vantage.commands.comparison_report import exit_code, print_comparison, write_report
from vantage.commands.console import Progress, notice
from vantage.core.errors import InputError, UnavailableError
from vantage.core.timerange import parse_duration_ms

FOR_MS_MIN: Final = 1000
FOR_MS_MAX: Final = 7 * 86_400_000
FAILURES_MAX: Final = 5  # polls in a row that the server does not answer
_Document = dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Wait, print the verdict, and return 0 to deploy, 1 to hold or roll back, 2 without enough data. Raises
    InputError, and what the client raises."""
    wait_ms = parse_duration_ms(arguments.wait, field="--for", default_unit="m")
    if not FOR_MS_MIN <= wait_ms <= FOR_MS_MAX:
        raise InputError("must be between a second and 7 days", field="--for")
    every_ms = parse_duration_ms(arguments.every, field="--every")
    if every_ms < 1000:
        raise InputError("must be a second or more", field="--every")
    with closing(open_client(arguments)) as client:
        document = _Gate(client, arguments, wait_ms, every_ms).wait()
        if arguments.report:
            write_report(arguments.report, document, url=client.url)
        if arguments.format == "json":
            print(json.dumps(document))
        else:
            print_comparison(document, url=client.url)
    return exit_code(document)


class _Gate:
    def __init__(self, client: Client, arguments: argparse.Namespace, wait_ms: int, every_ms: int) -> None:
        self._client = client
        self._arguments = arguments
        self._wait_ms = wait_ms
        self._every_ms = every_ms
        # Times are those of the server's clock: that of a build machine may be another.
        self._start_ms = self._now_ms() - parse_duration_ms(arguments.since, field="--since")
        self._end_ms = self._start_ms + wait_ms

    def wait(self) -> _Document:
        failures = 0
        with Progress() as progress:
            while True:
                try:
                    document = self._look(save=False)
                    failures = 0
                except UnavailableError as error:
                    failures += 1
                    if failures > FAILURES_MAX:
                        raise
                    notice(f"{error}; trying again")
                    time.sleep(self._every_ms / 1000)
                    continue
                left_ms = self._end_ms - document["sides"]["candidate"]["end"]
                if document["verdict"] == "ROLLBACK" or left_ms <= 0:
                    return self._look(save=True)
                share = 1 - left_ms / self._wait_ms
                progress.show(f"{max(0, left_ms) // 1000} s left: {document['recommendation']}", share=share)
                time.sleep(min(self._every_ms, max(1000, left_ms)) / 1000)

    def _look(self, *, save: bool) -> _Document:
        """Compare with what serves beside the version, or else with the time before. The server's present is the end,
        but for the last look, which ends when the wait does."""
        arguments = self._arguments
        now_ms = min(self._now_ms(), self._end_ms)
        body = {
            **common_body(arguments),
            "planned_end": self._end_ms,
            "title": f"gate: {arguments.service} {arguments.new_version}",
        }
        beside = {
            "baseline_service": arguments.service,
            "candidate_version": arguments.new_version,
            "baseline_version": arguments.baseline_version,
            "time_start": self._start_ms,
            "time_end": max(now_ms, self._start_ms + 1),
        }
        document = self._compare("/compare/services", {**body, **beside, "save": False})
        if any(text.startswith("baseline") for text in document["reason"].split("; ")) and not document["metrics"]:
            before = {
                "service": arguments.service,
                "baseline_start": self._start_ms - self._wait_ms,
                "baseline_end": self._start_ms,
                "baseline_version": arguments.baseline_version,
                "candidate_start": self._start_ms,
                "candidate_end": max(now_ms, self._start_ms + 1),
                "candidate_version": arguments.new_version,
            }
            return self._compare("/compare/windows", {**body, **before, "save": save})
        return self._compare("/compare/services", {**body, **beside, "save": True}) if save else document

    def _compare(self, path: str, body: dict[str, Any]) -> _Document:
        document: _Document = self._client.request(path, json.dumps(body).encode())
        return document

    def _now_ms(self) -> int:
        """Return the present of the server's data."""
        table = self._client.request(
            "/vql/execute", json.dumps({"query": "SELECT timestamp FROM spans LIMIT 1"}).encode()
        )
        return int(table["range"]["end"])
