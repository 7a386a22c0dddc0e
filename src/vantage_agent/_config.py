"""Settings of the agent: arguments first, then ``VANTAGE_AGENT_*``, then OpenTelemetry's variables, then defaults."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from vantage_agent._git import commit_of

PREFIX = "VANTAGE_AGENT_"
COLLECTOR_URL_DEFAULT = "http://127.0.0.1:8000"
FLUSH_INTERVAL_S_DEFAULT = 5.0
FLUSH_INTERVAL_S_MIN = 0.05
FLUSH_INTERVAL_S_MAX = 3600.0
TAGS_MAX = 16  # of every sample, beside its own
RESERVED_TAGS = frozenset(("instance", "service_version"))
TEXT_LENGTH_MAX = 2048
# Names of OpenTelemetry's resource, the newer ones first.
OTEL_NAMES = {
    "service_name": ("service.name",),
    "service_version": ("service.version",),
    "instance": ("service.instance.id",),
    "environment": ("deployment.environment.name", "deployment.environment"),
}

_log = logging.getLogger("vantage_agent")


@dataclass(frozen=True)
class Config:
    """The settings of the agent, checked."""

    service_name: str
    scheme: str  # http or https
    host: str
    port: int
    path: str  # of the metrics endpoint
    environment: str = ""
    service_version: str = ""
    instance: str = ""
    api_key: str = field(default="", repr=False)
    auto_instrument: tuple[str, ...] = ()
    flush_interval_s: float = FLUSH_INTERVAL_S_DEFAULT
    request_timeout_s: float = 10.0
    items_max: int = 10_000  # samples and spans buffered while they cannot be sent
    nbytes_max: int = 6 << 20  # of memory, estimated
    trace_sample_rate: float = 1.0
    runtime_metrics: bool = True
    record_exceptions: bool = True  # with message and stack trace, beside their type
    tags: Mapping[str, str] = field(default_factory=dict)  # of every sample
    allowed_tags: frozenset[str] | None = None  # None: all
    redact: Callable[[dict[str, str]], Mapping[str, Any] | None] | None = None

    @property
    def resource(self) -> dict[str, str]:
        """The resource fields of every batch, without empty ones."""
        fields = {
            "service_name": self.service_name,
            "environment": self.environment,
            "service_version": self.service_version,
            "instance": self.instance,
        }
        return {name: text for name, text in fields.items() if text}


def make_config(environ: Mapping[str, str], **arguments: Any) -> Config:
    """Combine ``arguments``, the arguments of ``init_agent`` (None if absent), with the environment.

    Raises ValueError with one sentence for an invalid setting.
    """
    settings = _Settings(environ, arguments)
    url = settings.text("collector_url", COLLECTOR_URL_DEFAULT)
    scheme, host, port, path = _address(url)
    api_key = settings.text("api_key")
    if not api_key.isascii():
        raise ValueError("api_key contains characters that are invalid in an HTTP header")
    redact = arguments.get("redact")
    if redact is not None and not callable(redact):
        raise ValueError("redact must be a function that accepts a dictionary")
    allowed = settings.names("allowed_tags")
    return Config(
        service_name=settings.text("service_name") or _program_name(),
        scheme=scheme,
        host=host,
        port=port,
        path=path + "/v1/metrics",
        environment=settings.text("environment"),
        service_version=settings.text("service_version") or commit_of(_working_directory()),
        instance=settings.text("instance") or _host_name(),
        api_key=api_key,
        auto_instrument=settings.names("auto_instrument") or (),
        flush_interval_s=settings.number(
            "flush_interval_s", FLUSH_INTERVAL_S_DEFAULT, least=FLUSH_INTERVAL_S_MIN, most=FLUSH_INTERVAL_S_MAX
        ),
        trace_sample_rate=settings.number("trace_sample_rate", 1.0, least=0.0, most=1.0),
        runtime_metrics=settings.switch("runtime_metrics"),
        record_exceptions=settings.switch("record_exceptions"),
        tags=settings.tags(),
        allowed_tags=None if allowed is None else frozenset(allowed),
        redact=redact,
    )


class _Settings:
    """Reads each setting from arguments and environment. Every method raises ValueError."""

    def __init__(self, environ: Mapping[str, str], arguments: Mapping[str, Any]) -> None:
        self._environ = environ
        self._arguments = arguments
        self._otel = self._resource_of_otel()

    def _variable(self, name: str) -> str:
        return self._environ.get(PREFIX + name.upper(), "").strip()

    def text(self, name: str, default: str = "") -> str:
        value = self._arguments.get(name)
        if value is None or value == "":
            value = self._variable(name) or self._otel.get(name, "") or default
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {type(value).__name__}")  # noqa: TRY004  # as the others
        text = value.strip() or default
        if not text.isprintable() or len(text) > TEXT_LENGTH_MAX:
            raise ValueError(f"{name} contains control characters, or more than {TEXT_LENGTH_MAX} characters")
        return text

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        value = self._arguments.get(name)
        if value is None:
            value = self._variable(name) or default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r:.100}")
        return number

    def switch(self, name: str) -> bool:
        """Return a switch, on by default."""
        value = self._arguments.get(name)
        if isinstance(value, bool):
            return value
        text = self._variable(name).lower() if value is None else "?"
        if text in ("", "1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"{name} must be true or false")

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return names, separated by commas in a text; None without the setting."""
        value = self._arguments.get(name)
        if value is None:
            value = self._variable(name) or None
        if value is None:
            return None
        if isinstance(value, str):
            value = value.split(",")
        names: list[Any] = [None]
        if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
            names = list(value)
        if not all(isinstance(text, str) for text in names):
            raise ValueError(f"{name} must be a list of names")
        return tuple(dict.fromkeys(text.strip() for text in names if text.strip()))

    def tags(self) -> dict[str, str]:
        value = self._arguments.get("tags")
        if value is None:
            value = _pairs(self._variable("tags"))
            if value is None:
                raise ValueError(f"{PREFIX}TAGS must look like name=value,name=value")
        if not isinstance(value, Mapping):
            raise ValueError("tags must be a dictionary")  # noqa: TRY004
        tags = {str(key): str(text) for key, text in value.items()}
        if len(tags) > TAGS_MAX or not all(0 < len(key) <= 64 for key in tags):
            raise ValueError(f"tags must be at most {TAGS_MAX}, with names of 1 to 64 characters")
        if not RESERVED_TAGS.isdisjoint(tags):
            raise ValueError(f"tags cannot be called {' or '.join(sorted(RESERVED_TAGS))}: these have settings")
        return tags

    def _resource_of_otel(self) -> dict[str, str]:
        """Read OpenTelemetry's resource: an invalid list is ignored completely, and the service's own variable wins.

        https://opentelemetry.io/docs/specs/otel/resource/sdk/
        """
        pairs = _pairs(self._environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        if pairs is None:
            _log.warning("vantage_agent: OTEL_RESOURCE_ATTRIBUTES must look like name=value,name=value: ignored")
            pairs = {}
        resource = {name: next((pairs[key] for key in keys if pairs.get(key)), "") for name, keys in OTEL_NAMES.items()}
        service = self._environ.get("OTEL_SERVICE_NAME", "").strip()
        return {**resource, "service_name": service} if service else resource


def _pairs(text: str) -> dict[str, str] | None:
    """Parse ``name=value,name=value`` with percent escapes, as in W3C's baggage; None for an invalid list."""
    pairs = {}
    for item in text.split(","):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        try:
            name, value = unquote(name.strip(), errors="strict"), unquote(value.strip(), errors="strict")
        except UnicodeDecodeError:
            return None
        if not equals or not name:
            return None
        pairs[name] = value
    return pairs


def _address(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path without a slash at its end."""
    wrong = f"collector_url must look like http://host:8000, not {url!r:.200}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in ("http", "https") or not host or " " in host or port == 0:
        raise ValueError(wrong)
    # Escape what is invalid in a request's first line; existing escapes stay.
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path


def _program_name() -> str:
    """Return the script's name, as the service of an application that configures none."""
    stem = PurePath(sys.argv[0]).stem if getattr(sys, "argv", None) else ""
    return stem if stem.strip("-_") and stem != "__main__" else "python"


def _host_name() -> str:
    try:
        return socket.gethostname()
    except OSError:
        return ""


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # it may have been deleted, which is no reason to stay off
    except OSError:
        return ""
