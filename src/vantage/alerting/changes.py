"""What people can change of alerting, as the API and the pages are given it."""

from __future__ import annotations

from dataclasses import dataclass

from vantage.alerting.actions import AlertActions
from vantage.alerting.availability import AvailabilityEditing
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.rules import RuleEditing
from vantage.query.context import QueryContext
from vantage.storage.metadata.ports import MetadataStore


@dataclass(frozen=True, slots=True)
class AlertChanges:
    """Acts on alerts, and edits rules, objectives, heartbeats and checks."""

    actions: AlertActions
    rules: RuleEditing
    availability: AvailabilityEditing


def alert_changes(context: QueryContext, metadata: MetadataStore, outgoing: Outgoing | None = None) -> AlertChanges:
    """Return what changes the alerting of a database; ``outgoing`` decides which addresses may be called."""
    return AlertChanges(
        AlertActions(metadata.alerts, context.clock),
        RuleEditing(context, metadata.alerts),
        AvailabilityEditing(context, metadata.availability, outgoing or Outgoing()),
    )
