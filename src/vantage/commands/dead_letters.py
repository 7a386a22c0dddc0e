"""``vantage dead-letters``: messages of the broker that workers could not store."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from vantage.commands.config import load
from vantage.commands.console import notice, print_table
from vantage.core.errors import ConfigError, InputError
from vantage.core.number_format import date_time, size
from vantage.stream.kafka.client import parse_url
from vantage.stream.kafka.dead_letters import DeadLetters, Letter
from vantage.stream.message import BatchDecoder

SHOWN_MAX: Final = 100  # samples and spans of a message
DUMP_NBYTES: Final = 512
REASON_LENGTH: Final = 100  # in the list


def run(arguments: argparse.Namespace) -> int:
    """List letters, show one, or send some again. Raises ConfigError without a broker, and what DeadLetters raises."""
    settings = load(arguments).settings
    if not settings.broker_url:
        raise ConfigError("dead letters are in a broker: set broker_url")
    letters = DeadLetters(parse_url(settings.broker_url))
    if arguments.action == "show":
        return _show(letters.letter(arguments.id))
    if arguments.action == "replay":
        return _replay(letters, arguments)
    return _list(letters, arguments)


def _list(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    if arguments.limit < 1:
        raise InputError("must be 1 or more", field="--limit")
    stored, skipped = letters.latest()
    listed = stored[: arguments.limit]
    if arguments.format == "json":
        rows = [
            {
                "id": letter.id,
                "at": letter.at_ms,
                "source": letter.source,
                "bytes": letter.nbytes,
                "reason": letter.reason,
                "replayed_at": letter.replayed_at_ms,
            }
            for letter in listed
        ]
        print(json.dumps({"letters": rows, "left_out": len(stored) - len(listed) + skipped}))
        return 0
    if not stored:
        print("there are no dead letters")
        return 0
    print_table(
        ["id", "rejected", "from", "size", "state", "reason"],
        [
            [
                letter.id,
                date_time(letter.at_ms),
                letter.source,
                size(letter.nbytes),
                "waiting" if letter.replayed_at_ms is None else f"replayed {date_time(letter.replayed_at_ms)}",
                letter.reason[:REASON_LENGTH],
            ]
            for letter in listed
        ],
    )
    print()
    waiting = Counter(letter.reason[:REASON_LENGTH] for letter in stored if letter.replayed_at_ms is None)
    for reason, count in waiting.most_common(10):
        print(f"{count} waiting: {reason}")
    if len(stored) > len(listed):
        print(f"{len(stored) - len(listed)} older ones are not listed: give --limit")
    if skipped:
        print(f"{skipped} messages before them were not looked at")
    return 0


def _show(letter: Letter) -> int:
    print_table(
        ["", letter.id],
        [
            ["rejected", date_time(letter.at_ms)],
            ["sent", date_time(letter.sent_at_ms) if letter.sent_at_ms else "unknown"],
            ["from", letter.source],
            ["reason", letter.reason],
            ["replayed", "no" if letter.replayed_at_ms is None else date_time(letter.replayed_at_ms)],
            ["key", letter.key.decode("utf-8", "backslashreplace")],
            ["format", str(letter.format)],
            ["size", f"{letter.nbytes} bytes"],
        ],
    )
    print()
    if letter.is_empty:
        print("the message is not here: it was too large for the topic of dead letters")
        return 0
    try:
        print(json.dumps(_content(letter), indent=2, ensure_ascii=False))
    except ValueError as error:
        print(f"not a batch that this version reads ({error}); its first {min(DUMP_NBYTES, letter.nbytes)} bytes:")
        for start in range(0, min(DUMP_NBYTES, letter.nbytes), 16):
            piece = letter.value[start : start + 16]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
            print(f"{start:04x}  {piece.hex(' '):47}  {text}")
    return 0


def _content(letter: Letter) -> dict[str, Any]:
    """Return what a message says. Raises ValueError when it cannot be read."""
    batch = BatchDecoder().decode(letter.value, letter.format)
    samples = [
        {
            "service_name": series.service,
            "environment": series.environment,
            "metric_name": series.metric,
            "metric_type": series.kind.value,
            "tags": dict(series.tags),
            "timestamp": time_ms,
            "value": value,
        }
        for index, time_ms, value in zip(
            batch.index[:SHOWN_MAX].tolist(),
            batch.time_ms[:SHOWN_MAX].tolist(),
            batch.value[:SHOWN_MAX].tolist(),
            strict=True,
        )
        for series in (batch.series[index],)
    ]
    spans = [
        {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "service_name": span.service_name,
            "name": span.name,
            "start_ns": span.start_ns,
            "duration_ns": span.duration_ns,
        }
        for span in batch.spans[:SHOWN_MAX]
    ]
    left_out = batch.samples - len(samples) + len(batch.spans) - len(spans)
    return {"batch_id": batch.batch_id, "samples": samples, "spans": spans, "left_out": left_out}


def _replay(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    chosen = _chosen(letters, arguments)
    if not chosen:
        print("no dead letter waits to be sent again")
        return 0
    if not arguments.yes and not _confirm(len(chosen)):
        print("nothing was sent", file=sys.stderr)
        return 1
    sent: list[str] = []
    try:
        letters.replay(chosen, sent.append, again=arguments.again)
    finally:
        print(f"sent {len(sent)} of {len(chosen)} again")
        if len(sent) < len(chosen):
            notice("the others were not sent, or another command sends them now")
    return 0


def _chosen(letters: DeadLetters, arguments: argparse.Namespace) -> Sequence[str]:
    """Return the ids to send, the oldest first; those that were sent before only with --again. Raises InputError."""
    if sum((bool(arguments.ids), arguments.all, bool(arguments.reason))) != 1:
        raise InputError("give ids, --reason TEXT, or --all")
    if arguments.ids:
        chosen = [letters.letter(letter_id) for letter_id in dict.fromkeys(arguments.ids)]
    else:
        chosen = [letter for letter in reversed(letters.latest()[0]) if arguments.reason in letter.reason]
    before = [letter for letter in chosen if letter.replayed_at_ms is not None]
    if before and not arguments.again:
        notice(f"{len(before)} of them were sent again before, and are left out: --again sends them once more")
        chosen = [letter for letter in chosen if letter.replayed_at_ms is None]
    if empty := [letter for letter in chosen if letter.is_empty]:
        notice(f"{len(empty)} of them are without their message, which was too large, and are left out")
    return [letter.id for letter in chosen if not letter.is_empty]


def _confirm(count: int) -> bool:
    """Request a yes on the terminal. Raises InputError when there is none."""
    if not sys.stdin.isatty():
        raise InputError("without a terminal nobody can confirm: give --yes to send them")
    print(f"Send {count} messages to the workers again? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
