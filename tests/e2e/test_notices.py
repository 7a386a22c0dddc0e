"""From data to a mail to a phone: an alert is evaluated, mailed by SMTP, and acknowledged through the mail's link."""

from __future__ import annotations

import email
import re
import time
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from playwright.sync_api import Browser

from tests.e2e.test_every_page import AXE, findings, too_wide
from tests.support.browser import chromium, looking, needs_chromium
from tests.support.npm_package import file_of_package
from tests.support.programs import free_port
from tests.support.server import Answer, Server, serving, vantage
from tests.support.wait import wait_until

pytestmark = needs_chromium
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
PAGES = ("/alerts/channels?kind=email", "/alerts/silences", "/alerts/notifications")


class Inbox:
    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        message = email.message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"


@pytest.fixture(scope="module")
def inbox() -> Iterator[tuple[Inbox, int]]:
    box, port = Inbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("notices") / "data"
    environ = {"VANTAGE_API_KEY": "vtg_test", "VANTAGE_OUTGOING_NETWORKS": "127.0.0.0/8",
               "VANTAGE_PUBLIC_URL": "http://vantage.test", "VANTAGE_SELF_TELEMETRY": "false"}  # fmt: skip
    with serving(data, environ=environ) as server:
        yield server
        assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def call(server: Server, method: str, path: str, body: Any = None) -> Answer:
    import json

    headers = {"Content-Type": "application/json", "X-API-Key": "vtg_test"}
    answer = server.request(method, path, None if body is None else json.dumps(body).encode(), headers)
    assert answer.status < 300, answer
    return answer


def send_slow(server: Server) -> None:
    now_ms = time.time_ns() // 1_000_000
    samples = [
        {"metric_name": "queue.depth", "metric_type": "gauge", "value": 900, "timestamp": now_ms - 60_000 * n}
        for n in range(10)
    ]
    payload = {"service_name": "shop", "environment": "test", "metrics": samples}
    assert server.send(payload, x_api_key="vtg_test").status == 202


@pytest.fixture(scope="module")
def mail(server: Server, inbox: tuple[Inbox, int]) -> EmailMessage:
    """The mail of an alert that data made fire."""
    box, port = inbox
    settings = {"host": "127.0.0.1", "port": port, "tls": "none", "sender": "vantage@example.com",
                "recipients": ["ann@example.com"]}  # fmt: skip
    call(server, "POST", "/api/alerts/channels", {"name": "mail", "kind": "email", "settings": settings})
    call(server, "PUT", "/api/alerts/settings", {"group_wait": "0s", "group_interval": "1s"})
    assert call(server, "POST", "/api/alerts/channels/mail/test").json() == {"accepted": True, "problem": ""}
    wait_until(lambda: len(box.messages) == 2)
    box.messages.clear()
    condition = {"kind": "threshold", "value": {"of": "metric", "service": "shop", "metric": "queue.depth"},
                 "above": 500}  # fmt: skip
    rule = {"name": "queue", "condition": condition, "for": "0s", "every": "5s", "severity": "critical",
            "runbook": "https://wiki.example.com/queue"}  # fmt: skip
    send_slow(server)
    call(server, "POST", "/api/alerts/rules", rule)
    wait_until(lambda: any("queue" in str(message["Subject"]) for message in box.messages), timeout_s=60)
    return next(message for message in box.messages if "queue" in str(message["Subject"]))


def links_of(mail: EmailMessage) -> list[str]:
    html = mail.get_body(("html",))
    assert html is not None
    return re.findall(r'href="http://vantage\.test(/act/[^"]+)"', html.get_content())


def test_an_alert_is_acknowledged_on_a_phone_through_the_link_of_its_mail(
    browser: Browser, server: Server, mail: EmailMessage
) -> None:
    assert mail["Subject"] == "FIRING (critical) shop: queue"
    assert [part.get_content()[:4] for part in mail.walk() if part.get_content_type() == "image/png"] == [b"\x89PNG"]
    acknowledge, silence = links_of(mail)
    axe = file_of_package(AXE, "axe.min.js", "axe").read_text()
    for _ in range(2):  # a scanner of mail opens every link
        assert server.get(acknowledge).status == server.get(silence).status == 200
    assert call(server, "GET", "/api/alerts?state=firing").json()["alerts"][0]["rule"] == "queue"
    with looking(browser, **PHONE) as page:
        page.goto(server.url + acknowledge)
        assert not too_wide(page)
        page.evaluate(axe)
        assert findings(page) == []
        button = page.get_by_role("button", name="Acknowledge")
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 44
        page.get_by_label("Note").fill("on it")
        button.tap()
        page.get_by_text("The alert is acknowledged").wait_for()
        page.goto(server.url + acknowledge)
        page.get_by_text("acknowledged already").wait_for()
    (alert,) = call(server, "GET", "/api/alerts?state=acknowledged").json()["alerts"]
    assert (alert["note"], alert["actor"]) == ("on it", "link in a notice")


def test_an_alert_is_silenced_through_its_link_and_a_wrong_link_does_nothing(
    browser: Browser, server: Server, mail: EmailMessage
) -> None:
    _, silence = links_of(mail)
    with looking(browser, java_script_enabled=False, **PHONE) as page:  # as in the browser of some mail programs
        page.goto(server.url + silence)
        page.get_by_role("button", name="4h").tap()
        page.get_by_text("silenced for 4h").wait_for()
    (stored,) = call(server, "GET", "/api/alerts/silences").json()["silences"]
    assert (stored["rule"], stored["entity"], stored["state"]) == ("queue", {"service": "shop"}, "active")
    wrong = silence[:-2] + ("aa" if silence[-2:] != "aa" else "bb")
    assert server.get(wrong).status == 403
    posted = server.request("POST", wrong, b"duration=1h", {"Content-Type": "application/x-www-form-urlencoded"})
    assert posted.status == 403
    assert len(call(server, "GET", "/api/alerts/silences").json()["silences"]) == 1


def test_the_command_line_silences_lists_and_ends(server: Server, mail: EmailMessage) -> None:
    client = ("--url", server.url, "--api-key", "vtg_test")
    done = vantage("alerts", "silence", "--service", "cart", "--for", "2h", "--comment", "deploy", *client)
    assert re.match(r"silence \d+ is active: service=cart, until ", done.stdout), done
    number = done.stdout.split()[1]
    assert "deploy" in vantage("alerts", "silence", "--list", *client).stdout
    assert vantage("alerts", "silence", "--remove", number, *client).returncode == 0
    refused = vantage("alerts", "silence", "--for", "2h", *client)
    assert refused.returncode == 1
    assert "name a rule, service" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_keys_are_rotated_while_the_server_runs(server: Server, mail: EmailMessage) -> None:
    settings = {"url": "http://127.0.0.1:9/", "hmac_secret": "before"}
    call(server, "POST", "/api/alerts/channels", {"name": "signed", "kind": "webhook", "settings": settings})
    before = (server.data / "secret.key").read_text()
    for _ in range(5):  # longer than old keys stay
        done = vantage("secrets", "rotate", "--data", str(server.data))
        assert done.returncode == 0, done
        assert "1 of 1 channels" in done.stdout
        outcome = call(server, "POST", "/api/alerts/channels/signed/test").json()
        assert "cannot be reached" in outcome["problem"]
    assert not set(before.split()) & {word for word in (server.data / "secret.key").read_text().split() if "_" in word}
    call(server, "DELETE", "/api/alerts/channels/signed")


def test_what_was_sent_is_listed(server: Server, mail: EmailMessage) -> None:
    rows = call(server, "GET", "/api/alerts/notifications?fate=sent").json()["notifications"]
    assert [alert["rule"] for row in rows for alert in row["alerts"] if alert["rule"] == "queue"]
    assert server.counts(x_api_key="vtg_test")['vantage_alert_notices_total{outcome="sent"}'] >= 1
    assert server.get("/api/alerts/channels").status == 401
    assert "vantage@example.com" in call(server, "GET", "/api/alerts/channels/mail").body.decode()


@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("path", PAGES)
def test_pages_of_notices_are_fit_for_people(
    browser: Browser,
    server: Server,
    mail: EmailMessage,
    path: str,
    width: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    axe = file_of_package(AXE, "axe.min.js", "axe").read_text()
    with looking(
        browser, viewport={"width": width, "height": 900}, extra_http_headers={"X-API-Key": "vtg_test"}
    ) as page:
        page.goto(server.url + path)
        page.get_by_role("heading", level=1).wait_for()
        assert not too_wide(page)
        page.evaluate(axe)
        assert findings(page) == []
