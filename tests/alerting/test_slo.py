"""Error budgets and burn rates: from rollups, over the four pairs of windows."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import HOUR_MS, NOW_MS, a_series
from vantage.alerting.slo import PAIRS, observe_burn_rate, read_burns, read_slo
from vantage.core.alert_rule import BurnRateCondition
from vantage.core.batch import build_batch
from vantage.core.errors import InputError, NotFoundError
from vantage.core.sample import Kind
from vantage.core.slo import Slo, checked_slo
from vantage.query.context import QueryContext

MINUTE_MS = 60_000
SLO = Slo("answers", service="api", objective=99.0)


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


async def send(context: QueryContext, *, since_ms: int, until_ms: int = NOW_MS, good: float, bad: float) -> None:
    """Send as many requests every minute."""
    rows = []
    for status, count in (("200", good), ("500", bad)):
        series = a_series("api", "http.requests", Kind.COUNTER, tags={"status": status, "endpoint": "/a"})
        rows += [(series, at_ms, count) for at_ms in range(since_ms, until_ms, MINUTE_MS) if count]
    await write_batch(context, build_batch(rows))


async def test_a_budget_is_what_bad_requests_leave(context: QueryContext) -> None:
    await send(context, since_ms=NOW_MS - 24 * HOUR_MS, good=995, bad=5)
    state = await read_slo(context, SLO, at_ms=NOW_MS)
    assert state.good == pytest.approx(0.995)
    assert state.budget_left == pytest.approx(0.5)
    assert state.history[0] == 1
    assert state.history[-1] == pytest.approx(0.5)
    assert len(state.history) == 30 * 24
    assert [burn.long for burn in state.burns] == pytest.approx([0.5] * 4, abs=0.02)
    assert not any(burn.holds for burn in state.burns)


async def test_without_requests_nothing_is_known(context: QueryContext) -> None:
    state = await read_slo(context, SLO, at_ms=NOW_MS)
    assert (state.good, state.budget_left) == (None, 1.0)
    assert all(burn.long is None for burn in state.burns)
    await context.metadata.availability.save_slo(SLO, actor="ann")  # type: ignore[attr-defined]
    (observation,) = await observe_burn_rate(context, BurnRateCondition("answers"), at_ms=NOW_MS)
    assert (observation.value, observation.holds, observation.recovered) == (None, False, False)


@pytest.mark.parametrize(("minutes", "fires"), [(90, True), (10, False)], ids=["lasting", "short"])
async def test_both_windows_must_burn(context: QueryContext, minutes: int, fires: bool) -> None:  # noqa: FBT001
    begun_ms = NOW_MS - minutes * MINUTE_MS
    await send(context, since_ms=NOW_MS - 12 * HOUR_MS, until_ms=begun_ms, good=100, bad=0)
    await send(context, since_ms=begun_ms, good=70, bad=30)
    await context.metadata.availability.save_slo(SLO, actor="ann")  # type: ignore[attr-defined]
    (observation,) = await observe_burn_rate(context, BurnRateCondition("answers"), at_ms=NOW_MS)
    assert observation.holds is fires
    assert observation.entity == {"slo": "answers", "service": "api"}
    burns = await read_burns(context, SLO, at_ms=NOW_MS, speed="page")
    assert burns[0].short == pytest.approx(30, rel=0.05)
    assert (burns[0].long or 0) > 14.4 if fires else (burns[0].long or 0) < 14.4


async def test_an_incident_that_is_over_does_not_burn(context: QueryContext) -> None:
    await send(context, since_ms=NOW_MS - 3 * HOUR_MS, until_ms=NOW_MS - HOUR_MS, good=0, bad=100)
    await send(context, since_ms=NOW_MS - HOUR_MS, good=100, bad=0)
    burns = await read_burns(context, SLO, at_ms=NOW_MS)
    assert (burns[1].long or 0) > 6
    assert burns[1].short == 0
    assert not burns[1].holds


async def test_latency_counts_requests_above_the_threshold(context: QueryContext) -> None:
    series = a_series("api", "http.request.duration", Kind.HISTOGRAM, unit="ms", tags={"status": "200"})
    rows = [(series, NOW_MS - 30 * MINUTE_MS + n, 900.0 if n % 10 == 0 else 50.0) for n in range(1000)]
    await write_batch(context, build_batch(rows))
    slo = Slo("fast", "latency", "api", threshold_ms=300.0, objective=80.0, days=1)
    state = await read_slo(context, slo, at_ms=NOW_MS)
    assert (state.total, state.bad) == (1000, 100)
    assert state.budget_left == pytest.approx(0.5)


async def test_an_endpoint_has_a_budget_of_its_own(context: QueryContext) -> None:
    await send(context, since_ms=NOW_MS - HOUR_MS, good=50, bad=50)
    known = await read_slo(context, Slo("a", service="api", endpoint="/a", days=1), at_ms=NOW_MS)
    other = await read_slo(context, Slo("b", service="api", endpoint="/b", days=1), at_ms=NOW_MS)
    assert known.good == pytest.approx(0.5)
    assert other.good is None


async def test_a_rule_of_no_objective_is_an_error(context: QueryContext) -> None:
    with pytest.raises(NotFoundError, match="no SLO"):
        await observe_burn_rate(context, BurnRateCondition("nothing"), at_ms=NOW_MS)


def test_the_pairs_are_those_of_the_workbook() -> None:
    budget_of_30_days = {limit * long_ms / (30 * 24 * HOUR_MS) for limit, long_ms, _, _ in PAIRS}
    assert sorted(round(share, 3) for share in budget_of_30_days) == [0.02, 0.05, 0.1]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"objective": 100.0}, "objective"),
        ({"objective": float("nan")}, "objective"),
        ({"days": 0}, "days"),
        ({"service": ""}, "service"),
        ({"kind": "latency"}, "threshold_ms"),
        ({"kind": "check"}, "check"),
        ({"threshold_ms": 5.0}, "threshold_ms"),
        ({"name": "new"}, "name"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        checked_slo(Slo(**{"name": "n", "service": "api", **fields}))
    assert error.value.field == field
