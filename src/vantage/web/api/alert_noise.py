"""``/api/alerts/noise``: how useful the alerts of each rule were, and what would make noisy rules quieter."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vantage.alerting.ledger import Grade, RuleLedger, read_ledger
from vantage.core.alert_rule import Rule
from vantage.query.context import QueryContext
from vantage.web.api.params import End, Start, problems, time_range


class ProposalOut(msgspec.Struct):
    """`rule` as it would be, for a PUT with `revision`; in the range it fires `after` times instead of `before`."""

    change: str
    before: int
    after: int
    revision: int
    rule: Rule


class RuleNoiseOut(msgspec.Struct):
    """Alerts of a rule by grade, and the `notices` sent about them. `share` is that of noise among the alerts that have
    ended, null without any; `problem` is why there is no proposal."""

    rule: str
    noise: int
    useful: int
    ignored: int
    open: int
    notices: int
    share: float | None
    proposals: list[ProposalOut]
    problem: str


class NoiseOut(msgspec.Struct):
    rules: list[RuleNoiseOut]


@get("/api/alerts/noise", summary="The noise ledger", responses=problems(), tags=["alerts"])
async def noise(context: NamedDependency[QueryContext], start: Start = "now-7d", end: End = "now") -> NoiseOut:
    """Return how the alerts that fired in a range were graded, the noisiest rules first."""
    within = time_range(start, end, now_ms=context.present().now_ms)
    return NoiseOut([_out(ledger) for ledger in await read_ledger(context, within)])


def _out(ledger: RuleLedger) -> RuleNoiseOut:
    return RuleNoiseOut(
        ledger.rule,
        ledger.counts[Grade.NOISE],
        ledger.counts[Grade.USEFUL],
        ledger.counts[Grade.IGNORED],
        ledger.counts[Grade.OPEN],
        ledger.notices,
        ledger.share,
        [ProposalOut(item.change, item.before, item.after, item.revision, item.rule) for item in ledger.proposals],
        ledger.problem,
    )


handlers = [noise]
