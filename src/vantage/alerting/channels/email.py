"""Mail by SMTP: text and HTML, a chart inside, and threads by alert."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import html
import ipaddress
import re
import socket
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Any, Final, Literal

import msgspec
import structlog
from msgspec import Meta

from vantage.alerting.channels.notifier import (
    SECRET,
    Notice,
    NotifierKind,
    PermanentNotifyError,
    Tools,
    TransientNotifyError,
)
from vantage.alerting.channels.text import LINES_MAX, line, links_of, title, value_of
from vantage.alerting.outgoing import Outgoing, OutgoingFailed, OutgoingRefused, tls_context
from vantage.core.errors import InputError
from vantage.core.notification import NoticeAlert, Status
from vantage.core.printable import printable

TIMEOUT_S: Final = 25.0
RECIPIENTS_MAX: Final = 50
COLORS: Final = {"critical": "#c4314b", "warning": "#b7791f", "info": "#2b6cb0", "resolved": "#2f855a"}
_ADDRESS: Final = re.compile(r"[^@\s<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,190}")
_log = structlog.get_logger("vantage.alerting")


class EmailConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: Annotated[str, Meta(title="SMTP server")]
    sender: Annotated[str, Meta(title="From", description="An address.")]
    recipients: Annotated[tuple[str, ...], Meta(title="To", description="Addresses, separated by commas.")]
    port: Annotated[int, Meta(title="Port", ge=1, le=65_535)] = 587
    tls: Annotated[
        Literal["starttls", "tls", "none"],
        Meta(title="Encryption", description="starttls: most often port 587; tls: 465; none: private networks only."),
    ] = "starttls"
    user: Annotated[str, Meta(title="User")] = ""
    password: Annotated[str, Meta(title="Password", extra=SECRET)] = ""


class EmailNotifier:
    def __init__(self, config: EmailConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    async def send(self, notice: Notice) -> None:
        """Send one mail to all recipients. Its Message-ID is the same at each attempt."""
        import aiosmtplib

        message = await self._message(notice)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._send(message)
        except TimeoutError as error:
            raise TransientNotifyError(f"{self._config.host} did not answer within {TIMEOUT_S:g} s") from error
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = [item.recipient for item in error.recipients]
            codes = {item.code for item in error.recipients}
            _raise(f"the server refuses the recipients {', '.join(refused)[:200]}", min(codes, default=550), error)
        except aiosmtplib.SMTPResponseException as error:
            _raise(f"the server answered {error.code}: {error.message[:200]}", error.code, error)
        except (aiosmtplib.SMTPException, OSError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise TransientNotifyError(f"{self._config.host} cannot be used: {reason}") from error

    async def _send(self, message: EmailMessage) -> None:
        import aiosmtplib

        config = self._config
        sock = await self._connected()
        client = aiosmtplib.SMTP(
            hostname=config.host,
            port=None,
            sock=sock,
            use_tls=config.tls == "tls",
            start_tls=config.tls == "starttls",
            tls_context=tls_context() if config.tls != "none" else None,
            timeout=TIMEOUT_S,
        )
        try:
            await client.connect()
            if config.user:
                await client.login(config.user, config.password)
            refused, _ = await client.send_message(message, sender=config.sender, recipients=list(config.recipients))
            if refused:
                names = ", ".join(f"{name} ({answer.code})" for name, answer in refused.items())
                raise PermanentNotifyError(f"sent, but not to {names[:300]}")
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit()
        finally:
            client.close()  # and with it the socket, which is its own

    async def _connected(self) -> socket.socket:
        """Return a connection to the checked address of the server. Raises NotifyError."""
        config = self._config
        try:
            addresses = await self._tools.outgoing.addresses(config.host, config.port, field="host")
        except OutgoingRefused as error:
            raise PermanentNotifyError(str(error)) from error
        except OutgoingFailed as error:
            raise TransientNotifyError(str(error)) from error
        failure = ""
        for address in addresses:
            if config.tls == "none" and ipaddress.ip_address(address).is_global:
                raise PermanentNotifyError(f"{config.host} is not in a private network: mail to it must be encrypted")
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (address, config.port))
            except OSError as error:
                sock.close()
                failure = error.strerror or str(error)
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise TransientNotifyError(f"{config.host} cannot be reached: {failure}")

    async def _message(self, notice: Notice) -> EmailMessage:
        config, tools = self._config, self._tools
        message = EmailMessage()
        domain = config.sender.rpartition("@")[2]
        message["From"] = Address("Vantage", addr_spec=config.sender)
        message["To"] = tuple(Address(addr_spec=name) for name in config.recipients)
        message["Subject"] = title(notice)
        message["Date"] = format_datetime(datetime.fromtimestamp(notice.created_ms / 1000, tz=UTC))
        message["Message-ID"] = f"<vantage.{notice.id}@{domain}>"
        first = notice.alerts[0]
        thread = f"<vantage.alert.{first.fingerprint}.{first.alert_id}@{domain}>"
        message["In-Reply-To"] = message["References"] = thread
        name = hashlib.sha256(notice.channel.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        message["List-Id"] = f"<{name}.alerts.{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message["X-Auto-Response-Suppress"] = "All"
        message.set_content(_text(notice, tools))
        picture = await _picture(first, tools)
        message.add_alternative(_html(notice, tools, has_picture=picture is not None), subtype="html")
        if picture is not None:
            parts: Any = message.get_payload()
            parts[1].add_related(
                picture, "image", "png", cid=f"<{PICTURE}>", filename="chart.png", disposition="inline"
            )
        return message


PICTURE: Final = "chart@vantage"


async def _picture(alert: NoticeAlert, tools: Tools) -> bytes | None:
    """Return a chart of the alert, None where there is none. Whatever is wrong with it, the mail is sent."""
    if tools.picture is None or not alert.alert_id:
        return None
    try:
        return await tools.picture(alert)
    except Exception:  # noqa: BLE001 - an alert without a picture is an alert
        _log.warning("a chart for a mail could not be drawn", rule=alert.rule, exc_info=True)
        return None


def _text(notice: Notice, tools: Tools) -> str:
    lines = [title(notice), ""]
    for alert in notice.alerts[:LINES_MAX]:
        lines.append(line(alert))
        lines += [f"  {word}: {url}" for word, url in links_of(alert, tools)]
        lines.append("")
    if len(notice.alerts) > LINES_MAX:
        lines.append(f"and {len(notice.alerts) - LINES_MAX} more: {tools.public_url}/alerts")
    return "\n".join(lines)


def _html(notice: Notice, tools: Tools, *, has_picture: bool) -> str:
    """Return HTML as mail clients read it: tables are not needed, styles are inline, nothing is loaded."""
    esc = html.escape
    parts = []
    parts.append(
        '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark"></head>'
        '<body style="margin:0;padding:16px;font:15px/1.5 system-ui,sans-serif"><div style="max-width:640px">'
    )
    color = COLORS["resolved" if notice.status is Status.RESOLVED else notice.severity]
    parts.append(
        f'<h1 style="font-size:18px;margin:0 0 12px;padding-left:10px;border-left:4px solid {color}">'
        f"{esc(title(notice))}</h1>"
    )
    if has_picture:
        words = esc(f"The value of {notice.alerts[0].rule} over the last hours")
        parts.append(f'<img src="cid:{PICTURE}" alt="{words}" width="600" style="max-width:100%;height:auto">')
    for alert in notice.alerts[:LINES_MAX]:
        value = f" <b>{esc(value_of(alert))}</b>" if alert.value is not None else ""
        parts.append(f'<p style="margin:16px 0 4px">{esc(line(alert))}{value}</p><p style="margin:0">')
        parts += [
            f'<a href="{esc(url)}" style="display:inline-block;margin:4px 12px 4px 0;padding:8px 0">{esc(word)}</a>'
            for word, url in links_of(alert, tools)
        ]
        parts.append("</p>")
    if len(notice.alerts) > LINES_MAX:
        parts.append(f'<p><a href="{esc(tools.public_url)}/alerts">and {len(notice.alerts) - LINES_MAX} more</a></p>')
    parts.append(
        f'<p style="margin-top:20px;font-size:13px;opacity:.7">Channel {esc(printable(notice.channel))} of '
        f'<a href="{esc(tools.public_url)}">Vantage</a>. Links that acknowledge and silence are valid for a week.</p>'
        "</div></body></html>"
    )
    return "".join(parts)


def _raise(reason: str, code: int, error: Exception) -> None:
    if 400 <= code < 500 or code == -1:
        raise TransientNotifyError(reason) from error
    raise PermanentNotifyError(reason) from error


def _check(config: EmailConfig, outgoing: Outgoing) -> None:
    host = config.host
    if any(letter in host for letter in "/?#@"):
        raise InputError("is not the name of a host", field="host")
    outgoing.check_url(f"http://{f'[{host}]' if ':' in host else host}/", field="host")
    if not config.recipients or len(config.recipients) > RECIPIENTS_MAX:
        raise InputError(f"names no address, or more than {RECIPIENTS_MAX}", field="recipients")
    for field, names in (("sender", (config.sender,)), ("recipients", config.recipients)):
        for name in names:
            if not _ADDRESS.fullmatch(name):
                raise InputError(f"{name[:80]!r} is not an address", field=field)
            try:
                Address(addr_spec=name)
            except Exception as error:  # several kinds, for what the parser of headers does not read
                raise InputError(f"{name[:80]!r} is not an address", field=field) from error
    if config.user and config.tls == "none" and not config.password:
        raise InputError("is missing", field="password")


KIND = NotifierKind("email", "Mail (SMTP)", EmailConfig, EmailNotifier, _check)
