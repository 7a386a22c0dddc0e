"""Every example of the docs is read, and those that are tests pass."""

import re
from pathlib import Path

import pytest

from vantage.alerting.rule_files import parse_rule, parse_rules
from vantage.alerting.rule_tests import parse_tests, run_test

DOCS = Path(__file__).resolve().parents[2] / "docs" / "alerting.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert any("tests:" in block for block in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_an_example_is_what_it_says(number: int) -> None:
    text = BLOCKS[number]
    if "\ntests:" in text:
        _, document, rules = parse_tests(text, name="docs")
        for test in document.tests:
            assert (await run_test(test, rules)).failures == []
    elif "rules:" in text:
        assert parse_rules(text).rules
    else:
        assert parse_rule(text).name
