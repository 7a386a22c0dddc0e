"""The ``vantage`` command: parses arguments, runs a command, prints errors.

It imports only the standard library at first. So it can report what is missing on an old Python, and without the
server's dependencies: the base install is the agent alone.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NoReturn, Optional  # this file runs on Python 3.9 to report what is missing

from vantage.core.printable import printable

OLDEST = (3, 11)
LINE_LENGTH_MAX = 2000
SECRET_LENGTH_MIN = 4  # what is shorter is in any text
DEFAULT_URL = "http://127.0.0.1:8000"


def main(argv: Optional[list] = None) -> int:  # type: ignore[type-arg]  # noqa: UP045
    """Run a command and return its exit status. Whatever happens, it ends with one line and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    if sys.version_info < OLDEST:
        return _fail(f"the server needs Python {OLDEST[0]}.{OLDEST[1]} or newer, this is {sys.version.split()[0]}")
    try:
        from vantage import commands, config  # noqa: F401 - every command needs what config needs
        from vantage.core.errors import sentence
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "vantage":
            raise
        return _fail(f"the server's dependencies are missing ({error.name}): pip install 'vantage[server]'")
    try:
        status = int(commands.run(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _abandon_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - people get a sentence
        _abandon_output()
        return _fail(_masked(sentence(error), arguments))
    return status


def _abandon_output() -> None:
    """Drop what standard output has not written, so that Python does not try again at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, ValueError, AttributeError):
            sys.stdout = None  # it is no file


def _masked(text: str, arguments: argparse.Namespace) -> str:
    """Return the text without the keys that this command was given."""
    for secret in (getattr(arguments, "api_key", None), os.environ.get("VANTAGE_API_KEY")):
        for written in (secret, repr(secret)[1:-1]) if secret and len(secret) >= SECRET_LENGTH_MIN else ():
            text = text.replace(written, "********")
    return text


def _fail(reason: str) -> int:
    print(f"vantage: {_one_line(reason)}", file=sys.stderr)
    return 1


def _one_line(text: str) -> str:
    text = printable(text.replace("\n", " "))
    return text if len(text) <= LINE_LENGTH_MAX else f"{text[:LINE_LENGTH_MAX]}…"


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, with the most similar option."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        similar = get_close_matches(unknown, set(_options(self)), n=1) if unknown.startswith("-") else []
        hint = f"did you mean {similar[0]}?" if similar else f"see {self.prog} --help"
        self.exit(2, f"vantage: {_one_line(_without_values(message))}; {hint}\n")


def _without_values(message: str) -> str:
    """Return the message without what follows an option that does not exist, which may be a key, and without passwords
    of URLs."""
    message = re.sub(r"(://[^:@/?#\s]*):\S*@", r"\1:********@", message)
    start, unrecognized, rest = message.partition("unrecognized arguments: ")
    names = []
    for argument in rest.split(" "):
        names.append(argument.partition("=")[0] if argument.startswith("-") else argument)
        if argument.startswith("-"):
            break
    return start + unrecognized + " ".join(names)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every option of a parser and of its subcommands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list them
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for subparser in action.choices.values():
                yield from _options(subparser)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vantage", description="Observability in one process. Without a command: serve.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    _serve_options(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _serve_options(commands.add_parser("serve", help="run the server"), inner=True)
    migrate = commands.add_parser("migrate", help="migrate the metadata database and a ClickHouse server")
    migrate.add_argument("--dry-run", action="store_true", help="print the migrations without applying them")
    demo = commands.add_parser("demo", help="send demo traffic to a running server")
    _client_options(demo)
    demo.add_argument("--once", action="store_true", help="send the history and stop")
    demo.add_argument("--remove", action="store_true", help="delete the demo data")
    healthcheck = commands.add_parser("healthcheck", help="exit 0 when the server is ready")
    _client_options(healthcheck)
    config = commands.add_parser("config", help="print the settings in effect and their origin")
    config.add_argument("--example", action="store_true", help="print every setting as an .env file")
    doctor = commands.add_parser("doctor", help="check configuration, data folder, databases, clock and disk")
    doctor.add_argument("--deep", action="store_true", help="read every row of every segment")
    backup = commands.add_parser("backup", help="copy the data folder while the server runs")
    backup.add_argument("dest", metavar="DEST", help="folder for the copy; must be absent or empty")
    restore = commands.add_parser("restore", help="restore a backup into an empty data folder")
    restore.add_argument("source", metavar="SOURCE", help="folder that `vantage backup` wrote")
    keys = commands.add_parser("keys", help="create, list and revoke API keys")
    promote = commands.add_parser(
        "promote", help="copy an embedded store to a ClickHouse server, and use it from there"
    )
    steps = promote.add_mutually_exclusive_group()
    steps.add_argument("--to", metavar="URL", default="", help="clickhouse://USER:PASSWORD@HOST:9000/DATABASE")
    steps.add_argument("--back", action="store_true", help="return to the data folder, with what came since")
    steps.add_argument("--status", action="store_true", help="print how far it is")
    steps.add_argument("--abandon", action="store_true", help="delete on the server what is copied, and end it")
    promote.add_argument("--leave-rollups", action="store_true", help="copy although rollups without samples stay here")
    _client_options(promote, url="a running server, which serves meanwhile; without it the folder of a stopped one")
    for folder in (migrate, config, doctor, backup, restore, keys, promote):
        _folder_options(folder)
    _query_command(commands)
    _transfer_commands(commands)
    _delete_command(commands)
    _dead_letters_commands(commands)
    _compare_commands(commands)
    _alerts_commands(commands)
    _secrets_commands(commands)
    _keys_commands(keys)
    return parser


def _serve_options(parser: argparse.ArgumentParser, *, inner: bool = False) -> None:
    # In the subcommand an absent option must not hide the one before the command's name.
    absent: Any = argparse.SUPPRESS if inner else None
    parser.add_argument("--role", choices=["all", "ingest", "worker", "api"], default=absent)
    parser.add_argument("--host", default=absent, help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=absent, help="port to listen on (8000); 0: any free one")
    parser.add_argument(
        "--workers", type=int, default=absent, help="processes that serve the port (1); not on the embedded store"
    )
    parser.add_argument(
        "--demo", action="store_true", default=argparse.SUPPRESS if inner else False, help="also send demo traffic"
    )
    _folder_options(parser, inner=inner)


def _folder_options(parser: argparse.ArgumentParser, *, inner: bool = True) -> None:
    absent: Any = argparse.SUPPRESS if inner else None
    parser.add_argument("--data", metavar="DIR", default=absent, help="data folder (./data)")
    parser.add_argument("--config", metavar="FILE", default=absent, help="TOML file with settings")


def _client_options(
    parser: argparse.ArgumentParser, *, url: str = f"the server (the one of the settings, by default {DEFAULT_URL})"
) -> None:
    parser.add_argument("--url", default=None, help=url)
    parser.add_argument("--api-key", default=None, help="API key (or VANTAGE_API_KEY)")


def _query_command(commands: Any) -> None:
    query = commands.add_parser("query", help="run a query (VQL) on a running server or a data folder")
    query.add_argument("query", metavar="QUERY", help="such as 'SELECT count() FROM metrics'; -: read it from stdin")
    _client_options(query)
    query.add_argument("--data", metavar="DIR", default=None, help="a data folder that no server uses")
    query.add_argument("--config", metavar="FILE", default=None, help="TOML file with settings")
    query.add_argument("--format", choices=["table", "json", "csv", "ndjson", "parquet"], default="table")
    query.add_argument("--output", metavar="FILE", default="-", help="file for the result (-: stdout)")
    query.add_argument(
        "--param", metavar="NAME=VALUE", action="append", default=[], help="value of {NAME:Type} or :NAME; repeatable"
    )


def _transfer_commands(commands: Any) -> None:
    out = commands.add_parser("export", help="export the data of a running server as NDJSON")
    out.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="compressed when it ends in .gz or .zst; -: stdout"
    )
    _client_options(out)
    out.add_argument("--start", metavar="TIME", default="", help="first time, such as 2026-01-01 or now-7d (all)")
    out.add_argument("--end", metavar="TIME", default="", help="end, exclusive (all)")
    out.add_argument("--service", default="", help="only this service")
    out.add_argument("--environment", default="", help="only this environment")
    into = commands.add_parser("import", help="import an export into a running server")
    into.add_argument("file", metavar="FILE", help="NDJSON, plain or compressed with gzip or zstd; -: stdin")
    _client_options(into)
    into.add_argument("--skip-invalid", action="store_true", help="skip lines that cannot be read")


def _delete_command(commands: Any) -> None:
    delete = commands.add_parser("delete", help="delete a service or an environment, on a server or in a data folder")
    delete.add_argument("--service", default="", help="the service to delete")
    delete.add_argument("--environment", default="", help="the environment to delete, or that of the service alone")
    delete.add_argument("--yes", action="store_true", help="do not wait for a confirmation")
    _client_options(delete)
    delete.add_argument("--data", metavar="DIR", default=None, help="a data folder that no server uses")
    delete.add_argument("--config", metavar="FILE", default=None, help="TOML file with settings")


def _dead_letters_commands(commands: Any) -> None:
    letters = commands.add_parser("dead-letters", help="messages of the broker that workers could not store")
    actions = letters.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list them, the latest first, and count them by reason")
    listing.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many (50)")
    listing.add_argument("--format", choices=["table", "json"], default="table")
    show = actions.add_parser("show", help="show what one says, and why it was rejected")
    show.add_argument("id", metavar="ID", help="such as 0-12")
    replay = actions.add_parser("replay", help="send some to the workers again")
    replay.add_argument("ids", metavar="ID", nargs="*", help="such as 0-12")
    replay.add_argument("--reason", metavar="TEXT", default="", help="all whose reason contains the text")
    replay.add_argument("--all", action="store_true", help="all that were not sent again yet")
    replay.add_argument("--again", action="store_true", help="also those that were")
    replay.add_argument("--yes", action="store_true", help="do not wait for a confirmation")
    for action in (letters, listing, show, replay):
        _folder_options(action)


def _compare_commands(commands: Any) -> None:
    compare = commands.add_parser("compare", help="compare two services, versions or windows; exit 0: deploy")
    compare.add_argument("baseline", metavar="BASELINE", help="a service")
    compare.add_argument("candidate", metavar="CANDIDATE", nargs="?", default="", help="another one (the same)")
    compare.add_argument("--candidate-version", metavar="V", default="", help="a version, against all others")
    compare.add_argument("--start", metavar="TIME", default="now-1h", help="first time, such as now-6h (now-1h)")
    compare.add_argument("--end", metavar="TIME", default="now", help="end, exclusive (now)")
    compare.add_argument("--before", metavar="START..END", default="", help="a window, such as now-2h..now-1h")
    compare.add_argument("--after", metavar="START..END", default="", help="another one of the same service")
    gate = commands.add_parser("gate", help="wait until a new version is known to be better or worse; exit 0: deploy")
    gate.add_argument("--service", required=True, help="the service")
    gate.add_argument("--version", dest="new_version", metavar="V", required=True, help="the new version")
    gate.add_argument("--for", dest="wait", metavar="TIME", default="15m", help="how long to look at it (15m)")
    gate.add_argument("--since", metavar="TIME", default="0s", help="how long ago it went live, such as 5m (now)")
    gate.add_argument("--every", metavar="TIME", default="15s", help="time between two looks (15s)")
    for command in (compare, gate):
        command.add_argument("--baseline-version", metavar="V", default="", help="the version to compare with")
        command.add_argument(
            "--metric", action="append", default=[], help="repeatable, judged together (http.request.duration)"
        )
        command.add_argument("--environment", default="", help="only this environment")
        command.add_argument("--direction", choices=["lower", "higher"], default="", help="what is better, if unknown")
        command.add_argument("--match", default="route", help="route, none, or a tag whose values are matched (route)")
        command.add_argument("--min-effect", metavar="PCT", type=float, default=5.0, help="change that matters (5)")
        command.add_argument(
            "--min-errors", metavar="POINTS", type=float, default=0.5, help="change of the error rate that does (0.5)"
        )
        command.add_argument("--report", metavar="FILE", default="", help="write a report in Markdown")
        command.add_argument("--format", choices=["text", "json"], default="text")
        _client_options(command)


def _alerts_commands(commands: Any) -> None:
    alerts = commands.add_parser("alerts", help="what fires on a running server, and rules as files")
    actions = alerts.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list alerts, those that began last first")
    listing.add_argument("--state", default="open", help="open, firing, acknowledged, pending, resolved or all (open)")
    listing.add_argument("--service", default="", help="only this service")
    listing.add_argument("--rule", default="", help="only this rule")
    listing.add_argument("--severity", choices=["", "critical", "warning", "info"], default="", help="only this one")
    listing.add_argument("--limit", metavar="N", type=int, default=100, help="at most so many (100)")
    listing.add_argument("--format", choices=["table", "json"], default="table")
    acknowledge = actions.add_parser("ack", help="acknowledge alerts: somebody works on them")
    resolve = actions.add_parser("resolve", help="end alerts; they fire again only after their condition recovered")
    for action in (acknowledge, resolve):
        action.add_argument("ids", metavar="ID", nargs="+", type=int, help="such as 12")
        action.add_argument("--note", default="", help="why, for others")
    silence = actions.add_parser("silence", help="silence alerts for a time, or again and again")
    silence.add_argument("--rule", default="", help="of this rule; * stands for any text")
    silence.add_argument("--service", default="", help="of this service; '*' is every one")
    silence.add_argument("--severity", choices=["", "critical", "warning", "info"], default="", help="only this one")
    silence.add_argument("--entity", metavar="NAME=VALUE", action="append", default=[], help="repeatable")
    silence.add_argument("--for", dest="duration", metavar="TIME", default="", help="such as 2h")
    silence.add_argument("--start", metavar="TIME", default="", help="such as 2026-12-24T22:00 (now)")
    silence.add_argument("--end", metavar="TIME", default="", help="the end, or that of the last recurrence")
    silence.add_argument("--cron", default="", help="begin at each of these times, such as '30 2 * * 0'")
    silence.add_argument("--timezone", default="", help="of --cron and of times, such as Europe/Berlin (UTC)")
    silence.add_argument("--comment", default="", help="why, for others")
    silence.add_argument("--list", action="store_true", help="list silences instead")
    silence.add_argument("--remove", metavar="ID", type=int, default=0, help="end a silence instead")
    rules = actions.add_parser("rules", help="rules as files of YAML")
    steps = rules.add_subparsers(dest="step", metavar="STEP", required=True)
    export = steps.add_parser("export", help="print all rules of the server")
    diff = steps.add_parser("diff", help="print what apply would change; exit 1 if anything")
    apply = steps.add_parser("apply", help="store the rules of a file, all or none")
    for step in (diff, apply):
        step.add_argument("file", metavar="FILE", help="a file of rules; -: stdin")
        step.add_argument("--prune", action="store_true", help="also remove the rules that the file does not have")
    backtest = steps.add_parser("backtest", help="print when the rules of a file would have fired on what is stored")
    backtest.add_argument("file", metavar="FILE", help="a file of rules; -: stdin")
    backtest.add_argument("--start", metavar="TIME", default="now-7d", help="from when, 31 days ago at most (now-7d)")
    backtest.add_argument("--end", metavar="TIME", default="now", help="until when (now)")
    test = steps.add_parser("test", help="run tests of rules, without a server; exit 1 if one fails")
    test.add_argument("files", metavar="FILE", nargs="+", help="a file of tests")
    for client in (listing, acknowledge, resolve, silence, export, diff, apply, backtest):
        _client_options(client)


def _secrets_commands(commands: Any) -> None:
    secrets = commands.add_parser("secrets", help="keys that encrypt the secrets of channels")
    actions = secrets.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("key", help="print a new key, for VANTAGE_SECRET_KEY")
    rotate = actions.add_parser("rotate", help="encrypt all secrets with a new key, while the server runs")
    for command in (secrets, rotate):
        _folder_options(command)


def _keys_commands(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="create a key; its secret is printed once")
    create.add_argument("name", help="name of the key")
    create.add_argument(
        "--scope", action="append", choices=["ingest", "read", "admin"], help="repeatable (ingest and read)"
    )
    create.add_argument("--expires", metavar="DAYS", type=int, help="days until it expires (never)")
    revoke = actions.add_parser("revoke", help="revoke a key at once")
    revoke.add_argument("key", help="its id or name")
    listing = actions.add_parser("list", help="list all keys, without secrets")
    for action in (create, revoke, listing):  # people write --data last
        _folder_options(action)


if __name__ == "__main__":
    sys.exit(main())
