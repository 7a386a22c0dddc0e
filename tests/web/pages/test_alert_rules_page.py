"""The editor of rules: the form, its YAML, what a rule says now and what it would have done, before it is saved."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import FRAGMENT, Client, page_client, page_context, text_of
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.changes import alert_changes
from vantage.alerting.rule_files import rule_yaml
from vantage.core.alert_rule import HealthCondition, MetricValue, Rule, Threshold
from vantage.core.batch import build_batch
from vantage.core.sample import Kind
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import AlertStore
from vantage.web.pages import alert_rules
from vantage.web.pages.rule_form import FORMS, document_of, field_values, form_of

RULE = Rule("queue is long", Threshold(MetricValue("api", "queue"), above=10.0), labels={"team": "shop"})
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        series = a_series("api", "queue", Kind.GAUGE)
        await write_batch(context, build_batch([(series, NOW_MS - 60_000 * i - 1, 12.0) for i in range(30)]))
        yield context


@pytest.fixture
def store(context: QueryContext) -> AlertStore:
    store: Any = context.metadata.alerts
    return store


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    metadata: Any = context.metadata
    async with page_client(context, alert_rules.handlers, alerting=alert_changes(context, metadata)) as client:
        yield client


class Fields(HTMLParser):
    """Reads the fields of the editor as a browser sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.select = self.area = ""
        self.within = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.within = self.within or given.get("id") == "rule-form"
        if not self.within:
            return
        is_box = given.get("type") == "checkbox"
        if tag == "input" and (not is_box or "checked" in given):
            self.fields[given["name"]] = "on" if is_box else given.get("value") or ""
        elif tag == "select":
            self.select = given["name"]
            self.fields.setdefault(self.select, "")
        elif tag == "option" and self.select and ("selected" in given or not self.fields[self.select]):
            self.fields[self.select] = given["value"] or ""
        elif tag == "textarea":
            self.area = given["name"]
            self.fields[self.area] = ""

    def handle_endtag(self, tag: str) -> None:
        self.within = self.within and tag != "form"
        self.select = "" if tag == "select" else self.select
        self.area = "" if tag == "textarea" else self.area

    def handle_data(self, data: str) -> None:
        if self.area:
            self.fields[self.area] += data


def fields_of(page: str) -> dict[str, str]:
    reader = Fields()
    reader.feed(page)
    return reader.fields


@pytest.mark.parametrize("kind", list(FORMS))
async def test_there_is_a_form_for_each_kind(client: Client, kind: str) -> None:
    page = await client.get("/alerts/rules/new", params={"kind": kind})
    assert page.status_code == 200
    assert FORMS[kind].title in text_of(page.text)
    document = {"name": "n", **FORMS[kind].start}
    assert form_of(document) == kind
    sent = {field.name: text for field, text, _ in field_values(kind, document)}
    again = document_of(kind, document, sent)
    assert msgspec.convert(again, Rule) == msgspec.convert(document, Rule)


async def test_a_rule_is_written_with_the_form_and_saved(client: Client, store: AlertStore) -> None:
    fields = fields_of((await client.get("/alerts/rules/new", params={"kind": "metric", "service": "api"})).text)
    assert fields["f.condition.value.service"] == "api"
    fields |= {"f.name": "queue is long", "f.condition.value.metric": "queue", "f.condition.above": "10", "f.for": "3m"}
    shown = await client.post("/alerts/rules/preview", data=fields, headers=FRAGMENT)
    assert "<html" not in shown.text
    text = text_of(shown.text)
    assert "1 of 1 would fire" in text
    assert "above: 10.0" in text
    assert await store.rule("queue is long") is None
    saved = await client.post("/alerts/rules/save", data=fields, follow_redirects=False)
    assert (saved.status_code, saved.headers["location"]) == (303, "/alerts/rules/queue%20is%20long")
    stored = await store.rule("queue is long")
    assert stored is not None
    assert stored.rule == Rule("queue is long", Threshold(MetricValue("api", "queue"), above=10.0), hold="3m")


async def test_what_the_form_does_not_have_stays(client: Client, store: AlertStore) -> None:
    await store.save_rule(RULE, actor="ann")
    page = await client.get("/alerts/rules/queue is long")
    fields = fields_of(page.text) | {"f.severity": "critical"}
    assert (await client.post("/alerts/rules/save", data=fields, follow_redirects=False)).status_code == 303
    stored = await store.rule("queue is long")
    assert stored is not None
    assert (stored.rule.labels, str(stored.rule.severity), stored.revision) == ({"team": "shop"}, "critical", 2)
    outdated = await client.post("/alerts/rules/save", data=fields)
    assert outdated.status_code == 409
    assert "was changed meanwhile" in text_of(outdated.text)


async def test_a_rule_is_edited_as_yaml(client: Client, store: AlertStore) -> None:
    await store.save_rule(RULE, actor="ann")
    fields = fields_of((await client.get("/alerts/rules/queue is long", params={"as": "yaml"})).text)
    assert fields["yaml"] == rule_yaml(RULE)
    fields["yaml"] = fields["yaml"].replace("team: shop", "team: cart")
    assert (await client.post("/alerts/rules/save", data=fields, follow_redirects=False)).status_code == 303
    stored = await store.rule("queue is long")
    assert stored is not None
    assert stored.rule.labels == {"team": "cart"}
    wrong = fields | {"yaml": fields["yaml"] + "\nodd: 1"}
    answer = await client.post("/alerts/rules/save", data=wrong)
    assert answer.status_code == 400
    assert "has no field 'odd'" in text_of(answer.text)


async def test_a_backtest_is_shown_before_it_is_saved(client: Client) -> None:
    shown = await client.post("/alerts/rules/backtest", data={"yaml": rule_yaml(RULE)}, headers=FRAGMENT)
    text = text_of(shown.text)
    assert re.search(r"1 alert in \d+ evaluations", text), text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f.condition.above": "much"}, "condition.above: is no number"),
        ({"f.condition.below": "1"}, "give one limit: above or below"),
        ({"f.condition.recover": "99"}, "contradicts the limit"),
        ({"f.for": "soon"}, "is not a duration"),
        ({"f.summary": "{{ nothing }}"}, "names 'nothing'"),
        ({"f.runbook": "javascript:alert(1)"}, "is no http or https address"),
        ({"f.condition.value.where": "valu > 1"}, "valu"),
        ({"f.name": HOSTILE}, "may not contain a slash"),
        ({"base": "{"}, ""),
        ({"base": "[1]"}, ""),
        ({"shape": "odd"}, "the form is none of"),
        ({"revision": "x"}, ""),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_what_is_wrong_is_said_and_nothing_is_lost(
    client: Client, store: AlertStore, change: dict[str, str], message: str
) -> None:
    fields = fields_of((await client.get("/alerts/rules/new", params={"kind": "metric"})).text)
    good = {"f.name": "a/b" if "a" in change else "n", "f.condition.value.service": "api"}
    fields |= good | {"f.condition.value.metric": "queue", "f.owner": "ann"} | change
    if "f.name" in change:
        fields["f.name"] += "/"
    for path in ("/alerts/rules/preview", "/alerts/rules/backtest", "/alerts/rules/save"):
        answer = await client.post(path, data=fields, follow_redirects=False)
        assert answer.status_code in (200, 303, 400), path
        assert HOSTILE not in answer.text
        if message:
            assert message in text_of(answer.text), path
            assert await store.rules() == []


async def test_rules_are_listed_with_their_state(client: Client, store: AlertStore) -> None:
    assert "No rule watches anything" in text_of((await client.get("/alerts/rules")).text)
    await store.save_rule(RULE, actor="ann")
    await store.save_rule(Rule("off", HealthCondition(), enabled=False), actor="ann")
    text = text_of((await client.get("/alerts/rules")).text)
    assert "queue is long avg of queue of api over 5m is above 10" in text
    assert "off" in text
    assert (await client.get("/alerts/rules/nothing")).status_code == 404


async def test_a_rule_is_removed(client: Client, store: AlertStore) -> None:
    await store.save_rule(RULE, actor="ann")
    for _ in range(2):
        answer = await client.post("/alerts/rules/remove", data={"name": RULE.name}, follow_redirects=False)
        assert answer.headers["location"] == "/alerts/rules"
    assert await store.rules() == []
