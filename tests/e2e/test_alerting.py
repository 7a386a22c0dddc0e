"""Alerts of real servers: a rule, an alert, what people do about it, a kill; on SQLite, and by two servers that share a
PostgreSQL database."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import PostgresServer, postgres_server
from tests.support.server import Server, serving
from tests.support.wait import wait_until

RULE = {
    "name": "deep queue",
    "condition": {"kind": "threshold", "value": {"of": "metric", "service": "shop", "metric": "queue"}, "above": 10},
    "window": "1m",
    "for": "0s",
    "recover_for": "0s",
    "every": "5s",
}
EVALUATIONS = 'vantage_alert_evaluations_total{outcome="done"}'
QUIET = {"VANTAGE_SELF_TELEMETRY": "no", "VANTAGE_LOG_LEVEL": "warning"}


@pytest.fixture(scope="module")
def database_server() -> Iterator[PostgresServer]:
    pytest.importorskip("asyncpg", reason="pip install 'vantage[server,postgres]'")
    with postgres_server() as server:
        yield server


def send_depth(server: Server, value: float) -> None:
    metric = {"metric_name": "queue", "metric_type": "gauge", "value": value, "timestamp": int(time.time() * 1000)}
    assert server.send({"service_name": "shop", "metrics": [metric]}).status == 202


def alerts(server: Server, state: str = "open") -> list[dict[str, Any]]:
    answer = server.get(f"/api/alerts?rule=deep%20queue&state={state}").json()
    listed: list[dict[str, Any]] = answer["alerts"]
    return listed


def post(server: Server, path: str, body: object) -> dict[str, Any]:
    answer = server.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    assert answer.status in (200, 201), answer.body
    result: dict[str, Any] = answer.json()
    return result


def lives_through_everything(server: Server, other: Server) -> None:
    """A rule is stored at a server; its alert is seen, acknowledged and resolved at the other one."""
    send_depth(server, 50)
    send_depth(other, 50)
    post(server, "/api/alerts/rules", RULE)
    (alert,) = wait_until(lambda: alerts(other, "firing"))
    assert (alert["entity"], alert["value"], alert["text"]) == (
        {"service": "shop"}, 50, "shop: avg of queue over 1m: 50, above 10"
    )  # fmt: skip
    post(other, f"/api/alerts/{alert['id']}/acknowledge", {"note": "on it"})
    events = server.get(f"/api/alerts/{alert['id']}").json()["events"]
    assert [(event["before"], event["after"], event["note"]) for event in reversed(events)] == [
        ("ok", "firing", ""), ("firing", "acknowledged", "on it")
    ]  # fmt: skip


def test_an_alert_survives_a_kill_and_is_resolved_once_it_has_recovered(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ=QUIET) as server:
        lives_through_everything(server, server)
        server.kill()
    with serving(tmp_path / "data", environ=QUIET) as server:
        (alert,) = alerts(server)
        assert (alert["state"], alert["note"]) == ("acknowledged", "on it")
        for _ in range(200):
            send_depth(server, -100)
        (ended,) = wait_until(lambda: alerts(server, "resolved"))
        assert ended["id"] == alert["id"]
        assert not alerts(server)
        assert server.counts()[EVALUATIONS] > 0


def test_two_servers_on_postgresql_make_each_transition_once(database_server: PostgresServer, tmp_path: Path) -> None:
    url = database_server.url(database_server.new_database())
    environ = {**QUIET, "VANTAGE_METADATA_URL": url}
    with serving(tmp_path / "a", environ=environ) as server, serving(tmp_path / "b", environ=environ) as other:
        lives_through_everything(server, other)
        (alert,) = alerts(server)
        resolved = post(server, f"/api/alerts/{alert['id']}/resolve", {})
        assert resolved["state"] == "resolved"
        before = [each.counts()[EVALUATIONS] for each in (server, other)]

        def evaluated() -> bool:
            for each in (server, other):
                send_depth(each, 50)
            return all(each.counts()[EVALUATIONS] > count for each, count in zip((server, other), before, strict=True))

        wait_until(evaluated)
        assert alerts(other) == []  # its condition holds, and it waits to recover
        events = other.get(f"/api/alerts/{alert['id']}").json()["events"]
        assert [event["after"] for event in reversed(events)] == ["firing", "acknowledged", "resolved"]


def test_what_the_page_tells_to_store_is_stored_and_its_heartbeat_beats(tmp_path: Path) -> None:
    """The bodies and the command of docs/alerting.md; its files are read by ``test_documented_examples``."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "alerting.md").read_text(encoding="utf-8")
    bodies = {name: (kind, json.loads(text)) for kind, name, text in _bodies(page)}
    assert bodies.keys() == {"checkout answers", "nightly export", "home page"}
    (command,) = re.findall(r"```sh\n(.*?)\n```", page, re.DOTALL)
    with serving(tmp_path / "data", environ=QUIET) as server:
        stored = {}
        for name, (kind, body) in bodies.items():
            path = f"/api/{kind}/{name.replace(' ', '%20')}"
            headers = {"Content-Type": "application/json"}
            answer = server.request("PUT", path, json.dumps(body).encode(), headers)
            assert answer.status in (200, 201), answer.body
            stored[name] = answer.json()
        (url,) = re.findall(r'"(\$VANTAGE/heartbeat/\$TOKEN)"$', command)
        token = stored["nightly export"]["path"].rpartition("/")[2]
        beat = server.get(url.replace("$VANTAGE", "").replace("$TOKEN", token))
        assert beat.status == 200, beat.body
        (heartbeat,) = server.get("/api/heartbeats").json()["heartbeats"]
        assert (heartbeat["state"], heartbeat["success"] is not None) == ("on time", True)


def _bodies(page: str) -> list[tuple[str, str, str]]:
    """Return the resource, the name and the text of each body that the page gives."""
    bodies = []
    for kind, text in re.findall(r"`PUT /api/(\w+)/\{name\}` stores one[:,] `(\{\".*?\})`", page):
        (inner,) = json.loads(text).values()
        bodies.append((kind, inner["name"], text))
    return bodies
