"""Settings of the agent: arguments first, then ``VANTAGE_AGENT_*``, then defaults."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

PREFIX = "VANTAGE_AGENT_"
COLLECTOR_URL_DEFAULT = "http://127.0.0.1:8000"
FLUSH_INTERVAL_S_MIN = 0.05


@dataclass(frozen=True)
class Config:
    """What the agent was told."""

    service_name: str
    scheme: str  # http or https
    host: str
    port: int
    path: str  # of the metrics endpoint
    environment: str = ""
    service_version: str = ""
    instance: str = ""
    api_key: str = field(default="", repr=False)
    flush_interval_s: float = 5.0
    request_timeout_s: float = 10.0
    items_max: int = 10_000  # samples and spans kept while they cannot be sent
    nbytes_max: int = 8 << 20  # of memory, by estimate
    trace_sample_rate: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)  # of every sample
    allowed_tags: frozenset[str] | None = None  # None: all
    redact: Callable[[dict[str, str]], Mapping[str, Any] | None] | None = None

    @property
    def resource(self) -> dict[str, str]:
        """What every batch says of itself; empty fields are left out."""
        named = {
            "service_name": self.service_name,
            "environment": self.environment,
            "service_version": self.service_version,
            "instance": self.instance,
        }
        return {name: text for name, text in named.items() if text}


def make_config(
    environ: Mapping[str, str],
    *,
    flush_interval_s: float = 5.0,
    trace_sample_rate: float | None = None,
    tags: Mapping[str, Any] | None = None,
    allowed_tags: Iterable[str] | None = None,
    redact: Callable[[dict[str, str]], Mapping[str, Any] | None] | None = None,
    **given: Any,
) -> Config:
    """Raises ValueError with one sentence when a setting cannot be used."""

    def setting(name: str, default: str = "") -> str:
        value = given.get(name)
        if value is None or value == "":
            value = environ.get(PREFIX + name.upper(), "")
        text = str(value).strip() or default
        if not text.isprintable():
            raise ValueError(f"{name} holds control characters")
        return text

    url = setting("collector_url", COLLECTOR_URL_DEFAULT)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"collector_url must look like http://host:8000, not {url!r}")
    api_key = setting("api_key")
    if not api_key.isascii():
        raise ValueError("api_key holds characters that no HTTP header can carry")
    rate = setting("trace_sample_rate", "1") if trace_sample_rate is None else trace_sample_rate
    try:
        sample_rate = float(rate)
    except (TypeError, ValueError):
        sample_rate = -1.0
    if not 0 <= sample_rate <= 1:
        raise ValueError(f"trace_sample_rate must be a number from 0 to 1, not {rate!r}")
    if redact is not None and not callable(redact):
        raise ValueError("redact must be a function of a dictionary")
    return Config(
        service_name=setting("service_name", _program_name()),
        scheme=parts.scheme,
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        path=parts.path.rstrip("/") + "/v1/metrics",
        environment=setting("environment"),
        service_version=setting("service_version"),
        instance=setting("instance", _host_name()),
        api_key=api_key,
        flush_interval_s=max(float(flush_interval_s), FLUSH_INTERVAL_S_MIN),
        trace_sample_rate=sample_rate,
        tags={str(key): str(value) for key, value in (tags or {}).items()},
        allowed_tags=None if allowed_tags is None else frozenset(map(str, allowed_tags)),
        redact=redact,
    )


def _program_name() -> str:
    """The script's name, so that samples without a configured service are found under something telling."""
    stem = PurePath(sys.argv[0]).stem if getattr(sys, "argv", None) else ""
    return stem if stem.strip("-_") and stem != "__main__" else "python"


def _host_name() -> str:
    try:
        return socket.gethostname()
    except OSError:
        return ""
