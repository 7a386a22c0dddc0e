"""What commands say about a comparison: lines for a terminal, and a report in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vantage.commands.console import print_table
from vantage.core.errors import InputError
from vantage.core.number_format import quantity, utc

EXIT_CODES: Final = {"DEPLOY": 0, "HOLD": 1, "ROLLBACK": 1, "INSUFFICIENT DATA": 2}
_FIGURES: Final = ("mean", "p50", "p75", "p90", "p95", "p99")
_HEAD: Final = ("figure", "baseline", "candidate", "change", "95 % interval")
_Document = Mapping[str, Any]


def exit_code(document: _Document) -> int:
    """Return 0 to deploy, 1 to hold or roll back, 2 without enough data."""
    return EXIT_CODES.get(document["verdict"], 1)


def print_comparison(document: _Document, *, url: str) -> None:
    """Print the verdict, the figures, warnings and where the server shows all of it."""
    print(document["recommendation"])
    for metric in document["metrics"]:
        print(f"\n{metric['metric']}, {metric['samples'][0]} and {metric['samples'][1]} samples")
        print_table(_HEAD, _figure_rows(metric))
    if (errors := document["errors"]) is not None:
        print(f"\nerror rate {_error_text(errors['baseline'])}, then {_error_text(errors['candidate'])}")
    for warning in document["warnings"]:
        print(f"note: {warning}")
    if document["id"]:
        print(f"\n{page_url(document, url)}")


def page_url(document: _Document, url: str) -> str:
    """Return the address of the page of a saved comparison."""
    return f"{url.rstrip('/')}/compare/{document['id']}"


def write_report(path: str, document: _Document, *, url: str) -> None:
    """Write the report. Raises InputError when the file cannot be written."""
    try:
        Path(path).write_text(markdown(document, url=url), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", field="--report") from error


def markdown(document: _Document, *, url: str) -> str:
    """Return the report."""
    sides = document["sides"]
    lines = [
        f"# {document['verdict']}: {_text(document['title'] or _title(sides))}",
        "",
        f"{_text(document['reason'])}.",
        "",
        *_table(
            ("", "what", "from", "to"),
            [
                (name, sides[name]["label"], f"{utc(sides[name]['start'])} UTC", f"{utc(sides[name]['end'])} UTC")
                for name in ("baseline", "candidate")
            ],
        ),
    ]
    if document["criteria"]:
        lines += [
            "## What was judged",
            "",
            *_table(
                ("figure", "change", "95 % interval", "matters from", "chance", "outcome"),
                [_criterion_row(item) for item in document["criteria"]],
            ),
            "*Chance*: how likely so large a change is where there is none, corrected for the number of figures.",
            "",
        ]
    for metric in document["metrics"]:
        lines += [f"## {_text(metric['metric'])}", "", *_table(_HEAD, _figure_rows(metric))]
        if metric["routes"]:
            head = ("route", "samples", "then", "mean", "then", "change", "95 % interval")
            lines += _table(head, [_route_row(item, metric["unit"]) for item in metric["routes"]])
    if (errors := document["errors"]) is not None:
        lines += [f"Error rate: {_error_text(errors['baseline'])}, then {_error_text(errors['candidate'])}.", ""]
    lines += [f"- {_text(warning)}" for warning in document["warnings"]]
    lines += [""] if document["warnings"] else []
    lines += [f"Test: {document['test']}.", ""]
    if document["id"]:
        lines += [f"[How this was worked out]({page_url(document, url)})", ""]
    return "\n".join(lines)


def _title(sides: _Document) -> str:
    return f"{sides['candidate']['label']} against {sides['baseline']['label']}"


def _figure_rows(metric: _Document) -> list[tuple[str, ...]]:
    unit = metric["unit"]
    rows = []
    for name in _FIGURES:
        change = metric["changes"][name]
        values = [_value(metric[side][name], unit) for side in ("baseline", "candidate")]
        rows.append((name, *values, *_change_cells(change, unit)))
    return rows


def _route_row(item: _Document, unit: str) -> tuple[str, ...]:
    means = [_value(mean, unit) for mean in item["means"]]
    return (item["route"], *map(str, item["samples"]), *means, *_change_cells(item["change"], unit))


def _criterion_row(item: _Document) -> tuple[str, ...]:
    unit = {"%": " %", "points": " points"}.get(item["unit"], "")
    name = f"{item['name']} of {item['metric']}" if item["metric"] else item["name"]
    matters = f"{item['matters']:g}{unit}" if item["matters"] else "–"
    low, high = item["interval"]
    return (
        name,
        f"{signed(item['change'])}{unit}",
        f"{signed(low)} to {signed(high)}{unit}",
        matters,
        f"{item['p_adjusted']:.2g}",
        item["outcome"],
    )


def _change_cells(change: _Document, unit: str) -> tuple[str, str]:
    if change["pct"] is not None:
        low, high = change["interval_pct"]
        return f"{signed(change['pct'])} %", f"{signed(low)} to {signed(high)} %"
    low, high = change["interval"]
    return f"{signed(change['absolute'])} {unit}".strip(), f"{signed(low)} to {signed(high)} {unit}".strip()


def signed(value: float | None) -> str:
    """Return a change with its sign; 'unknown' for None."""
    if value is None:
        return "unknown"
    return f"{value:+.1f}" if not value or 0.1 <= abs(value) < 1e4 else f"{value:+.2g}"


def _value(value: float | None, unit: str) -> str:
    return "–" if value is None else quantity(value, unit)


def _error_text(side: _Document) -> str:
    return f"{100 * side['error_rate']:.2f} % ({side['errors']} of {side['requests']})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return [*lines, *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows), ""]


def _text(text: str) -> str:
    """Return a text that is inert in Markdown, on one line."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
