"""The loop that evaluates rules and changes the states of alerts.

Any number of processes may run it on one metadata database: they compute the same, and the first one to change an alert
is the one whose transition counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from vantage.alerting.default_rules import DEFAULT_RULES
from vantage.alerting.observation import Observation
from vantage.alerting.observe import observe
from vantage.alerting.reading import Lasting, Reading
from vantage.alerting.transitions import VALUE_EVERY_MS, advance, refreshed
from vantage.alerting.watched import MemoryAnomalies
from vantage.core.alert import EVALUATOR, Alert, State, entity_key
from vantage.core.alert_rule import AnomalyCondition, Rule
from vantage.core.errors import VantageError
from vantage.core.turns import Turns
from vantage.query.anomaly_watch import AnomalyWatch
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import AlertStore, Evaluation
from vantage.storage.metadata.ports import MetadataStore

POLL_S: Final = 5.0
LAG_MS_MAX: Final = 120_000  # the data's clock is behind the wall clock by so much at most
AT_ONCE: Final = 8  # rules that are evaluated at the same time
RECORD_EVERY_MS: Final = 60_000
WINDOW_PARTS: Final = 240  # a rule is evaluated so often at most in the time of its window
PROBLEM_LENGTH_MAX: Final = 500
_log = structlog.get_logger("vantage.alerting")


def data_time_ms(context: QueryContext) -> int:
    """Return the time of the data's own clock: that of the newest data, which is never ahead of the present, nor behind
    it by more than LAG_MS_MAX. While the pipeline is slow, rules wait for it."""
    now_ms, newest_ms = context.present().now_ms, context.store.newest_ms()
    return now_ms - min(max(now_ms - newest_ms, 0), LAG_MS_MAX)


class AlertEvaluator:
    """Evaluates the rules that are due, every POLL_S seconds."""

    name = "alerts"

    def __init__(
        self,
        context: QueryContext,
        metadata: MetadataStore,
        *,
        turns: Turns,
        default_rules: Sequence[Rule] = DEFAULT_RULES,
    ) -> None:
        self._context = replace(context, cache_nbytes_max=0)  # what it reads must not evict what pages show
        self._metadata = metadata
        self._alerts: AlertStore = metadata.alerts
        self._clock = context.clock
        self._telemetry = context.telemetry
        self._turns = turns
        self.default_rules = default_rules
        self._lasting = Lasting()
        self._watches: dict[str, AnomalyWatch] = {}
        self._change_id: int | None = None
        self._rules: list[Rule] = []
        self._evaluated_ms: dict[str, int] = {}
        self._recorded: dict[str, Evaluation] = {}
        self._stored_ms: dict[int, int] = {}  # when the value of an open alert was stored

    async def run(self) -> None:
        """Evaluate until cancelled. Raises what the metadata database raises: it then begins again."""
        await self._alerts.add_default_rules(self.default_rules)
        self._change_id = None
        while True:
            await self.evaluate()
            await self._clock.sleep(POLL_S)

    async def evaluate(self) -> None:
        """Evaluate the rules that are due, and store what has changed. Raises StoreUnavailable when the metadata
        database cannot be reached; of a rule that cannot be evaluated the reason is stored, and its alerts stay as they
        are."""
        await self._load_rules()
        at_ms = data_time_ms(self._context)
        due = [rule for rule in self._rules if self._is_due(rule, at_ms)]
        if not due:
            return
        started = time.perf_counter()
        watched = await self._alerts.watched_alerts()
        await self._end_unwatched(watched, at_ms)
        by_rule: dict[str, dict[str, Alert]] = {}
        for alert in watched:
            by_rule.setdefault(alert.rule, {})[entity_key(alert.entity)] = alert
        await self._watch_modes(due)
        reading = Reading(self._context, at_ms=at_ms, rules=due, lasting=self._lasting)
        gate = asyncio.Semaphore(AT_ONCE)

        async def limited(rule: Rule) -> Evaluation:
            async with gate:
                return await self._evaluate_rule(reading, rule, by_rule.get(rule.name, {}))

        try:
            evaluations = await asyncio.gather(*(limited(rule) for rule in due))
        finally:
            reading.close()
        self._telemetry.alert_evaluation.observe(time.perf_counter() - started)
        open_ids = {alert.id for alert in watched}
        self._stored_ms = {key: at for key, at in self._stored_ms.items() if key in open_ids}
        await self._record(evaluations)

    def _is_due(self, rule: Rule, at_ms: int) -> bool:
        if not rule.enabled:
            return False
        before_ms = self._evaluated_ms.get(rule.name)
        every_ms = max(rule.every_ms, rule.window_ms // WINDOW_PARTS)
        return before_ms is None or abs(at_ms - before_ms) >= every_ms

    async def _load_rules(self) -> None:
        """Read the rules again when anything in the metadata database has changed."""
        change_id = await self._metadata.last_change_id()
        if change_id == self._change_id:
            return
        self._rules = [stored.rule for stored in await self._alerts.rules()]
        self._change_id = change_id
        names = {rule.name for rule in self._rules}
        self._evaluated_ms = {name: at for name, at in self._evaluated_ms.items() if name in names}
        self._recorded = {name: item for name, item in self._recorded.items() if name in names}

    async def _end_unwatched(self, alerts: Iterable[Alert], at_ms: int) -> None:
        """Resolve alerts whose rule has been switched off."""
        off = {rule.name for rule in self._rules if not rule.enabled}
        for alert in alerts:
            if alert.rule in off:
                ended = replace(alert, state=State.RESOLVED, since_ms=at_ms, ended_ms=at_ms, waits_for_ok=False)
                if not alert.is_open:
                    ended = replace(alert, waits_for_ok=False)
                elif alert.state is State.PENDING:
                    ended = replace(alert, state=State.OK)
                note = "the rule was switched off"
                await self._alerts.change_alert(
                    replace(ended, actor=EVALUATOR, note=note), before=alert, at_ms=self._clock.now_ms(), note=note
                )

    async def _watch_modes(self, rules: Iterable[Rule]) -> None:
        """Advance the watches of modes that rules want and the server does not watch in."""
        wanted = {rule.condition.mode for rule in rules if isinstance(rule.condition, AnomalyCondition)}
        for mode in wanted:
            if not mode:
                continue
            watch = self._watches.get(mode)
            if watch is None:
                rows = self._lasting.anomalies[mode] = MemoryAnomalies()
                watch = self._watches[mode] = AnomalyWatch(
                    self._context, rows, turns=self._turns, mode=mode, has_gauges=False
                )
            try:
                await watch.advance()
            except VantageError as error:  # it learns the rest the next time
                _log.warning("a watch for anomalies did not advance", mode=mode, reason=str(error))

    async def _evaluate_rule(self, reading: Reading, rule: Rule, alerts: Mapping[str, Alert]) -> Evaluation:
        self._evaluated_ms[rule.name] = reading.at_ms
        now_ms = self._clock.now_ms()
        try:
            observations = await observe(reading, rule)
        except VantageError as error:
            self._telemetry.alert_evaluations.labels("no_data").inc()
            return Evaluation(rule.name, now_ms, 0, str(error)[:PROBLEM_LENGTH_MAX])
        except Exception as error:  # noqa: BLE001 - one rule's fault must not stop the others
            _log.exception("a rule could not be evaluated", rule=rule.name)
            self._telemetry.alert_evaluations.labels("failed").inc()
            return Evaluation(rule.name, now_ms, 0, f"{type(error).__name__}: {error}"[:PROBLEM_LENGTH_MAX])
        self._telemetry.alert_evaluations.labels("done").inc()
        await self._change(rule, observations, alerts, reading.at_ms)
        return Evaluation(rule.name, now_ms, len(observations))

    async def _change(
        self, rule: Rule, observations: Sequence[Observation], alerts: Mapping[str, Alert], at_ms: int
    ) -> None:
        seen = {entity_key(item.entity): item for item in observations}
        for key in {*seen, *alerts}:
            before, observation = alerts.get(key), seen.get(key)
            after = advance(rule, before, observation, at_ms=at_ms)
            if after is None:
                continue
            if before is None:
                opened = await self._alerts.open_alert(after, note="", at_ms=self._clock.now_ms())
                if opened is not None:
                    self._telemetry.alert_transitions.labels(opened.state.value).inc()
                continue
            if after is before:
                if before.state in (State.PENDING, State.RESOLVED):
                    continue
                if at_ms - self._stored_ms.setdefault(before.id, at_ms) < VALUE_EVERY_MS:
                    continue
                after = refreshed(rule, before, observation)
                self._stored_ms[before.id] = at_ms
                if after == before:
                    continue
            changed = await self._alerts.change_alert(after, before=before, at_ms=self._clock.now_ms())
            if changed and after.state is not before.state:
                self._telemetry.alert_transitions.labels(after.state.value).inc()

    async def _record(self, evaluations: Sequence[Evaluation]) -> None:
        """Store how evaluations went: when that is news, and once a minute."""
        news = [
            item
            for item in evaluations
            if (before := self._recorded.get(item.rule)) is None
            or before.problem != item.problem
            or item.at_ms - before.at_ms >= RECORD_EVERY_MS
        ]
        if news:
            await self._alerts.record_evaluations(news)
            self._recorded |= {item.rule: item for item in news}
