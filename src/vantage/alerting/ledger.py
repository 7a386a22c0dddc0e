"""The noise ledger: how useful the alerts of each rule were, and what would make a noisy rule quieter.

An alert is graded once it has ended, by what people did. A proposal changes the threshold of a rule, or how long its
condition must hold; its effect is that of a backtest, and no alert that somebody needed may be lost by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import msgspec

from vantage.alerting.backtest import Backtest, Firing, backtest, with_threshold
from vantage.core.alert import EVALUATOR, Alert, AlertEvent, entity_key
from vantage.core.alert_rule import Ratio, Rule, StoredRule, Threshold
from vantage.core.deployment import Deployment
from vantage.core.errors import BusyError, InputError, StoreTimeout, StoreUnavailable
from vantage.core.notification import Fate
from vantage.core.number_format import duration_ms
from vantage.core.timerange import TimeRange
from vantage.query.context import QueryContext

ALONE_MS: Final = 300_000  # what resolves by itself so soon needed nobody
DEPLOYMENT_MS: Final = 600_000  # so soon after a deployment an alert is probably of it
ALERTS_MAX: Final = 5000
EVENTS_MAX: Final = 20_000
NOTICES_MAX: Final = 20_000
NOISE_MIN: Final = 3  # alerts of a rule that were noise, before it is worth a proposal
PROPOSALS_MAX: Final = 5  # rules that get proposals, the noisiest ones
HOLD_MS_MAX: Final = 3_600_000
MINUTE_MS: Final = 60_000
MARGIN: Final = 1.05  # a new threshold lies so far beyond the values of noise
SAME_MS: Final = 600_000  # a firing of a backtest so near to an alert is that alert


class Grade(StrEnum):
    """What became of an alert. ``noise``: it was resolved by itself within 5 minutes, or at a deployment, and nobody
    did anything; ``ignored``: it lasted, and nobody did anything."""

    OPEN = "open"
    USEFUL = "useful"
    NOISE = "noise"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Graded:
    """An alert that fired, with its grade and the reason in words. ``at_deployment``: one of its service was just
    before. ``notices`` is how many were sent about it."""

    alert: Alert
    grade: Grade
    at_deployment: bool
    reason: str
    notices: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """``rule`` as it would be; ``change`` says what is different. ``before`` and ``after`` are how often it fires in
    the backtest, ``lost`` how many alerts that were no noise it would not have made."""

    rule: Rule
    revision: int
    change: str
    before: int
    after: int
    lost: int


@dataclass(frozen=True, slots=True)
class RuleLedger:
    """The alerts of a rule by grade, and how many notices were sent about them. ``share`` is that of noise among the
    alerts that have ended, None without any."""

    rule: str
    alerts: tuple[Graded, ...]
    counts: Mapping[Grade, int]
    notices: int
    share: float | None
    proposals: tuple[Proposal, ...] = ()
    problem: str = ""

    @property
    def is_noisy(self) -> bool:
        """Return whether more alerts were noise than not."""
        return self.share is not None and self.share > 1 / 2


async def read_ledger(context: QueryContext, time_range: TimeRange, *, proposals: bool = True) -> list[RuleLedger]:
    """Return the ledger of a range, the noisiest rules first. ``proposals``: with proposals for those. Raises
    StoreUnavailable when the metadata database cannot be reached."""
    alerts = await context.metadata.alerts.alerts(time_range=time_range, limit=ALERTS_MAX)
    fired = [alert for alert in alerts if alert.fired_ms is not None and alert.fired_ms >= time_range.start_ms]
    events = await context.metadata.alerts.events(limit=EVENTS_MAX)
    around = TimeRange(time_range.start_ms - DEPLOYMENT_MS, time_range.end_ms)
    deployments = await context.metadata.deployments(time_range=around, limit=1000)
    sent: Counter[int] = Counter()
    for notice in await context.metadata.notices.notifications(
        fates=[Fate.SENT], since_ms=time_range.start_ms, limit=NOTICES_MAX
    ):
        sent.update({item.alert_id for item in notice.alerts if item.is_new})
    graded = [replace(item, notices=sent[item.alert.id]) for item in grade_all(fired, events, deployments)]
    ledgers = sorted(_ledgers(graded), key=lambda item: (-item.counts[Grade.NOISE], item.rule))
    if not proposals:
        return ledgers
    stored = {item.rule.name: item for item in await context.metadata.alerts.rules()}
    finished = []
    for number, ledger in enumerate(ledgers):
        rule = stored.get(ledger.rule)
        if number < PROPOSALS_MAX and ledger.counts[Grade.NOISE] >= NOISE_MIN and rule is not None:
            ledger = await _with_proposals(context, ledger, rule, time_range)
        finished.append(ledger)
    return finished


def grade_all(alerts: Iterable[Alert], events: Iterable[AlertEvent], deployments: Iterable[Deployment]) -> list[Graded]:
    """Return alerts with their grades. ``events`` and ``deployments`` may be of others too."""
    by_people: dict[int, str] = {}
    for event in events:
        if event.actor != EVALUATOR:
            by_people[event.alert_id] = f"{event.after} by {event.actor}"
    times: dict[str, list[int]] = {}
    for deployment in deployments:
        times.setdefault(deployment.service, []).append(deployment.at_ms)
    return [_graded(alert, by_people.get(alert.id, ""), times.get(alert.service, ())) for alert in alerts]


def _graded(alert: Alert, by_people: str, deployed_ms: Sequence[int]) -> Graded:
    fired_ms = alert.fired_ms or alert.since_ms
    at_deployment = any(0 <= fired_ms - at_ms <= DEPLOYMENT_MS for at_ms in deployed_ms)
    if by_people:
        return Graded(alert, Grade.USEFUL, at_deployment, by_people)
    if alert.ended_ms is None:
        return Graded(alert, Grade.OPEN, at_deployment, "it has not ended")
    lasted_ms = alert.ended_ms - fired_ms
    if at_deployment:
        return Graded(alert, Grade.NOISE, at_deployment, "at a deployment, and nobody did anything")
    if lasted_ms <= ALONE_MS:
        return Graded(alert, Grade.NOISE, at_deployment, f"resolved by itself after {duration_ms(lasted_ms)}")
    return Graded(alert, Grade.IGNORED, at_deployment, f"nobody did anything for {duration_ms(lasted_ms)}")


def _ledgers(graded: Iterable[Graded]) -> list[RuleLedger]:
    by_rule: dict[str, list[Graded]] = {}
    for item in graded:
        by_rule.setdefault(item.alert.rule, []).append(item)
    ledgers = []
    for rule, items in by_rule.items():
        counts = {grade: sum(item.grade is grade for item in items) for grade in Grade}
        ended = len(items) - counts[Grade.OPEN]
        share = counts[Grade.NOISE] / ended if ended else None
        ledgers.append(RuleLedger(rule, tuple(items), counts, sum(item.notices for item in items), share))
    return ledgers


async def _with_proposals(
    context: QueryContext, ledger: RuleLedger, stored: StoredRule, time_range: TimeRange
) -> RuleLedger:
    try:
        before = await backtest(context, stored.rule, time_range)
        proposals = []
        for change, rule in _candidates(stored.rule, ledger.alerts, before):
            after = await backtest(context, rule, time_range)
            lost = _lost(ledger.alerts, after)
            if len(after.firings) < len(before.firings) and not lost:
                counts = (len(before.firings), len(after.firings), lost)
                proposals.append(Proposal(rule, stored.revision, change, *counts))
    except (BusyError, InputError, StoreTimeout, StoreUnavailable) as error:
        return replace(ledger, problem=str(error))
    return replace(ledger, proposals=tuple(sorted(proposals, key=lambda item: item.after)))


def _candidates(rule: Rule, alerts: Sequence[Graded], before: Backtest) -> list[tuple[str, Rule]]:
    """Return rules that the noise of the range would not have passed, with what is different about them."""
    noise = [item for item in alerts if item.grade is Grade.NOISE]
    candidates = []
    longest_ms = max((item.alert.ended_ms or 0) - (item.alert.fired_ms or 0) for item in noise)
    hold_ms = min(HOLD_MS_MAX, rule.hold_ms + (longest_ms // MINUTE_MS + 1) * MINUTE_MS)
    if hold_ms > rule.hold_ms:
        text = f"{hold_ms // MINUTE_MS}m"
        candidates.append((f"for {text} instead of {rule.hold}", msgspec.structs.replace(rule, hold=text)))
    peaks = [firing.peak for firing in before.firings if _alert_of(firing, noise) is not None]
    condition = rule.condition
    if peaks and isinstance(condition, (Threshold, Ratio)):
        is_above = condition.above is not None
        limit = condition.above if condition.above is not None else condition.below
        beyond = max(peaks) if is_above else min(peaks)
        margin = MARGIN if (beyond > 0) is is_above else 1 / MARGIN
        further = float(f"{beyond * margin:.3g}")
        if limit is not None and (further > limit if is_above else further < limit):
            side = "above" if is_above else "below"
            candidates.append((f"{side} {further:g} instead of {limit:g}", with_threshold(rule, further)))
    return candidates


def _alert_of(firing: Firing, alerts: Sequence[Graded]) -> Graded | None:
    key = entity_key(firing.entity)
    for item in alerts:
        fired_ms = item.alert.fired_ms or 0
        if entity_key(item.alert.entity) == key and abs(fired_ms - firing.start_ms) <= SAME_MS:
            return item
    return None


def _lost(alerts: Sequence[Graded], after: Backtest) -> int:
    """Return how many alerts that were no noise have no firing that overlaps them."""
    lost = 0
    for item in alerts:
        if item.grade is Grade.NOISE:
            continue
        key, fired_ms = entity_key(item.alert.entity), item.alert.fired_ms or 0
        end_ms = (item.alert.ended_ms or after.time_range.end_ms) + SAME_MS
        lost += not any(
            entity_key(firing.entity) == key
            and firing.start_ms <= end_ms
            and (firing.end_ms or after.time_range.end_ms) >= fired_ms - SAME_MS
            for firing in after.firings
        )
    return lost
