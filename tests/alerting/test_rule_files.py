"""Rules as YAML: what is written is read again, and what is wrong is reported with its line, rule and field."""

import pytest

from vantage.alerting.rule_files import RuleFileError, parse_rule, parse_rules, rule_yaml, rules_yaml
from vantage.core.alert_rule import (
    AnomalyCondition,
    BurnRateCondition,
    CheckCondition,
    Condition,
    Escalation,
    ForecastCondition,
    HealthCondition,
    HeartbeatCondition,
    MetricValue,
    NoDataCondition,
    Ratio,
    RequestValue,
    Rule,
    RuleDocument,
    Severity,
    Threshold,
    VqlValue,
)

GOOD = """\
version: 1
rules:
  - name: checkout is slow
    condition:
      kind: threshold
      value: {of: requests, figure: p95, service: checkout}
      above: 500
      recover: 400
    for: 2m
    severity: critical
  - name: queue
    condition:
      kind: threshold
      value: {of: metric, service: api, metric: queue}
      below: 3
"""
CONDITIONS: list[Condition] = [
    Threshold(MetricValue("api", "queue", "p95", ("host",), ("zone:a",), "value > 1"), above=1.5, recover=1.0),
    Threshold(VqlValue("SELECT service_name,\n  count()\nFROM metrics GROUP BY service_name"), below=1.0),
    Ratio(RequestValue("errors"), RequestValue("rate", "api", "endpoint"), above=0.5),
    AnomalyCondition("metric", "api", "queue", "seasonal", 2.0, "up", 0.1, 0.2),
    ForecastCondition("api", "metric", 90.0, "disk", 48, sure=False),
    NoDataCondition("api", "queue", "15m"),
    HealthCondition(50.0, "api", 70.0),
    BurnRateCondition("checkout", "ticket"),
    HeartbeatCondition("nightly"),
    CheckCondition("home", 3),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: type(condition).__name__)
def test_a_rule_is_the_same_after_yaml(condition: Condition) -> None:
    rule = Rule(
        "\u202ea: 'rule' # {odd} 🦊",
        condition,
        hold="5m",
        severity=Severity.CRITICAL,
        labels={"on": "yes", "no": "1e3"},
        escalate=(Escalation("1h", ("pager",)),),
        enabled=False,
    )
    assert parse_rule(rule_yaml(rule)) == rule
    document = RuleDocument((rule,))
    assert parse_rules(rules_yaml(RuleDocument((rule,))).replace("\u202e", "")).rules[0].condition == condition
    assert document.version == 1


def test_a_file_is_read() -> None:
    document = parse_rules(GOOD)
    assert [rule.name for rule in document.rules] == ["checkout is slow", "queue"]
    assert document.rules[0].hold == "2m"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("version: 1", "version: 2", "f.yml:1: version: is 2: this Vantage reads version 1"),
        ("above: 500", "above: much", "f.yml:7: rule 'checkout is slow': condition.above: expected `float"),
        ("recover: 400", "recover: 600", "f.yml:8: rule 'checkout is slow': condition.recover: contradicts"),
        ("for: 2m", "for: soon", "f.yml:9: rule 'checkout is slow': for: is not a duration"),
        ("for: 2m", "four: 2m", "f.yml:3: rule 'checkout is slow': has no field 'four'"),
        (
            "  - name: queue",
            "  - name: checkout is slow",
            "f.yml:11: rule 'checkout is slow': name: is that of another",
        ),
        ("kind: threshold", "kind: treshold", "rule 'checkout is slow': condition.kind: invalid value 'treshold'"),
        ("      below: 3", "", "f.yml:13: rule 'queue': condition.above: give one limit"),
        ("    for: 2m", "    for: 2m\n    for: 3m", "f.yml:10: 'for' is there twice"),
        ("rules:", "rules: {", "f.yml:"),
        ("severity: critical", "severity: &a critical\n    owner: *a", "f.yml:11: aliases (*name) are not read"),
        ("name: queue", "name: [1]", "rule 'number 2': name: expected `str`"),
    ],
    ids=[
        "version",
        "type",
        "contradiction",
        "duration",
        "unknown",
        "twice",
        "kind",
        "no limit",
        "key twice",
        "no yaml",
        "alias",
        "no name",
    ],
)
def test_what_is_wrong_is_reported_where_it_is(before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(RuleFileError) as error:
        parse_rules(GOOD.replace(before, after, 1), name="f.yml")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "5", "\x00", "a: &x [*x]", "!!python/object:os.system {}", "[" * 2000])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(RuleFileError):
        parse_rules(text)
    with pytest.raises(RuleFileError):
        parse_rule(text)
