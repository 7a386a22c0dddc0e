"""``POST /vql/completions``: what stands before the cursor decides, and no text is too broken to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Server, serving
from tests.vql.attacks import ATTACKS
from vantage.core.clock import SystemClock
from vantage.query.completion import COMPLETIONS_MAX
from vantage.vql.check import TEXT_NBYTES_MAX

URL = "/vql/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {**NO_RATES, "VANTAGE_SELF_TELEMETRY": "false"}
    with serving(tmp_path_factory.mktemp("completions") / "data", environ=environ) as server:
        now_ms = SystemClock().now_ms()
        for service, metric, tags in (
            ("shop", "orders", {"method": "GET"}),
            ("shop", "orders", {"method": "it's"}),
            ("mail", "sent", {"queue": "fast"}),
            *(("many", f"m{n}", {}) for n in range(COMPLETIONS_MAX + 10)),
        ):
            sample = {"metric_name": metric, "metric_type": "gauge", "value": 1.0, "timestamp": now_ms, "tags": tags}
            server.send({"service_name": service, "environment": "prod", "metrics": [sample]})
        spans = [
            {"trace_id": "t", "span_id": str(n), "name": name, "start_ns": now_ms * 1_000_000, "duration_ns": 5,
             "kind": "client", "attributes": {key: "it's"}}
            for n, (name, key) in enumerate([("pay", "peer"), ("pay", "peer"), ("ship", "route")])
        ]  # fmt: skip
        assert server.send({"service_name": "shop", "spans": spans}, "/v1/spans").status == 202
        yield server
        assert "Traceback" not in server.output, server.output


def ask(server: Server, marked: str) -> Any:
    """The bar in the text is the cursor."""
    position = marked.index("|")
    answer = server.send({"query": marked.replace("|", "", 1), "position": position}, URL)
    assert answer.status == 200, answer
    return answer.json()


def labels(server: Server, marked: str) -> list[str]:
    return [item["label"] for item in ask(server, marked)["items"]]


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("|", ["SELECT", "EXPLAIN"]),
        ("SELECT * FROM |", ["metrics", "spans"]),
        ("SELECT * FROM metrics WHERE service_name = 'ma|", ["many", "mail"]),
        ("SELECT * FROM metrics WHERE service_name = 'shop' AND metric_name = '|", ["orders"]),
        ("SELECT * FROM metrics WHERE metric_name = '| AND x", []),
        ("WHERE service_name = 'mail' AND tags['|", ["queue"]),
        ("WHERE tags['queue'] = '|", ["fast"]),
        ("WHERE tags['queue'] IN ('x', '|", ["fast"]),
        ("SELECT 1 FROM spans WHERE attributes['|", ["peer", "route"]),
        ("SELECT 1 FROM spans WHERE attributes['peer'] = '|", ["it's"]),
        ("SELECT 1 FROM spans WHERE service_name = 'mail' AND attributes['peer'] = '|", []),
        ("SELECT 1 FROM spans WHERE name IN ('ship', '|", ["pay", "ship"]),
        ("SELECT 1 FROM spans WHERE kind = '|", ["client"]),
        ("SELECT 1 FROM spans WHERE duration_ns = '|", []),
        ("SELECT 1 -- service_name = '|", []),
        ("SELECT dur| FROM spans", ["duration_ns"]),
    ],
)
def test_what_stands_before_the_cursor_decides(server: Server, marked: str, expected: list[str]) -> None:
    result = labels(server, marked)
    if "AND x" in marked:
        assert "orders" in result
    else:
        assert result == expected


def test_what_is_inserted_is_escaped_and_replaces_what_is_written(server: Server) -> None:
    text = "WHERE tags['method'] = 'it"
    result = ask(server, text + "|")
    assert result == {
        "start": len(text) - 2,
        "end": len(text),
        "items": [{"label": "it's", "insert": "it\\'s", "kind": "value"}],
    }


def test_a_position_behind_the_end_is_the_end_and_a_negative_one_is_refused(server: Server) -> None:
    assert server.send({"query": "sel", "position": 99}, URL).json()["end"] == 3
    assert server.send({"query": "sel"}, URL).json()["items"][0]["label"] == "SELECT"
    assert server.send({"query": "sel", "position": -1}, URL).json()["field"] == "position"


def test_a_text_longer_than_a_query_may_be_is_refused(server: Server) -> None:
    assert server.send({"query": "(" * (TEXT_NBYTES_MAX + 1)}, URL).status == 400
    ask(server, "/*'" * (TEXT_NBYTES_MAX // 3) + "|")


def test_there_are_at_most_fifty(server: Server) -> None:
    assert len(labels(server, "WHERE service_name = 'many' AND metric_name = '|")) == COMPLETIONS_MAX


# JSON cannot carry half a character.
BROKEN = [text for text in ATTACKS.values() if text.isascii() or text.encode(errors="ignore").decode() == text]


@pytest.mark.parametrize("text", [*BROKEN, "'", "\\", "tags[", "]'", "= '", "'a' = '", "] = '"])
def test_broken_text_is_answered(server: Server, text: Any) -> None:
    written = str(text)[:4000].replace("|", "")
    ask(server, written + "|")
