"""The words of notices, as plain lines that each notifier escapes in its own way, and templates of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vantage.alerting.channels.notifier import Notice, Tools
from vantage.alerting.links import Act
from vantage.alerting.summary import value_text
from vantage.core.errors import InputError
from vantage.core.notification import NoticeAlert, Status
from vantage.core.printable import printable

LINES_MAX: Final = 20  # alerts that a text has; the others are counted
TITLE_LENGTH_MAX: Final = 150
TEMPLATE_LENGTH_MAX: Final = 2000
TEXT_LENGTH_MAX: Final = 4000
WORDS: Final = {
    Status.FIRING: "FIRING",
    Status.FLAPPING: "FLAPPING",
    Status.ACKNOWLEDGED: "ACKNOWLEDGED",
    Status.RESOLVED: "RESOLVED",
}
USUAL: Final = "{% for alert in alerts %}{{ alert.line }}\n{% endfor %}{% if more %}and {{ more }} more{% endif %}"


def title(notice: Notice) -> str:
    """Return one line: what is up, where, and what it is about."""
    if notice.reason == "digest":
        return "The alerts of the last seven days"
    news = [alert for alert in notice.alerts if alert.is_new] or list(notice.alerts)
    first = news[0]
    about = f"{notice.service}: {first.rule}" if notice.service else first.rule
    more = f" and {len(notice.alerts) - 1} more" if len(notice.alerts) > 1 else ""
    still = "STILL " if notice.reason == "repeated" else ""
    severity = f" ({notice.severity})" if notice.status is Status.FIRING else ""
    return printable(f"{still}{WORDS[notice.status]}{severity} {about}{more}")[:TITLE_LENGTH_MAX]


def line(alert: NoticeAlert) -> str:
    """Return one line about an alert."""
    if alert.status is Status.NONE:
        return printable(alert.text)[:500]
    entity = ", ".join(f"{name}={text}" for name, text in alert.entity.items() if name != "service")
    about = f"{alert.text or alert.rule}{f' [{entity}]' if entity and entity not in alert.text else ''}"
    parts = [f"{WORDS[alert.status]}: {about}"]
    if alert.status is Status.RESOLVED and alert.end_ms is not None:
        parts.append(f"after {lasted_text(alert.end_ms - alert.start_ms)}")
    elif alert.status is Status.ACKNOWLEDGED:
        parts.append(f"by {alert.actor}" + (f": {alert.note}" if alert.note else ""))
    elif alert.status is Status.FLAPPING:
        parts.append("it fires and recovers again and again; no more notices until it is calm")
    else:
        parts.append(f"since {moment_text(alert.start_ms)}")
    return printable(", ".join(parts))[:500]


def moment_text(at_ms: int) -> str:
    """Return a time in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def lasted_text(length_ms: int) -> str:
    """Return a length of time in its two largest units."""
    seconds = max(0, length_ms) // 1000
    units = [("d", seconds // 86_400), ("h", seconds // 3600 % 24), ("m", seconds // 60 % 60), ("s", seconds % 60)]
    parts = [f"{count} {unit}" for unit, count in units if count]
    return " ".join(parts[:2]) or "0 s"


def value_of(alert: NoticeAlert) -> str:
    """Return the alert's value with its unit, '' without one."""
    return "" if alert.value is None else value_text(alert.value, alert.unit)


def links_of(alert: NoticeAlert, tools: Tools) -> list[tuple[str, str]]:
    """Return words and addresses: to see, acknowledge, silence, and the runbook."""
    links = [
        ("Details", tools.alert_url(alert) if alert.alert_id else tools.public_url),
        ("Acknowledge", tools.act_url(Act.ACKNOWLEDGE, alert)),
        ("Silence", tools.act_url(Act.SILENCE, alert)),
        ("Runbook", alert.runbook),
    ]
    return [(word, url) for word, url in links if url]


def check_template(template: str) -> None:
    """Raise InputError for a template that is too long, wrong, or could run for long."""
    if len(template) > TEMPLATE_LENGTH_MAX:
        raise InputError(f"is longer than {TEMPLATE_LENGTH_MAX} characters", field="template")
    try:
        tree = _environment().parse(template)
    except jinja2.TemplateError as error:
        raise InputError(f"is not a template: {error}", field="template") from error
    loops = list(tree.find_all(nodes.For))
    if (
        any(node.find(nodes.For) or isinstance(node, nodes.For) for loop in loops for node in loop.body)
        or len(loops) > 5
    ):
        raise InputError("has a loop within a loop, or more than 5 loops", field="template")
    for kind, word in ((nodes.Mul, "*"), (nodes.Pow, "**"), (nodes.Call, "a call"), (nodes.Macro, "a macro"),
                       (nodes.Mod, "%"), (nodes.Include, "an include"), (nodes.Import, "an import")):  # fmt: skip
        if tree.find(kind):
            raise InputError(f"uses {word}, which notices do not have", field="template")
    for item in tree.find_all(nodes.Filter):
        if item.name not in FILTERS:
            raise InputError(f"uses the filter {item.name!r}: there are {', '.join(sorted(FILTERS))}", field="template")


FILTERS: Final = frozenset(
    {"upper", "lower", "title", "trim", "length", "default", "first", "last", "round", "replace"}
)


def render(template: str, notice: Notice, tools: Tools) -> str:
    """Return what a template says of a notice, at most TEXT_LENGTH_MAX characters; the usual text where it fails,
    with a line that says why: a wrong template must not silence an alert."""
    fields = _fields(notice, tools)
    problem = ""
    try:
        check_template(template)
        text = _environment().from_string(template or USUAL).render(fields)
    except (InputError, jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        problem = f"\n(the template of the channel failed: {str(error)[:200]})"
        text = _environment().from_string(USUAL).render(fields)
    return text.strip()[: TEXT_LENGTH_MAX - len(problem)] + problem


def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


def _fields(notice: Notice, tools: Tools) -> dict[str, Any]:
    """Return what templates may name; docs/alerting-notices.md lists it."""
    alerts = [
        {
            "line": line(alert),
            "rule": printable(alert.rule),
            "service": printable(alert.service),
            "severity": alert.severity,
            "status": str(alert.status),
            "text": printable(alert.text),
            "value": value_of(alert),
            "entity": {name: printable(text) for name, text in alert.entity.items()},
            "labels": {name: printable(text) for name, text in alert.labels.items()},
            "owner": printable(alert.owner),
            "runbook": alert.runbook,
            "url": tools.alert_url(alert),
            "is_new": alert.is_new,
        }
        for alert in notice.alerts[:LINES_MAX]
    ]
    return {
        "title": title(notice),
        "status": str(notice.status),
        "severity": notice.severity,
        "service": printable(notice.service),
        "alerts": alerts,
        "more": len(notice.alerts) - len(alerts),
        "url": f"{tools.public_url}/alerts",
    }
