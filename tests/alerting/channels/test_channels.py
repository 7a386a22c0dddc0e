"""Each kind of channel against a real receiver: what it sends, and what it makes of the answers."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest

from tests.contracts.metadata_contract import NOW_MS, MovedClock
from tests.support.receiver import Answer, Receiver
from vantage.alerting.channel_config import notifier_of, sealed_channel, settings_of
from vantage.alerting.channels.kinds import KINDS
from vantage.alerting.channels.notifier import Notice, PermanentNotifyError, Tools, TransientNotifyError
from vantage.alerting.deliver import ended_example, example_notice
from vantage.alerting.links import Links
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.secrets import Secrets, new_key
from vantage.core.channel import Channel
from vantage.core.errors import InputError
from vantage.core.notification import NoticeAlert, Status

HOSTILE = "<!channel> @everyone *bold* [x](javascript:1) \u202e\x07 <script>"
SECRETS = Secrets(new_key())
OUTGOING = Outgoing(["127.0.0.0/8"])
GIVEN: dict[str, dict[str, Any]] = {
    "slack": {"mention": "<!here>"},
    "pagerduty": {"routing_key": "a" * 32},
    "webhook": {"hmac_secret": "signing", "authorization": "Bearer abc"},
    "teams": {},
    "discord": {},
    "ntfy": {"topic": "ops-1", "token": "tk"},
}
KINDS_OF_HTTP = sorted(GIVEN)


def an_alert(**fields: Any) -> NoticeAlert:
    alert = NoticeAlert(
        "0123456789abcdef", 7, "slow", "shop", "critical", Status.FIRING, NOW_MS - 60_000,
        entity={"service": "shop", "endpoint": "/pay"}, labels={"team": "shop"}, value=812.0, unit="ms",
        text="p95 is 812 ms", runbook="https://wiki.example.com/slow", owner="ann",
    )  # fmt: skip
    return msgspec.structs.replace(alert, **fields)


def a_notice(*alerts: NoticeAlert, reason: str = "first") -> Notice:
    return Notice("42", "ops", "shop", reason, alerts or (an_alert(),), NOW_MS)


def tools() -> Tools:
    clock = MovedClock()
    return Tools(OUTGOING, Links(SECRETS, clock), clock, "https://vantage.example.com")


def a_channel(kind: str, url: str, /, **given: Any) -> Channel:
    values = {"url": url, **GIVEN[kind], **given}
    return sealed_channel("ops", kind, values, enabled=True, before=None, secrets=SECRETS, outgoing=OUTGOING)


async def sent(kind: str, notice: Notice, *, answer: Answer | None = None, **given: Any) -> list[Any]:
    usual = Answer(202 if kind == "pagerduty" else 200)
    async with Receiver(answer or usual) as receiver:
        await notifier_of(a_channel(kind, receiver.url, **given), SECRETS, tools()).send(notice)
        return [request.json() for request in receiver.received]


@pytest.mark.parametrize("kind", KINDS_OF_HTTP)
async def test_a_notice_says_what_where_and_since_when(kind: str) -> None:
    (payload,) = await sent(kind, a_notice())
    text = msgspec.json.encode(payload).decode().replace("\\\\", "")
    for expected in ("shop", "slow", "p95 is 812 ms", "https://vantage.example.com/alerts/7"):
        assert expected in text, expected


@pytest.mark.parametrize("kind", ["slack", "teams", "discord", "ntfy", "pagerduty"])
async def test_a_notice_has_links_to_act_and_one_that_ended_has_not(kind: str) -> None:
    (payload,) = await sent(kind, a_notice())
    assert str(payload).count("https://vantage.example.com/act/") == 2
    over = an_alert(status=Status.RESOLVED, end_ms=NOW_MS)
    (payload,) = await sent(kind, a_notice(over, reason="ended"))
    assert "/act/" not in str(payload)


@pytest.mark.parametrize("kind", KINDS_OF_HTTP)
async def test_hostile_texts_mention_nobody_and_link_to_nothing(kind: str) -> None:
    hostile = an_alert(text=HOSTILE, rule=HOSTILE, service=HOSTILE, entity={"service": HOSTILE})
    (payload,) = await sent(kind, a_notice(hostile))
    text = msgspec.json.encode(payload).decode()
    if kind != "webhook":
        assert "\u202e" not in text
    if kind == "slack":
        assert text.count("<!channel>") == 0
        assert "&lt;!channel&gt;" in text
    if kind == "discord":
        assert payload["allowed_mentions"] == {"parse": []}
        assert "[x](javascript" not in text


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(500), TransientNotifyError),
        (Answer(503), TransientNotifyError),
        (Answer(429), TransientNotifyError),
        (Answer(400, b"invalid_payload"), PermanentNotifyError),
        (Answer(401), PermanentNotifyError),
        (Answer(404, b"no_service"), PermanentNotifyError),
        (Answer(302, headers={"location": "http://169.254.169.254/"}), PermanentNotifyError),
        (Answer(breaks=True), TransientNotifyError),
    ],
    ids=["500", "503", "429", "400", "401", "404", "302", "breaks"],
)
@pytest.mark.parametrize("kind", KINDS_OF_HTTP)
async def test_an_answer_says_whether_to_try_again(kind: str, answer: Answer, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        await sent(kind, a_notice(), answer=answer)
    assert "127.0.0.1:" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("99999999", 3600.0), ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0), ("soon", None), ("nan", None)],
)
async def test_a_receiver_may_say_when_to_come_back(text: str, seconds: float | None) -> None:
    with pytest.raises(TransientNotifyError) as raised:
        await sent("slack", a_notice(), answer=Answer(429, headers={"retry-after": text}))
    assert raised.value.retry_after_s == seconds


async def test_slack_accepts_by_a_word_alone() -> None:
    with pytest.raises(PermanentNotifyError, match="Slack answered"):
        await sent("slack", a_notice(), answer=Answer(200, b"<html>Welcome</html>"))


async def test_slack_mentions_for_critical_alerts_that_are_new() -> None:
    assert "<!here>" in str(await sent("slack", a_notice()))
    assert "<!here>" not in str(await sent("slack", a_notice(reason="repeated")))
    assert "<!here>" not in str(await sent("slack", a_notice(an_alert(severity="info"))))


async def test_slack_stays_within_its_limits() -> None:
    many = [an_alert(fingerprint=f"{number:016x}", text="x" * 5000) for number in range(200)]
    (payload,) = await sent("slack", a_notice(*many))
    blocks = payload["attachments"][0]["blocks"]
    assert len(blocks) <= 50
    assert all(len(block["text"]["text"]) <= 3000 for block in blocks)
    assert "180 more" in blocks[-1]["text"]["text"]


async def test_pagerduty_gets_an_event_for_each_new_alert_with_a_key_that_stays() -> None:
    notice = a_notice(
        an_alert(),
        an_alert(fingerprint="b" * 16, status=Status.ACKNOWLEDGED, actor="ann"),
        an_alert(fingerprint="c" * 16, status=Status.RESOLVED, end_ms=NOW_MS),
        an_alert(fingerprint="d" * 16, is_new=False),
    )
    events = {event["dedup_key"]: event for event in await sent("pagerduty", notice)}
    assert {key[-1]: event["event_action"] for key, event in events.items()} == {
        "f": "trigger", "b": "acknowledge", "c": "resolve",
    }  # fmt: skip
    trigger = events["vantage/0123456789abcdef"]
    assert trigger["routing_key"] == "a" * 32
    assert (trigger["payload"]["severity"], trigger["payload"]["source"]) == ("critical", "shop")
    assert trigger["payload"]["custom_details"]["value"] == "812 ms"
    assert "payload" not in events["vantage/" + "c" * 16]


async def test_a_webhook_is_alertmanagers_and_signed() -> None:
    notice = a_notice(an_alert(), an_alert(rule="errors", fingerprint="e" * 16, severity="warning"))
    async with Receiver() as receiver:
        await notifier_of(a_channel("webhook", receiver.url), SECRETS, tools()).send(notice)
    (request,) = receiver.received
    signed = request.headers["x-vantage-timestamp"].encode() + b"." + request.body
    assert (
        request.headers["x-vantage-signature"] == "sha256=" + hmac.new(b"signing", signed, hashlib.sha256).hexdigest()
    )
    assert request.headers["authorization"] == "Bearer abc"
    payload = request.json()
    assert (payload["version"], payload["status"], payload["receiver"]) == ("4", "firing", "ops")
    assert payload["groupKey"] == '{}:{service="shop"}'
    assert payload["commonLabels"] == {"team": "shop", "service": "shop", "endpoint": "/pay"}
    first = payload["alerts"][0]
    assert first["labels"] == {**payload["commonLabels"], "alertname": "slow", "severity": "critical"}
    assert first["fingerprint"] == "0123456789abcdef"
    assert (first["startsAt"], first["endsAt"]) == ("2027-01-15T07:59:00.000Z", "0001-01-01T00:00:00Z")
    assert first["annotations"]["runbook_url"] == "https://wiki.example.com/slow"


async def test_teams_gets_a_card_and_ntfy_a_priority() -> None:
    (payload,) = await sent("teams", a_notice())
    card = payload["attachments"][0]["content"]
    assert (card["type"], card["body"][0]["color"]) == ("AdaptiveCard", "Attention")
    assert [action["title"] for action in card["actions"]] == ["Details", "Acknowledge", "Silence", "Runbook"]
    (message,) = await sent("ntfy", a_notice())
    assert (message["topic"], message["priority"]) == ("ops-1", 5)
    over = an_alert(status=Status.RESOLVED, end_ms=NOW_MS)
    assert (await sent("ntfy", a_notice(over)))[0]["priority"] == 2


async def test_a_template_chooses_the_words_and_one_that_fails_silences_nothing() -> None:
    template = "{{ status|upper }} {{ alerts[0].labels.team }}: {{ alerts[0].value }}"
    (message,) = await sent("ntfy", a_notice(), template=template)
    assert message["message"] == "FIRING shop: 812 ms"
    (message,) = await sent("ntfy", a_notice(), template="{{ alerts[0].labels.nothing }}")
    assert "p95 is 812 ms" in message["message"]
    assert "template of the channel failed" in message["message"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ alerts", "{% for a in alerts %}{% for b in alerts %}x{% endfor %}{% endfor %}", "{{ 9 ** 9 ** 9 }}",
        "{{ 'x' * 99999999 }}", "{{ range(9) }}", "{{ title.__class__ }}{{ ''.join() }}", "x" * 5000,
        "{{ '%999999999d' % 1 }}", "{{ title|center(99999999) }}", "{% include 'a' %}", "{% macro a() %}{% endmacro %}",
    ],
    ids=range(11),
)  # fmt: skip
def test_a_template_that_is_wrong_or_could_run_for_long_is_refused(template: str) -> None:
    with pytest.raises(InputError) as refused:
        a_channel("ntfy", "https://ntfy.example.com", template=template)
    assert refused.value.field == "template"


@pytest.mark.parametrize(
    ("kind", "given", "field"),
    [
        ("slack", {"url": ""}, "url"),
        ("slack", {"url": "not a url"}, "url"),
        ("slack", {"url": "http://10.0.0.1/hook"}, "url"),
        ("slack", {"url": 5}, "url"),
        ("slack", {"extra": "x"}, "extra"),
        ("pagerduty", {"routing_key": "short"}, "routing_key"),
        ("pagerduty", {"region": "mars"}, "region"),
        ("ntfy", {"topic": "a/b"}, "topic"),
        ("webhook", {"url": "https://example.com/\0"}, "url"),
    ],
    ids=range(9),
)
def test_settings_that_cannot_work_are_refused_by_their_field(kind: str, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        a_channel(kind, "https://example.com/hook", **given)
    assert refused.value.field == field


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="none of"):
        sealed_channel("a", "fax", {}, enabled=True, before=None, secrets=SECRETS, outgoing=OUTGOING)


def test_secrets_are_stored_encrypted_and_stay_when_they_are_not_given() -> None:
    before = a_channel("webhook", "https://example.com/hook")
    assert set(before.sealed) == {"hmac_secret", "authorization"}
    assert "signing" not in str(before)

    def edited(**given: Any) -> Channel:
        return sealed_channel("ops", "webhook", given, enabled=True, before=before, secrets=SECRETS, outgoing=OUTGOING)

    same = edited(url="https://example.com/hook")
    assert same.sealed == before.sealed
    assert set(edited(url="https://example.com/hook", authorization="").sealed) == {"hmac_secret"}
    with pytest.raises(InputError, match="again"):
        edited(url="https://attacker.example.com/")
    moved = edited(url="https://new.example.com/", authorization="Bearer new", hmac_secret="new")
    assert set(moved.sealed) == {"hmac_secret", "authorization"}


async def test_a_channel_whose_key_is_lost_fails_for_good_with_a_reason() -> None:
    channel = a_channel("slack", "https://example.com/hook")
    with pytest.raises(PermanentNotifyError, match="key"):
        notifier_of(channel, Secrets(new_key()), tools())


def test_every_kind_describes_its_settings() -> None:
    for kind in KINDS.values():
        for setting in settings_of(kind):
            assert setting.title[0].isupper() or setting.title == "URL", (kind.kind, setting.name)
    secret = {kind: [item.name for item in settings_of(KINDS[kind]) if item.is_secret] for kind in KINDS}
    assert secret == {
        "email": ["password"], "slack": ["url"], "pagerduty": ["routing_key"], "teams": ["url"], "discord": ["url"],
        "webhook": ["hmac_secret", "authorization"], "ntfy": ["topic", "token"], "log": [],
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_HTTP)
async def test_a_test_of_a_channel_opens_and_closes_what_it_opens(kind: str) -> None:
    async with Receiver(Answer(200)) as receiver:
        channel = a_channel(kind, receiver.url)
        notice = example_notice(channel, now_ms=NOW_MS)
        await notifier_of(channel, SECRETS, tools()).send(notice)
        await notifier_of(channel, SECRETS, tools()).send(ended_example(notice, now_ms=NOW_MS))
        assert len(receiver.received) == 2
