"""``vantage alerts``: alerts and rules of a running server from the shell, and the exit statuses that CI reads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import NO_RATES
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until
from vantage.core.clock import SystemClock

RULES = """\
version: 1
rules:
  - name: queue is long
    condition:
      kind: threshold
      value: {of: metric, service: api, metric: queue}
      above: 10
    for: 0s
    every: 5s
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("alerts") / "data", environ=NO_RATES) as server:
        now_ms = SystemClock().now_ms()
        samples = [
            {"metric_name": "queue", "metric_type": "gauge", "value": 50.0, "timestamp": now_ms - 5000 + n}
            for n in range(5)
        ]
        server.send({"service_name": "api", "environment": "prod", "metrics": samples})
        yield server
        assert "Traceback" not in server.output, server.output


def alerts(server: Server, *arguments: str) -> Any:
    return vantage("alerts", *arguments, "--url", server.url)


def test_a_backtest_says_when_the_rules_of_a_file_would_have_fired(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(RULES, encoding="utf-8")
    result = alerts(server, "rules", "backtest", str(file), "--start", "now-1h")
    assert result.returncode == 0, result
    first, firing, note = result.stdout.splitlines()
    assert first == "queue is long: 1 alert"
    assert re.fullmatch(r"  \S.* UTC until now: api: avg of queue over 5m: 50, above 10", firing), firing
    assert note == "  note: evaluated every 300 s instead of every 5s"
    assert [rule["name"] for rule in server.get("/api/alerts/rules").json()["rules"] if "queue" in str(rule)] == []
    file.write_text(RULES.replace("metric: queue}", "metric: queue, where: 'value >'}"), encoding="utf-8")
    wrong = alerts(server, "rules", "backtest", str(file))
    assert (wrong.returncode, wrong.stdout) == (1, ""), wrong
    assert "rules.yml:6: rule 'queue is long': condition.value.where: something is missing" in wrong.stderr
    file.write_text(RULES, encoding="utf-8")
    late = alerts(server, "rules", "backtest", str(file), "--start", "soon")
    assert late.returncode == 1
    assert "start" in late.stderr


def test_rules_are_applied_listed_and_acted_on(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(RULES, encoding="utf-8")
    differs = alerts(server, "rules", "diff", str(file))
    assert (differs.returncode, "+name: queue is long" in differs.stdout) == (1, True), differs
    applied = alerts(server, "rules", "apply", str(file))
    assert (applied.returncode, applied.stdout) == (0, "stored queue is long\n"), applied
    assert alerts(server, "rules", "apply", str(file)).stdout == "nothing has changed\n"
    assert alerts(server, "rules", "diff", str(file)).returncode == 0
    exported = alerts(server, "rules", "export")
    assert "name: queue is long" in exported.stdout
    file.write_text(exported.stdout, encoding="utf-8")
    assert alerts(server, "rules", "diff", str(file), "--prune").returncode == 0

    def firing() -> Any:
        listed = json.loads(alerts(server, "list", "--rule", "queue is long", "--format", "json").stdout)["alerts"]
        return listed[0] if listed else None

    alert = wait_until(firing, timeout_s=20)
    assert (alert["state"], alert["service"]) == ("firing", "api")
    assert "queue is long" in alerts(server, "list").stdout
    done = alerts(server, "ack", str(alert["id"]), "--note", "on it")
    assert (done.returncode, done.stdout) == (0, f"{alert['id']}: acknowledged: queue is long\n")
    assert server.get(f"/api/alerts/{alert['id']}").json()["note"] == "on it"
    assert alerts(server, "resolve", str(alert["id"])).returncode == 0
    again = alerts(server, "ack", str(alert["id"]), "999999")
    assert again.returncode == 1
    assert "cannot be acknowledged" in again.stderr
    assert "there is no such alert" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("above: 10", "above: much", "rules.yml:7: rule 'queue is long': condition.above"),
        ("version: 1", "version: 9", "is 9: this Vantage reads version 1"),
        ("metric: queue}", "metric: queue, where: valu > 1}", "rule 'queue is long': condition"),
    ],
    ids=["type", "version", "vql"],
)
def test_a_wrong_file_changes_nothing(server: Server, tmp_path: Path, before: str, after: str, message: str) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(RULES.replace(before, after), encoding="utf-8")
    refused = alerts(server, "rules", "apply", str(file))
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_tests_of_rules_need_no_server(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES, encoding="utf-8")
    tests = tmp_path / "tests.yml"
    text = """\
rule_files: [rules.yml]
tests:
  - name: a long queue fires
    input_series: [{service: api, metric: queue, values: 20x5}]
    expect: [{at: 2m, alerts: [{rule: queue is long}]}]
"""
    tests.write_text(text, encoding="utf-8")
    passed = vantage("alerts", "rules", "test", str(tests))
    assert (passed.returncode, passed.stdout.splitlines()[-1]) == (0, "1 test, 0 failed"), passed
    tests.write_text(text.replace("20x5", "2x5"), encoding="utf-8")
    failed = vantage("alerts", "rules", "test", str(tests))
    assert failed.returncode == 1
    assert "expected 'queue is long' firing, but there is no alert" in failed.stdout
    assert vantage("alerts", "rules", "test", str(tmp_path / "nothing.yml")).returncode == 1
