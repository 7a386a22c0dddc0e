"""The pages of channels, silences and notices: forms that say what is wrong, secrets that are never shown, and hostile
names that are inert."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.alerting.channels.test_channels import SECRETS
from tests.contracts.notice_contract import a_notification, adding
from tests.support.pages import Client, page_client, page_context, text_of
from vantage.alerting.channels.notifier import Tools
from vantage.alerting.dispatch import NoticeSettings
from vantage.alerting.links import Links
from vantage.alerting.notices import Notices
from vantage.alerting.outgoing import Outgoing
from vantage.core.notification import Fate, NoticeAlert, Status
from vantage.query.context import QueryContext
from vantage.web.pages import alert_channels, alert_silences

HOSTILE = "<script>alert('x')<\\script>\" \u202e🦊"
TIMES = set(NoticeSettings.__struct_fields__)
SECRET = "https://hooks.example.com/T0/secret-part"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
def notices(context: QueryContext) -> Notices:
    tools = Tools(Outgoing(["127.0.0.0/8"]), Links(SECRETS, context.clock), context.clock, "https://v.example.com")
    return Notices(context.metadata, SECRETS, tools)  # type: ignore[arg-type]


@pytest.fixture
async def client(context: QueryContext, notices: Notices) -> AsyncIterator[Client]:
    handlers = [*alert_channels.handlers, *alert_silences.handlers]
    async with page_client(context, handlers, notices=notices) as client:
        yield client


async def test_a_channel_is_made_changed_and_removed_by_forms(client: Client, notices: Notices) -> None:
    form = {"kind": "slack", "name": "ops", "url": SECRET, "mention": "<!here>", "enabled": "1"}
    page = await client.post("/alerts/channels", data=form)
    assert "ops is saved" in text_of(page.text)
    assert "secret-part" not in page.text
    stored = await notices.channel("ops")
    assert (stored.settings, stored.enabled) == ({"mention": "<!here>"}, True)
    edit = (await client.get("/alerts/channels?name=ops")).text
    assert "secret-part" not in edit
    assert "set: empty leaves it" in edit
    changed = await client.post("/alerts/channels", data={"kind": "slack", "name": "ops", "url": "", "revision": "1"})
    assert changed.status_code == 200
    again = await notices.channel("ops")
    assert (again.sealed, again.enabled, again.settings) == (stored.sealed, False, {"mention": ""})
    stale = await client.post("/alerts/channels", data={"kind": "slack", "name": "ops", "url": "", "revision": "1"})
    assert "changed meanwhile" in text_of(stale.text)
    await client.post("/alerts/channels/remove", data={"name": "ops"})
    assert list(await notices.store.channels()) == []


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"kind": "slack", "name": "", "url": SECRET}, "name: is empty"),
        ({"kind": "slack", "name": "a/b", "url": SECRET}, "name: may not contain a slash"),
        ({"kind": "slack", "name": "a", "url": "http://10.0.0.1/x"}, "private"),
        ({"kind": "slack", "name": "a", "url": ""}, "url: is empty"),
        ({"kind": "fax", "name": "a"}, "kind: is none of"),
        ({"kind": "email", "name": "a", "host": "h", "sender": "x", "recipients": "", "port": "many"}, "port"),
        ({}, "kind"),
    ],
    ids=range(7),
)
async def test_a_form_says_what_is_wrong_and_shows_no_secret(
    client: Client, form: dict[str, str], problem: str
) -> None:
    page = await client.post("/alerts/channels", data=form)
    assert page.status_code == 400
    assert problem in text_of(page.text)
    assert "secret-part" not in page.text


async def test_a_test_shows_its_outcome_in_the_page(client: Client) -> None:
    await client.post("/alerts/channels", data={"kind": "log", "name": "log"})
    page = await client.post("/alerts/channels/test", data={"name": "log"})
    assert "The test of log was accepted" in text_of(page.text)
    await client.post("/alerts/channels", data={"kind": "webhook", "name": "hook", "url": "http://127.0.0.1:9/"})
    page = await client.post("/alerts/channels/test", data={"name": "hook"})
    assert "was not accepted: 127.0.0.1 cannot be reached" in text_of(page.text)
    assert "no channel has this name" in text_of((await client.post("/alerts/channels/test", data={"name": "x"})).text)


async def test_when_notices_are_sent_is_set_by_a_form(client: Client, notices: Notices) -> None:
    page = (await client.get("/alerts/channels")).text
    sent = {name: value for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page) if name in TIMES}
    assert sent.keys() == TIMES
    assert (sent["repeat"], sent["flapping_changes"], sent["digest_channels"]) == ("4h", "8", "")
    answer = await client.post("/alerts/channels/settings", data={**sent, "repeat": "2h", "digest_channels": "a, b"})
    assert "When notices are sent is saved" in text_of(answer.text)
    settings = await notices.settings()
    assert (settings.repeat, settings.digest_channels, settings.group_wait) == ("2h", ("a", "b"), "30s")
    for wrong in ({"repeat": "soon"}, {"flapping_changes": "x"}, {"digest_cron": "x"}, {"digest_timezone": "Nowhere"}):
        refused = await client.post("/alerts/channels/settings", data={**sent, **wrong})
        assert refused.status_code == 400
        assert "Not saved" in text_of(refused.text)
        assert next(iter(wrong.values())) in refused.text
    assert await notices.settings() == settings


async def test_silences_are_made_listed_with_their_next_times_and_removed(client: Client, notices: Notices) -> None:
    form = {"service": "shop", "duration": "2h", "comment": HOSTILE, "entity": "pod=web-*, host=a"}
    assert (await client.post("/alerts/silences", data=form)).status_code == 200
    weekly = {"service": "*", "duration": "2h", "cron": "30 2 * * 0", "timezone": "Europe/Berlin"}
    page = await client.post("/alerts/silences", data=weekly)
    text = text_of(page.text)
    assert "<script>alert" not in page.text
    assert re.search(r"service=shop.*active.*until", text)
    assert len(re.findall(r"Sun \d\d \w{3} 2026, 02:30 CET to Sun", text)) == 3
    for state in await notices.silences():
        await client.post("/alerts/silences/remove", data={"id": str(state.silence.id)})
    assert "Nothing is silenced" in text_of((await client.get("/alerts/silences")).text)


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"duration": "2h"}, "service: name a rule"),
        ({"service": "*", "duration": "soon"}, "duration: is not a duration"),
        ({"service": "*", "cron": "every night", "duration": "2h"}, "cron: is not a cron expression"),
        ({"service": "*", "timezone": "Mars", "duration": "2h"}, "timezone"),
        ({"service": "*", "start": "tomorrow", "duration": "2h"}, "start: is no time"),
        ({"entity": "pod", "duration": "2h"}, "entity: is not like"),
        ({"service": "*", "severity": "loud", "duration": "2h"}, "severity"),
        ({"service": "*", "duration": ""}, "end: is missing"),
    ],
    ids=range(8),
)
async def test_a_silence_that_is_not_clear_is_refused(client: Client, form: dict[str, str], problem: str) -> None:
    page = await client.post("/alerts/silences", data=form)
    assert page.status_code == 400
    assert problem in text_of(page.text)


async def test_the_form_of_a_silence_is_filled_in_by_its_address(client: Client) -> None:
    page = (await client.get("/alerts/silences", params={"service": HOSTILE, "rule": "slow", "x": "y"})).text
    assert 'name="rule" value="slow"' in page
    assert "<script>alert" not in page


async def test_the_outbox_shows_fates_reasons_and_problems_page_by_page(client: Client, notices: Notices) -> None:
    alert = NoticeAlert("f" * 16, 1, HOSTILE, HOSTILE, "warning", Status.FIRING, 0, text=HOSTILE)
    rows = [a_notification(service=f"s{number}") for number in range(60)]
    rows += [
        a_notification(fate=Fate.FAILED, problem="the receiver answered 404", alerts=(alert,), service=HOSTILE),
        a_notification(fate=Fate.SUPPRESSED, reason="silence 3: deploy"),
    ]
    await notices.store.decide(adding(*rows), at_ms=0)
    page = (await client.get("/alerts/notifications")).text
    assert "<script>alert" not in page
    text = text_of(page)
    for part in ("the receiver answered 404", "silence 3: deploy", "Send again", "Older"):
        assert part in text
    older = re.search(r'href="(/alerts/notifications\?[^"]*before=\d+)"', page)
    assert older is not None
    assert "The latest" in text_of((await client.get(older[1].replace("&amp;", "&"))).text)
    failed = text_of((await client.get("/alerts/notifications?fate=failed&channel=hook")).text)
    assert "silence 3" not in failed
    await client.post("/alerts/notifications/retry", data={"id": "61"})
    stored = await notices.store.notification(61)
    assert stored is not None
    assert stored.fate is Fate.WAITING


@pytest.mark.parametrize("query", ["fate=lost", "channel=%00", "before=x", "before=" + "9" * 30, "before=0"])
async def test_any_address_of_the_outbox_is_a_page(client: Client, query: str) -> None:
    assert (await client.get(f"/alerts/notifications?{query}")).status_code == 200


@pytest.mark.parametrize("path", ["channels/remove", "silences/remove", "notifications/retry"])
async def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    assert (await client.post(f"/alerts/{path}", data={"name": "x", "id": "99"})).status_code == 404
