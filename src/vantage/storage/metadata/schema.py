"""The metadata tables after the newest migration; a test compares the two.

Times are int64 milliseconds. Free text is TEXT without a length: lengths are checked where data enters, once.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(naming_convention={"pk": "pk_%(table_name)s"})

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
_RowId: Final = BigInteger().with_variant(Integer(), "sqlite")

# A name is unique among *active* keys, which depends on the time, so no index can enforce it: see ``keys.create``.
api_key: Final = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # sorted, joined by commas
    Column("secret_hash", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    UniqueConstraint("secret_hash", name="uq_api_key_secret_hash"),
)

deployment: Final = Table(
    "deployment",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("service", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("description", Text, nullable=False),
    Index("ix_deployment_at_ms", "at_ms"),
    Index("ix_deployment_version", "service", "environment", "version"),
    # ``deployments.record`` enforces this rule; the index detects a bug there.
    Index(
        "uq_deployment_detected",
        "service",
        "environment",
        "version",
        unique=True,
        sqlite_where=text("source = 'detected'"),
        postgresql_where=text("source = 'detected'"),
    ),
    sqlite_autoincrement=True,  # an id is never reused, not even after a removal
)

# ``next_offset`` is null until a range was claimed; ``claimed_last`` is null when none is.
stream_position: Final = Table(
    "stream_position",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("next_offset", BigInteger),
    Column("claimed_last", BigInteger),
)

saved_query: Final = Table(
    "saved_query",
    metadata,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

# ``about`` is null unless the comparison is of something that is compared once.
comparison: Final = Table(
    "comparison",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("word", Text, nullable=False),
    Column("about", Text),
    Column("document", JSON, nullable=False),
    UniqueConstraint("about", name="uq_comparison_about"),
    Index("ix_comparison_at_ms", "at_ms"),
    Index("ix_comparison_service", "service", "at_ms"),
)

# ``evidence`` is what the score was computed from.
anomaly: Final = Table(
    "anomaly",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("service", Text, nullable=False),
    Column("figure", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("score", Double, nullable=False),
    Column("value", Double, nullable=False),
    Column("expected", Double),
    Column("low", Double),
    Column("high", Double),
    Column("mode", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Index("ix_anomaly_start_ms", "start_ms"),
    Index("uq_anomaly_series", "service", "figure", "metric", "start_ms", unique=True),
    sqlite_autoincrement=True,
)

# ``document`` is the rule as in a file. A default rule that was removed has its row, so that it does not come back.
alert_rule: Final = Table(
    "alert_rule",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("is_removed", Boolean, nullable=False),
)

# ``entity_key`` is a text of ``entity``. ``ended_ms`` is null while the alert is open.
alert: Final = Table(
    "alert",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("entity", JSON, nullable=False),
    Column("entity_key", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("begun_ms", BigInteger, nullable=False),
    Column("fired_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("recovering_ms", BigInteger),
    Column("value", Double),
    Column("unit", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("waits_for_ok", Boolean, nullable=False),
    Column("labels", JSON, nullable=False),
    Index("ix_alert_ended_ms", "ended_ms"),
    Index("ix_alert_begun_ms", "begun_ms"),
    Index(
        "uq_alert_open",
        "rule",
        "entity_key",
        unique=True,
        sqlite_where=text("ended_ms IS NULL"),
        postgresql_where=text("ended_ms IS NULL"),
    ),
    sqlite_autoincrement=True,
)

# ``handled_ms`` is null until what there is to notify of a transition was written down.
alert_event: Final = Table(
    "alert_event",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("alert_id", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("data_ms", BigInteger, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("value", Double),
    Column("text", Text, nullable=False),
    Column("handled_ms", BigInteger),
    Index("ix_alert_event_alert_id", "alert_id"),
    Index("ix_alert_event_at_ms", "at_ms"),
    Index(
        "ix_alert_event_unhandled",
        "id",
        sqlite_where=text("handled_ms IS NULL"),
        postgresql_where=text("handled_ms IS NULL"),
    ),
    sqlite_autoincrement=True,
)

alert_evaluation: Final = Table(
    "alert_evaluation",
    metadata,
    Column("rule", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("entities", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
)

# One row: what is set for all alerts.
alert_settings: Final = Table(
    "alert_settings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("document", JSON, nullable=False),
)

# ``settings`` is what its notifier reads, ``sealed`` has its secrets, encrypted.
channel: Final = Table(
    "channel",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("sealed", JSON, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

silence: Final = Table(
    "silence",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger),
    Column("rule", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("entity", JSON, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("comment", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("ix_silence_end_ms", "end_ms"),
    sqlite_autoincrement=True,
)

# The outbox. ``alerts`` is what it says, as it was when it was written. ``claimed_until_ms`` is the end of the lease of
# the process that sends it.
notification: Final = Table(
    "notification",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("fate", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("alerts", JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    Column("done_ms", BigInteger),
    Column("claimed_by", Text),
    Column("claimed_until_ms", BigInteger),
    Index("ix_notification_created_ms", "created_ms"),
    Index(
        "ix_notification_waiting",
        "due_ms",
        sqlite_where=text("fate = 'waiting'"),
        postgresql_where=text("fate = 'waiting'"),
    ),
    sqlite_autoincrement=True,
)

# What channels know of alerts, and when the alerts of a service are due on a channel.
notified_alert: Final = Table(
    "notified_alert",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("alert_id", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("firing_ms", BigInteger),
    Column("suppressed", Text, nullable=False),
)

notice_group: Final = Table(
    "notice_group",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("service", Text, primary_key=True),
    Column("due_ms", BigInteger),
    Column("last_ms", BigInteger),
)

slo: Final = Table(
    "slo",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

heartbeat: Final = Table(
    "heartbeat",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("token", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("failed_ms", BigInteger),
    UniqueConstraint("token", name="uq_heartbeat_token"),
)

http_check: Final = Table(
    "http_check",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("failures", BigInteger, nullable=False),
    Column("since_ms", BigInteger),
    Index("ix_http_check_due_ms", "due_ms"),
)

# Append-only: the migration adds triggers that refuse every UPDATE and DELETE.
audit: Final = Table(
    "audit",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSON, nullable=False),
)
