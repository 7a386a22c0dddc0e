"""Unit tests of rules: what passes, what fails and why, and what a file of tests may not be."""

import pytest

from vantage.alerting.rule_files import RuleFileError
from vantage.alerting.rule_tests import Outcome, parse_tests, parse_values, run_test
from vantage.core.errors import InputError

RULES = """\
version: 1
rules:
  - name: queue is long
    condition:
      kind: threshold
      value: {of: metric, service: api, metric: queue}
      above: 10
      recover: 5
    window: 1m
    for: 2m
    recover_for: 2m
tests:
  - name: it
    input_series:
      - {service: api, metric: queue, values: "1x4 20x10 1x12"}
    expect:
"""


async def run(expect: str, text: str = RULES) -> Outcome:
    _, document, rules = parse_tests(text + f"      - {expect}\n", name="t.yml")
    return await run_test(document.tests[0], rules)


@pytest.mark.parametrize(
    "expect",
    [
        "{at: 3m, alerts: []}",
        "{at: 6m, alerts: [{state: pending}]}",
        "{at: 9m, alerts: [{state: firing, rule: queue is long, entity: {service: api}, value: 20, text: above 10}]}",
        "{at: 25m, alerts: []}",
    ],
    ids=["before", "pending", "firing", "recovered"],
)
async def test_what_is_expected_passes(expect: str) -> None:
    assert (await run(expect)).failures == []


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("{at: 9m, alerts: []}", "nobody expected 'queue is long' firing for service=api"),
        ("{at: 3m, alerts: [{}]}", "expected 'any rule' firing, but there is no alert"),
        ("{at: 9m, alerts: [{value: 21}]}", "with the value 21, but there is 'queue is long' firing"),
        ("{at: 9m, alerts: [{severity: critical}]}", "but there is"),
        ("{at: 9m, alerts: [{entity: {service: shop}}]}", "for service=shop, but there is"),
        ("{at: 6m, alerts: [{state: firing}]}", "pending"),
    ],
    ids=["too many", "none", "value", "severity", "entity", "state"],
)
async def test_what_is_not_expected_is_said(expect: str, message: str) -> None:
    (failure,) = (await run(expect)).failures
    assert message in failure


async def test_a_service_that_ends_sending_has_no_data() -> None:
    text = RULES.replace("1x4 20x10 1x12", "20x8 _x20")
    assert (await run("{at: 20m, alerts: [{state: no data}]}", text)).failures == []


async def test_a_rule_that_cannot_be_evaluated_fails_the_test() -> None:
    text = RULES.replace("of: metric, service: api, metric: queue", "of: vql, query: SELECT nothing FROM metrics")
    (failure,) = (await run("{at: 2m, alerts: []}", text)).failures
    assert "could not be evaluated" in failure
    assert "nothing" in failure


async def test_a_rule_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no rule 'odd'"):
        await run("{at: 2m, rule: odd, alerts: []}")


def test_the_notation_of_values() -> None:
    assert parse_values("0+10x3 _x2 5 1x2 -1.5-0.5x1 _ 1e3") == [
        0, 10, 20, 30, None, None, 5, 1, 1, 1, -1.5, -2, None, 1000,
    ]  # fmt: skip
    for text in ("5y3", "x3", "1+", "nan", "1x9999999", "1x99999 2x99999"):
        with pytest.raises(InputError):
            parse_values(text)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("1x4 20", "1y4 20", "t.yml:15: tests[0].input_series[0].values: '1y4'"),
        ("metric: queue, values", "metric: queue, kind: odd, values", "input_series[0].kind: is not one of"),
        ("version: 1", "version: 3", "version"),
        ("  - name: it", "  - name: it\n    interval: 1ms", "interval: must be a second or more"),
        ("  - name: it", "  - name: it\n    start: never", "start: is no time"),
        ("above: 10", "above: 10\n      below: 1", "rule 'queue is long': condition.above: give one limit"),
    ],
    ids=["values", "kind", "version", "interval", "start", "rule"],
)
def test_a_wrong_file_is_refused_where_it_is_wrong(before: str, after: str, message: str) -> None:
    assert before in RULES
    with pytest.raises(RuleFileError) as error:
        parse_tests(RULES.replace(before, after, 1) + "      - {at: 1m, alerts: []}\n", name="t.yml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "expect", ["{at: 1000d, alerts: []}", "{at: soon, alerts: []}", "{at: 1m, alerts: [{state: odd}]}"]
)
def test_an_expectation_that_cannot_be_is_refused(expect: str) -> None:
    with pytest.raises(RuleFileError):
        parse_tests(RULES + f"      - {expect}\n", name="t.yml")
