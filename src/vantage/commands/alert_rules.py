"""``vantage alerts rules``: rules as files. ``export`` prints those of a server, ``diff`` what ``apply`` would change,
``backtest`` when they would have fired, and ``test`` runs the tests of a file without a server."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import re
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from vantage import log
from vantage.alerting.rule_files import FILE_NBYTES_MAX, RuleFile, parse_rules, rule_yaml, rules_yaml
from vantage.alerting.rule_tests import parse_tests, run_test
from vantage.commands.client import Client, open_client
from vantage.core.alert_rule import Rule, RuleDocument
from vantage.core.errors import InputError, UnavailableError
from vantage.core.number_format import duration_ms, utc
from vantage.core.printable import printable

_FIELD: Final = re.compile(r"refused it: ([\w.\[\]]+): (.*)", re.DOTALL)
_PATH: Final = re.compile(r"(rules\[\d+\](?:\.[\w.\[\]]+)?): (.*)", re.DOTALL)


def run(arguments: argparse.Namespace) -> int:
    """Do one step. Raises InputError that names file, line, rule and field, and what the client raises."""
    steps = {"export": _export, "diff": _diff, "apply": _apply, "backtest": _backtest, "test": _test}
    return steps[arguments.step](arguments)


def _export(arguments: argparse.Namespace) -> int:
    with closing(open_client(arguments)) as client:
        sys.stdout.write(rules_yaml(_of_server(client)))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    """Print what apply would change, and return 1 if that is anything."""
    _, wanted = _of_file(arguments.file)
    with closing(open_client(arguments)) as client:
        stored = {rule.name: rule for rule in _of_server(client).rules}
    lines = list(_differences(stored, {rule.name: rule for rule in wanted.rules}, prune=arguments.prune))
    for line in lines:
        print(printable(line))
    return 1 if lines else 0


def _apply(arguments: argparse.Namespace) -> int:
    """Store the rules of a file, all or none."""
    file, document = _of_file(arguments.file)
    with closing(open_client(arguments)) as client:
        try:
            result = client.request(
                f"/api/alerts/rules/apply?prune={'true' if arguments.prune else 'false'}",
                msgspec.json.encode(document),
            )
        except InputError as error:
            match = _PATH.search(str(error))
            if match is None:
                raise
            raise file.error(match[2], match[1]) from error
    for name in result["changed"]:
        print(printable(f"stored {name}"))
    for name in result["removed"]:
        print(printable(f"removed {name}"))
    if not result["changed"] and not result["removed"]:
        print("nothing has changed")
    return 0


def _backtest(arguments: argparse.Namespace) -> int:
    """Print when the alerts of each rule of a file would have fired. Nothing is stored."""
    file, document = _of_file(arguments.file)
    window = urlencode({"start": arguments.start, "end": arguments.end}, errors="surrogateescape")
    with closing(open_client(arguments)) as client:
        for number, rule in enumerate(document.rules):
            try:
                result = client.request(f"/api/alerts/rules/backtest?{window}", msgspec.json.encode(rule))
            except InputError as error:
                match = _FIELD.search(str(error))
                if match is None or match[1] in ("start", "end"):
                    raise
                raise file.error(match[2], f"rules[{number}].{match[1]}") from error
            firings = result["firings"]
            count = len(firings) + result["omitted"]
            print(printable(f"{rule.name}: {count} {'alert' if count == 1 else 'alerts'}"))
            for firing in firings:
                end_ms = firing["end"]
                lasted = "until now" if end_ms is None else f"for {duration_ms(end_ms - firing['start'])}"
                print(printable(f"  {utc(firing['start'])} {lasted}: {firing['text']}"))
            for note in [*result["notes"], *([f"{result['omitted']} more"] if result["omitted"] else [])]:
                print(printable(f"  note: {note}"))
    return 0


def _test(arguments: argparse.Namespace) -> int:
    """Run the tests of files, and return 1 if one fails."""
    log.configure(log_format="console", log_level="error")
    failed = ran = 0
    for path in arguments.files:
        _, document, rules = parse_tests(_text(path), name=path)
        for name in document.rule_files:
            rules += _of_file(str(Path(path).parent / name))[1].rules
        for test in document.tests:
            outcome = asyncio.run(run_test(test, rules))
            ran += 1
            failed += bool(outcome.failures)
            print(printable(f"{'FAILED' if outcome.failures else 'passed'}  {path}: {outcome.name}"))
            for failure in outcome.failures:
                print(printable(f"        {failure}"))
    print(f"{ran} {'test' if ran == 1 else 'tests'}, {failed} failed")
    return 1 if failed or not ran else 0


def _of_server(client: Client) -> RuleDocument:
    try:
        return msgspec.convert(client.request("/api/alerts/rules/export"), RuleDocument)
    except msgspec.ValidationError as error:
        raise UnavailableError(f"{client.url} has rules that this version cannot read: {error}") from error


def _of_file(path: str) -> tuple[RuleFile, RuleDocument]:
    text = _text(path)
    name = "standard input" if path == "-" else path
    return RuleFile(text, name=name), parse_rules(text, name=name)


def _text(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(FILE_NBYTES_MAX + 1)
        with Path(path).open("rb") as file:
            content = file.read(FILE_NBYTES_MAX + 1)  # some files have no size and no end
        if len(content) > FILE_NBYTES_MAX:
            raise InputError(f"{path} is larger than {FILE_NBYTES_MAX >> 20} MiB")
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error


def _differences(stored: Mapping[str, Rule], wanted: Mapping[str, Rule], *, prune: bool) -> list[str]:
    lines: list[str] = []
    for name in sorted({*stored, *wanted}):
        before, after = stored.get(name), wanted.get(name)
        if before == after or (after is None and not prune):
            continue
        texts: list[Any] = [rule_yaml(rule).splitlines() if rule is not None else [] for rule in (before, after)]
        lines += difflib.unified_diff(
            texts[0],
            texts[1],
            f"server: {name}" if before is not None else "no rule",
            f"file: {name}" if after is not None else "no rule",
            lineterm="",
        )
    return lines
