"""Pages for people, one file each. ``litestar_app`` mounts ``handlers``; ``/traces`` calls ``traces_page``."""

from __future__ import annotations

from vantage.web.pages import (
    alert_channels,
    alert_noise,
    alert_rules,
    alert_silences,
    alerts,
    anomalies,
    changes,
    compare,
    explore,
    health,
    overview,
    palette,
    pipeline,
    service,
    service_map,
    service_parts,
    settings,
    styleguide,
    trace,
    vql,
)

handlers = [
    *alert_noise.handlers,
    *overview.handlers,
    *service.handlers,
    *health.handlers,
    *changes.handlers,
    *service_parts.handlers,
    *service_map.handlers,
    *explore.handlers,
    *compare.handlers,
    *alerts.handlers,
    *alert_rules.handlers,
    *alert_channels.handlers,
    *alert_silences.handlers,
    *anomalies.handlers,
    *vql.handlers,
    *pipeline.handlers,
    *palette.handlers,
    *settings.handlers,
    *styleguide.handlers,
    *trace.handlers,
]
