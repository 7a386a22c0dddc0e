"""The rules that every installation begins with: of every service, heartbeat and check, and quiet."""

from __future__ import annotations

from typing import Final

from vantage.core.alert_rule import (
    AnomalyCondition,
    CheckCondition,
    HeartbeatCondition,
    NoDataCondition,
    RequestValue,
    Rule,
    Severity,
    Threshold,
)

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "Most requests fail",
        Threshold(RequestValue("errors"), above=0.5, recover=0.2),
        description="More than half of a service's requests fail.",
        hold="2m",
        samples_min=20,
        severity=Severity.CRITICAL,
    ),
    Rule(
        "Unusually many requests fail",
        AnomalyCondition("errors", direction="up", errors=0.05, change=1.0),
        description="The share of failed requests is unusual for the service, at least 5 % and twice what is expected.",
        hold="5m",
        samples_min=20,
    ),
    Rule(
        "Unusually slow",
        AnomalyCondition("p95", direction="up", change=0.5, score=1.2),
        description="The p95 of requests is unusual for the service, and half as long again as is expected.",
        hold="10m",
        recover_for="10m",
        samples_min=20,
    ),
    Rule(
        "Unusually few requests",
        AnomalyCondition("rate", direction="down", change=0.7, score=1.2),
        description="A service receives less than a third of the requests that are expected.",
        hold="10m",
        recover_for="10m",
        samples_min=0,
    ),
    Rule(
        "A service sends nothing",
        NoDataCondition(),
        description="A service that sent data in the last day has sent none for 10 minutes.",
        hold="0s",
        recover_for="1m",
    ),
    Rule(
        "A heartbeat is late",
        HeartbeatCondition(),
        description="A job that reports to a heartbeat has not run in time, or has failed.",
        hold="0s",
        recover_for="0s",
    ),
    Rule(
        "An HTTP check fails",
        CheckCondition(),
        description="A URL that is checked has not answered as expected twice in a row.",
        hold="0s",
        recover_for="0s",
        severity=Severity.CRITICAL,
    ),
)
