"""Mail, sent to a real SMTP server: encrypted, in threads, and refused or repeated by its answers."""

from __future__ import annotations

import asyncio
import email
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from tests.alerting.channels.test_channels import HOSTILE, OUTGOING, SECRETS, a_notice, an_alert, tools
from tests.contracts.metadata_contract import NOW_MS
from tests.support.certificate import make_certificate
from vantage.alerting.channel_config import notifier_of, sealed_channel
from vantage.alerting.channels import email as email_channel
from vantage.alerting.channels.notifier import PermanentNotifyError, Tools, TransientNotifyError
from vantage.alerting.outgoing import Outgoing
from vantage.core.channel import Channel
from vantage.core.errors import InputError
from vantage.core.notification import Status

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 50


class Inbox:
    """What the server received; ``answer`` is what it says to the data of a mail."""

    def __init__(self, answer: str = "250 OK", *, refused: str = "") -> None:
        self.answer = answer
        self.refused = refused
        self.messages: list[EmailMessage] = []
        self.users: list[bytes] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if address == self.refused:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        message = email.message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return self.answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.users.append(data.login)
        return AuthResult(success=data.password == b"hunter2", handled=False)


@asynccontextmanager
async def serving(inbox: Inbox, *, ssl_context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(inbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0, ssl=ssl_context
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for _ in range(3):  # connections that are being closed
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    pem, key = make_certificate(tmp_path)
    monkeypatch.setattr(email_channel, "tls_context", lambda: ssl.create_default_context(cafile=pem))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem, key)
    return server


def a_channel(port: int, /, **given: Any) -> Channel:
    values = {"host": "127.0.0.1", "port": port, "tls": "none", "sender": "vantage@example.com",
              "recipients": ["ann@example.com", "bob@example.com"], **given}  # fmt: skip
    return sealed_channel("ops", "email", values, enabled=True, before=None, secrets=SECRETS, outgoing=OUTGOING)


async def send(port: int, *alerts: Any, using: Tools | None = None, **given: Any) -> None:
    await notifier_of(a_channel(port, **given), SECRETS, using or tools()).send(a_notice(*alerts))


async def test_a_mail_has_text_html_links_and_a_thread() -> None:
    inbox = Inbox()
    async with serving(inbox) as port:
        await send(port)
        await send(port, an_alert(status=Status.RESOLVED, end_ms=NOW_MS))
    first, second = inbox.messages
    assert first["To"] == "ann@example.com, bob@example.com"
    assert first["Subject"] == "FIRING (critical) shop: slow"
    assert second["Subject"] == "RESOLVED shop: slow"
    assert first["References"] == second["References"]
    assert first["Message-ID"] == "<vantage.42@example.com>"
    assert first["Auto-Submitted"] == "auto-generated"
    assert "alerts.example.com" in first["List-Id"]
    text = first.get_body(("plain",))
    html = first.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().count("https://vantage.example.com/act/") == 2
    assert html.get_content().count("https://vantage.example.com/act/") == 2
    assert "812 ms" in html.get_content()


async def test_hostile_texts_are_inert_in_headers_and_html() -> None:
    inbox = Inbox()
    async with serving(inbox) as port:
        await send(port, an_alert(text=HOSTILE + "\r\nBcc: eve@example.com", rule="a\r\nBcc: eve@example.com"))
    (message,) = inbox.messages
    assert message["Bcc"] is None
    html = message.get_body(("html",))
    assert html is not None
    assert "<script>" not in html.get_content()


async def test_a_chart_is_shown_in_the_mail_and_its_failure_is_no_failure() -> None:
    async def picture(alert: Any) -> bytes:
        return PNG

    async def failing(alert: Any) -> bytes:
        raise RuntimeError("no data")

    inbox = Inbox()
    async with serving(inbox) as port:
        plain = tools()
        await send(port, using=Tools(plain.outgoing, plain.links, plain.clock, plain.public_url, picture))
        await send(port, using=Tools(plain.outgoing, plain.links, plain.clock, plain.public_url, failing))
    pictures = [part for part in inbox.messages[0].walk() if part.get_content_type() == "image/png"]
    assert [part.get_content() for part in pictures] == [PNG]
    assert pictures[0]["Content-ID"] == "<chart@vantage>"
    html = inbox.messages[0].get_body(("related", "html"))
    assert html is not None
    assert "cid:chart@vantage" in inbox.messages[0].as_string()
    assert "cid:" not in inbox.messages[1].as_string()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("451 try again later", TransientNotifyError),
        ("421 too many", TransientNotifyError),
        ("554 spam", PermanentNotifyError),
    ],
)
async def test_an_answer_says_whether_to_try_again(answer: str, error: type[Exception]) -> None:
    async with serving(Inbox(answer)) as port:
        with pytest.raises(error, match=answer[:3]):
            await send(port)


async def test_a_recipient_that_is_refused_is_named() -> None:
    inbox = Inbox(refused="bob@example.com")
    async with serving(inbox) as port:
        with pytest.raises(PermanentNotifyError, match=r"bob@example\.com"):
            await send(port)
        with pytest.raises(PermanentNotifyError, match="recipients"):
            await send(port, recipients=["bob@example.com"])
    assert len(inbox.messages) == 1


async def test_a_server_that_is_away_is_tried_again() -> None:
    async with serving(Inbox()) as port:
        pass
    with pytest.raises(TransientNotifyError, match="cannot be reached"):
        await send(port)


async def test_a_server_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.receiver import Answer, Receiver

    monkeypatch.setattr(email_channel, "TIMEOUT_S", 0.3)
    async with Receiver(Answer(hangs=True)) as receiver:
        with pytest.raises(TransientNotifyError, match=r"within|used"):
            await send(receiver.port)


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_mail_is_encrypted_and_the_password_is_not_sent_in_clear(contexts: ssl.SSLContext, mode: str) -> None:
    inbox = Inbox()
    options: dict[str, Any] = {"authenticator": inbox.authenticate}
    if mode == "tls":
        options |= {"ssl_context": contexts, "auth_require_tls": False}
    else:
        options |= {"tls_context": contexts, "require_starttls": True, "auth_required": True}
    given = {"host": "localhost", "tls": mode, "user": "vantage"}
    guard = Outgoing(["127.0.0.0/8", "::1"])
    local = tools()
    using = Tools(guard, local.links, local.clock, local.public_url)
    async with serving(inbox, **options) as port:
        await send(port, using=using, password="hunter2", **given)
        with pytest.raises(PermanentNotifyError, match="535"):
            await send(port, using=using, password="wrong", **given)
    assert len(inbox.messages) == 1
    assert set(inbox.users) == {b"vantage"}


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_a_certificate_of_another_name_is_refused(contexts: ssl.SSLContext, mode: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    local = tools()
    using = Tools(Outgoing(["127.0.0.0/8"], resolve=resolve), local.links, local.clock, local.public_url)
    inbox = Inbox()
    options = {"ssl_context": contexts} if mode == "tls" else {"tls_context": contexts}
    async with serving(inbox, **options) as port:
        with pytest.raises(TransientNotifyError, match="certificate"):
            await send(port, using=using, host="mail.example.com", tls=mode)
    assert not inbox.messages


async def test_unencrypted_mail_leaves_no_private_network() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    local = tools()
    using = Tools(Outgoing(resolve=resolve), local.links, local.clock, local.public_url)
    with pytest.raises(PermanentNotifyError, match="encrypted"):
        await send(25, using=using, host="mail.example.com")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"recipients": []}, "recipients"),
        ({"recipients": ["ann"]}, "recipients"),
        ({"recipients": ["ann@example.com\r\nBcc: eve@example.com"]}, "recipients"),
        ({"recipients": ["ann@example.com"] * 51}, "recipients"),
        ({"sender": "Vantage <a@b.c>"}, "sender"),
        ({"port": 0}, "port"),
        ({"host": ""}, "host"),
        ({"host": "10.0.0.1"}, "host"),
        ({"host": "mail.example.com/x"}, "host"),
        ({"tls": "maybe"}, "tls"),
    ],
    ids=range(10),
)
def test_settings_that_cannot_work_are_refused_by_their_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        a_channel(25, **given)
    assert refused.value.field == field
