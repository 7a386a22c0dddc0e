"""``vantage compare``: two services, versions or windows of time, compared on a running server."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

from vantage.commands.client import open_client
from vantage.commands.comparison_report import exit_code, print_comparison, write_report
from vantage.core.errors import InputError


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the result, and return 0 to deploy, 1 to hold or roll back, 2 without enough data. Raises
    InputError, and what the client raises."""
    path, body = _request(arguments)
    with closing(open_client(arguments)) as client:
        document: dict[str, Any] = client.request(path, json.dumps(body).encode())
        if arguments.report:
            write_report(arguments.report, document, url=client.url)
        if arguments.format == "json":
            print(json.dumps(document))
        else:
            print_comparison(document, url=client.url)
    return exit_code(document)


def common_body(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that both commands have."""
    body: dict[str, Any] = {
        "metrics": arguments.metric or ["http.request.duration"],
        "match": arguments.match,
        "minimum_effect_pct": arguments.min_effect,
        "minimum_error_points": arguments.min_errors,
    }
    if arguments.environment:
        body["environment"] = arguments.environment
    if arguments.direction:
        body["direction"] = arguments.direction
    return body


def _request(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    body = common_body(arguments)
    if arguments.before or arguments.after:
        if not (arguments.before and arguments.after):
            raise InputError("--before and --after belong together", field="--before")
        if arguments.candidate:
            raise InputError("windows are of one service: leave it out", field="--candidate")
        before, after = (_window(getattr(arguments, name), f"--{name}") for name in ("before", "after"))
        return "/compare/windows", {
            **body,
            "service": arguments.baseline,
            "baseline_start": before[0],
            "baseline_end": before[1],
            "candidate_start": after[0],
            "candidate_end": after[1],
            "baseline_version": arguments.baseline_version,
            "candidate_version": arguments.candidate_version,
        }
    if not arguments.candidate and not arguments.candidate_version:
        raise InputError("name a second service, --candidate-version, or --before and --after", field="CANDIDATE")
    return "/compare/services", {
        **body,
        "baseline_service": arguments.baseline,
        "candidate_service": arguments.candidate or arguments.baseline,
        "baseline_version": arguments.baseline_version,
        "candidate_version": arguments.candidate_version,
        "time_start": arguments.start,
        "time_end": arguments.end,
    }


def _window(text: str, option: str) -> tuple[str, str]:
    start, dots, end = text.partition("..")
    if not dots or not start or not end:
        raise InputError(f"{text!r} is not START..END, such as now-2h..now-1h", field=option)
    return start, end
