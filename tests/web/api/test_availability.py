"""``/api/slos``, ``/api/heartbeats``, ``/api/checks``, and what jobs call, on a running server."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Answer, Server, serving
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = NO_RATES | {"VANTAGE_OUTGOING_NETWORKS": "127.0.0.1/32"}
    with serving(tmp_path_factory.mktemp("availability") / "data", environ=environ) as server:
        yield server
        assert "Traceback" not in server.output, server.output


def send(server: Server, method: str, path: str, body: Any = None) -> Answer:
    import json

    text = None if body is None else json.dumps(body).encode()
    return server.request(method, path, text, {"Content-Type": "application/json"} if body is not None else {})


def test_a_heartbeat_has_a_path_for_its_job(server: Server) -> None:
    saved = send(server, "PUT", "/api/heartbeats/nightly", {"heartbeat": {"name": "nightly", "every": "1h"}})
    assert saved.status == 200, saved.body
    assert (saved.json()["state"], saved.json()["success"]) == ("on time", None)
    path = saved.json()["path"]
    for method, state in (("POST", "?state=start"), ("GET", "")):
        assert send(server, method, path + state).json() == {"status": "ok"}
    shown = send(server, "GET", "/api/heartbeats/nightly").json()
    assert shown["start"] <= shown["success"]
    assert send(server, "POST", path + "?state=odd").status == 400
    assert send(server, "POST", "/heartbeat/unknown").status == 404
    assert len(send(server, "GET", "/api/heartbeats").json()["heartbeats"]) == 1
    assert send(server, "DELETE", "/api/heartbeats/nightly").status == 204
    assert send(server, "GET", path).status == 404


def test_a_check_of_the_server_itself_is_up_and_an_objective_of_it_too(server: Server) -> None:
    check = {"name": "self", "url": f"{server.url}/health", "service": "shop", "every": "10s"}
    saved = send(server, "PUT", "/api/checks/self", {"check": check})
    assert saved.status == 200, saved.body

    def result() -> Any:
        return send(server, "GET", "/api/checks/self").json()["result"]

    assert wait_until(result, timeout_s=20)["up"] is True
    slo = {"name": "up", "kind": "check", "check": "self", "objective": 99.0}
    assert send(server, "PUT", "/api/slos/up", {"slo": slo}).status == 200

    def events() -> Any:
        return send(server, "GET", "/api/slos/up").json()["events"]

    wait_until(events, timeout_s=20)
    state = send(server, "GET", "/api/slos/up").json()
    assert (state["good"], state["budget_left"], len(state["burn_rates"])) == (1, 1, 4)
    rule = {"name": "up burns", "condition": {"kind": "burn_rate", "slo": "up"}, "for": "0s"}
    assert send(server, "POST", "/api/alerts/rules", rule).status == 201
    preview = send(server, "POST", "/api/alerts/rules/preview", rule).json()
    assert preview["entities"][0]["holds"] is False
    assert send(server, "DELETE", "/api/checks/self").status == 204


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/slos/a", {"slo": {"name": "b", "service": "s"}}, "slo.name"),
        ("/api/slos/a", {"slo": {"name": "a"}}, "service"),
        ("/api/slos/a", {"slo": {"name": "a", "kind": "odd"}}, "slo.kind"),
        ("/api/slos/a", {"slo": {"name": "a", "kind": "check", "check": "nothing"}}, "name"),
        ("/api/heartbeats/a", {"heartbeat": {"name": "a", "cron": "x"}}, "cron"),
        ("/api/checks/a", {"check": {"name": "a", "url": "http://10.0.0.1/"}}, "url"),
        ("/api/checks/a", {"check": {"name": "a", "url": "file:///etc/passwd"}}, "url"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(server: Server, path: str, body: Any, field: str) -> None:
    answer = send(server, "PUT", path, body)
    assert answer.status in (400, 404), answer.body
    assert field in answer.json().get("field", "") or field in answer.json()["detail"]
