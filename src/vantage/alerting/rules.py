"""Changes of rules, checked whole: a rule that is stored can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vantage.alerting.evaluate import data_time_ms
from vantage.alerting.observation import Observation
from vantage.alerting.observe import observe
from vantage.alerting.reading import Lasting, Reading
from vantage.alerting.summary import check_summary
from vantage.alerting.values import ENTITIES_MAX, series_of
from vantage.core.alert_rule import (
    VERSION,
    AnomalyCondition,
    MetricValue,
    Ratio,
    Rule,
    RuleDocument,
    StoredRule,
    Threshold,
    Value,
    VqlValue,
    checked_rule,
)
from vantage.core.errors import InputError, NotFoundError
from vantage.query.context import QueryContext
from vantage.storage.metadata.alert_ports import RULES_MAX, AlertStore

_REQUEST_NAMES: Final = frozenset({"service", "endpoint", "metric"})


class RuleEditing:
    """Checks, previews and stores rules. Methods raise InputError that names the field, and what the stores raise."""

    def __init__(self, context: QueryContext, alerts: AlertStore) -> None:
        self._context = context
        self._alerts = alerts

    async def save(self, rule: Rule, *, actor: str, revision: int | None = None) -> StoredRule:
        """Store a rule, or replace that of its name: only one that has ``revision``, if given (0: there is none).
        Raises ConflictError."""
        return await self._alerts.save_rule(await self.check(rule), actor=actor, revision=revision)

    async def remove(self, name: str, *, actor: str) -> None:
        """Remove a rule; its open alerts are resolved. Raises NotFoundError."""
        if not await self._alerts.remove_rule(name, actor=actor):
            raise NotFoundError("no rule has this name", field="name")

    async def apply(self, document: RuleDocument, *, actor: str, prune: bool = False) -> tuple[list[str], list[str]]:
        """Store the rules of a document, all or nothing; ``prune``: and remove all others. Return the names of those
        that changed, and of those removed. Raises ConflictError."""
        rules = await self.check_document(document)
        stored = {item.rule.name: item.rule for item in await self._alerts.rules()}
        changed = [rule for rule in rules if stored.get(rule.name) != rule]
        removed = sorted(stored.keys() - {rule.name for rule in rules}) if prune else []
        if changed or removed:
            await self._alerts.apply_rules(changed, removed=removed, actor=actor)
        return [rule.name for rule in changed], removed

    async def check_document(self, document: RuleDocument) -> list[Rule]:
        """Return the rules of a document, checked. Raises InputError that names the rule as well."""
        if document.version != VERSION:
            raise InputError(f"is {document.version}: this Vantage reads version {VERSION}", field="version")
        if len(document.rules) > RULES_MAX:
            raise InputError(f"has {len(document.rules)} rules, at most {RULES_MAX} are allowed", field="rules")
        names: set[str] = set()
        rules = []
        for number, rule in enumerate(document.rules):
            where = f"rules[{number}]"
            try:
                checked = await self.check(rule)
            except InputError as error:
                raise InputError(error.reason, field=f"{where}.{error.field}") from error
            if checked.name in names:
                raise InputError(f"is that of another rule: {checked.name}", field=f"{where}.name")
            names.add(checked.name)
            rules.append(checked)
        return rules

    async def check(self, rule: Rule) -> Rule:
        """Return a rule as it is stored. Its queries are run once: what they have wrong is known at once, and how many
        entities they yield."""
        rule = checked_rule(rule)
        check_summary(rule, _entity_names(rule))
        for value in _values(rule):
            await self._check_count(value)
        if not (isinstance(rule.condition, AnomalyCondition) and rule.condition.mode):
            await self.preview(rule)
        return rule

    async def preview(self, rule: Rule) -> Sequence[Observation]:
        """Return what a rule says now, without storing anything."""
        reading = Reading(self._context, at_ms=data_time_ms(self._context), rules=[rule], lasting=Lasting())
        try:
            return await observe(reading, rule)
        finally:
            reading.close()

    async def _check_count(self, value: Value) -> None:
        """Raise InputError for a metric with too many groups, with their number, before anything is read."""
        if not isinstance(value, MetricValue) or not value.group_by:
            return
        reading = Reading(self._context, at_ms=data_time_ms(self._context))
        groups = set()
        for info in await series_of(reading, value):
            tags = dict(info.series.tags)
            fields = {"environment": info.series.environment, "unit": info.series.unit}
            groups.add(tuple(tags.get(name, fields.get(name, "")) for name in value.group_by))
        if len(groups) > ENTITIES_MAX:
            raise InputError(
                f"yields {len(groups)} entities, at most {ENTITIES_MAX} are allowed: group by fewer tags",
                field="condition.value.group_by",
            )


def _values(rule: Rule) -> list[Value]:
    condition = rule.condition
    if isinstance(condition, Threshold):
        return [condition.value]
    return [condition.part, condition.total] if isinstance(condition, Ratio) else []


def _entity_names(rule: Rule) -> frozenset[str] | None:
    """Return the names that a rule's entities may have; None: the query decides."""
    names = set(_REQUEST_NAMES)
    for value in _values(rule):
        if isinstance(value, VqlValue):
            return None
        if isinstance(value, MetricValue):
            names |= set(value.group_by)
    return frozenset(names)
