"""deploy/: Prometheus' own checker reads the rules and the board, and every metric they name is in the docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clickhouse_server import ClickHouseServer
from tests.support.environments import cannot
from vantage.config import FIELDS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
BOARD = DEPLOY / "grafana" / "vantage.json"
CLICKHOUSE = DEPLOY / "clickhouse"
# Those that are on in the packages of ClickHouse, and that any query or the time fills.
OWN_LOGS = ("query_log", "part_log", "error_log", "metric_log", "asynchronous_metric_log", "trace_log", "text_log",
            "processors_profile_log", "query_views_log", "latency_log", "session_log", "query_metric_log")  # fmt: skip
# What a worker counts beyond the metrics of this version.
_METRIC = re.compile(r"\bvantage_\w+")


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        cannot("rules are checked by promtool: apt-get install prometheus")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documented_metrics() -> dict[str, str]:
    """The name and the type of each metric in the table of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| `(vantage_\w+)` \| (counter|gauge|histogram) \|", text, re.MULTILINE)
    return dict(listed)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    return json.loads(BOARD.read_text())


def board_expressions() -> list[str]:
    queries = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", [])]
    return [*queries, *(annotation["expr"] for annotation in board()["annotations"]["list"])]


def complaints(expressions: list[str]) -> list[str]:
    """Metrics that are not in the docs, and rates of what is not a counter."""
    kinds = documented_metrics()
    exposed = {
        name + ending
        for name, kind in kinds.items()
        for ending in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }
    text = "\n".join(expressions)
    result = [f"{name} is not a metric" for name in _METRIC.findall(text) if name not in exposed]
    rates = re.findall(r"\b(?:rate|increase)\((vantage_\w+)", text)
    result += [f"{name} is a gauge, and has no rate" for name in rates if kinds.get(name) == "gauge"]
    return result


def test_every_metric_of_the_rules_is_in_the_docs() -> None:
    assert len(rules()) >= 15
    assert not complaints([rule["expr"] for rule in rules()])


def test_every_metric_of_the_board_is_in_the_docs() -> None:
    assert len(board_expressions()) >= 30
    assert not complaints(board_expressions())


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("vantage_gone > 0", "vantage_gone is not a metric"),
        ("vantage_worker_kafka_lag_bucket > 0", "vantage_worker_kafka_lag_bucket is not a metric"),
        ("vantage_api_query_duration_seconds > 0", "vantage_api_query_duration_seconds is not a metric"),
        ("rate(vantage_worker_kafka_lag[5m])", "vantage_worker_kafka_lag is a gauge, and has no rate"),
    ],
)
def test_a_wrong_metric_is_noticed(expression: str, complaint: str) -> None:
    assert complaints([expression]) == [complaint]


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_fire_when_they_must() -> None:
    promtool("test", "rules", Path(__file__).with_name("prometheus_rules.yml"))


def test_every_alert_is_named_and_explained() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Vantage")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} == set(rule["annotations"])


def test_prometheus_scrapes_every_role_of_compose() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for item in job["static_configs"] for target in item["targets"]}
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert targets == {
        f"{name}:{service['environment']['VANTAGE_PORT']}"
        for name, service in services.items()
        if any("--role=" in word for word in service.get("command", []))
    }


def test_thresholds_in_bytes_are_shares_of_the_defaults() -> None:
    by_name = {rule["alert"]: rule["expr"] for rule in rules()}
    assert str(FIELDS["queue_bytes_max"].default) in by_name["VantageIngestQueueNearlyFull"]
    assert str(FIELDS["head_bytes_max"].default) in by_name["VantageHeadNearlyFull"]


def test_prometheus_can_parse_every_query_of_the_board(tmp_path: Path) -> None:
    expressions = [
        expression.replace("$__rate_interval", "5m").replace("$instance", ".*") for expression in board_expressions()
    ]
    assert not [expression for expression in expressions if "$" in expression]
    recorded = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(expressions)]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": recorded}]}))
    promtool("check", "rules", file)


def test_panels_of_the_board_have_their_own_ids_and_do_not_overlap() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not occupied & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        occupied |= cells


def merged(folder: Path, changes: ET.Element) -> Path:
    """Return a file with ClickHouse's own logs switched on as in its packages, and ``changes`` merged into that."""
    root = ET.fromstring(
        "<clickhouse><logger/>"
        + "".join(f"<{name}><database>system</database><table>{name}</table></{name}>" for name in OWN_LOGS)
        + "</clickhouse>"
    )
    for change in changes:
        present = root.find(change.tag)
        if change.get("remove"):
            if present is not None:
                root.remove(present)
        elif present is None:
            root.append(change)
        else:
            present.extend(change)
    result = folder / "config.xml"
    ET.ElementTree(root).write(result)
    return result


def test_clickhouse_bounds_its_own_logs(tmp_path: Path) -> None:
    changes = ET.parse(CLICKHOUSE / "config.d" / "vantage.xml").getroot()
    server = ClickHouseServer(tmp_path, config=merged(tmp_path, changes))
    server.start()
    try:
        server.query("SELECT 1")
        server.query("SYSTEM FLUSH LOGS")
        tables = server.query(
            "SELECT name, engine_full FROM system.tables WHERE database = 'system' AND name LIKE '%_log'"
        )
        settings = server.query("SELECT name FROM system.server_settings").splitlines()
        free = server.query("SELECT keep_free_space FROM system.disks WHERE name = 'default'")
    finally:
        server.stop()
    assert int(free) == 1 << 30
    logs = dict(line.split("\t", 1) for line in tables.splitlines())
    assert "query_log" in logs
    assert set(logs) <= {"query_log", "part_log", "error_log"}
    assert all("TTL" in engine for engine in logs.values())
    given = {change.tag for change in changes if not change.tag.endswith("_log")} - {"logger", "storage_configuration"}
    assert given <= set(settings)


def test_the_limits_of_accounts_are_settings_of_clickhouse(tmp_path: Path) -> None:
    (profile,) = ET.parse(CLICKHOUSE / "users.d" / "vantage.xml").getroot().iterfind("profiles/default")
    wanted = {setting.tag for setting in profile}
    server = ClickHouseServer(tmp_path)
    server.start()
    try:
        names = ", ".join(f"'{name}'" for name in sorted(wanted))
        known = server.query(f"SELECT name FROM system.settings WHERE name IN ({names})").split()
    finally:
        server.stop()
    assert set(known) == wanted
