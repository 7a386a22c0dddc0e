"""Every setting, once. Sources by rising precedence: defaults, TOML file, ``.env``, environment, flags.

A setting ``x`` is ``x`` in the file, ``VANTAGE_X`` in the environment and ``--x`` among the flags that have one.
Secrets can also be read from a file named by ``VANTAGE_X_FILE``.
"""

from __future__ import annotations

import io
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

from vantage.core.errors import ConfigError
from vantage.memory_limit import memory_limit_nbytes

PREFIX: Final = "VANTAGE_"
AGENT_PREFIX: Final = "VANTAGE_AGENT_"
TEST_VARIABLES: Final = frozenset({"VANTAGE_TEST_LONG", "VANTAGE_TEST_SEED"})
MASK: Final = "********"
FILE_NBYTES_MAX: Final = 1 << 20  # of a file with settings, or with a secret
NUMBER_MAX: Final = 1 << 53  # of any setting
# Defaults that are at most this share of the memory which the process may use: 12 GB and more have the full defaults.
MEMORY_SHARES: Final = {
    "queue_bytes_max": 1 / 32,
    "head_bytes_max": 1 / 12,
    "series_bytes_max": 1 / 24,
    "query_memory_max": 1 / 10,
    "query_cache_bytes": 1 / 64,
}


def _doc(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one process. Lists are TOML arrays, or separated by commas."""

    role: Annotated[Literal["all", "ingest", "worker", "api"], _doc("What this process does.")] = "all"
    host: Annotated[str, _doc("The address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int,
        _doc(
            "The port to listen on; 0 takes any free one and prints it. Of a worker 9091, of an api 5000.",
            ge=0,
            le=65535,
        ),
    ] = 8000
    data: Annotated[str, _doc("The data folder.")] = "./data"
    store_url: Annotated[
        str,
        _doc(
            "The telemetry store. Empty: the embedded store in the data folder; or sqlite:///FOLDER; "
            "or chdb:///FOLDER: ClickHouse's engine inside this process; "
            "or clickhouse://USER:PASSWORD@HOST:9000/DATABASE: a ClickHouse server. Secret for its password."
        ),
    ] = ""
    clickhouse_host: Annotated[
        str, _doc("The host of a ClickHouse server: short for store_url = clickhouse://HOST:9000/vantage.")
    ] = ""
    clickhouse_connections: Annotated[
        int,
        _doc("Connections to a ClickHouse server: four for exports, one for inserts, others for queries.", ge=6),
    ] = 10
    clickhouse_cluster: Annotated[
        str,
        _doc("The cluster of the ClickHouse server: tables are on each of its nodes, replicated, and are read as one."),
    ] = ""
    broker_url: Annotated[
        str,
        _doc(
            "A Kafka-compatible broker between ingest and the store: kafka://HOST:9092, several hosts separated by "
            "commas, user:password@ before them; ?tls=true, ca=FILE and sasl=SCRAM-SHA-512 after them. Empty: none."
        ),
    ] = ""
    kafka_acks: Annotated[
        Literal["all", "1"],
        _doc("Acknowledgement before a 202. all: of every replica in sync. 1: of the leader, which may lose it."),
    ] = "all"
    kafka_compression: Annotated[
        Literal["lz4", "zstd", "snappy", "gzip", "none"], _doc("How messages are compressed.")
    ] = "lz4"
    kafka_partitions: Annotated[
        int, _doc("Partitions of the topic metrics-raw when it is created: at most as many workers share it.", ge=1)
    ] = 6
    kafka_replicas: Annotated[int, _doc("Replicas of topics when they are created.", ge=1)] = 1
    batch_rows: Annotated[int, _doc("Samples and spans that a worker writes at once.", ge=1, le=1_000_000)] = 10_000
    batch_wait_s: Annotated[float, _doc("Seconds after which it writes fewer.", gt=0, le=60)] = 1.0
    metadata_url: Annotated[
        str,
        _doc(
            "The metadata database. Empty: metadata.db in the data folder; or sqlite:///FILE; "
            "or postgresql://USER:PASSWORD@HOST:5432/DATABASE, which several servers may share. "
            "Secret for its password."
        ),
    ] = ""
    api_key: Annotated[str, _doc("A key with all scopes, besides those made with `vantage keys`. Secret.")] = ""
    auth: Annotated[
        Literal["auto", "required", "off"],
        _doc("Whether requests need a key. auto: as soon as a key exists."),
    ] = "auto"
    ingest_rate_limit: Annotated[
        int, _doc("Ingest requests a minute for each key or address; 0 is no limit.", ge=0)
    ] = 1000
    api_rate_limit: Annotated[
        int, _doc("API requests a minute for each key, session or address; 0 is no limit.", ge=0)
    ] = 500
    rate_limit_url: Annotated[
        str,
        _doc(
            "The Redis in which servers share their rates, as redis://USER:PASSWORD@HOST:6379/0, or rediss:// for TLS. "
            "Empty: every server counts by itself. Secret for its password."
        ),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...], _doc("Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are trusted.")
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        _doc("Host names this server answers to, besides localhost, its own name and plain addresses; * is any."),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], _doc("Web origins that may call the API from a browser, such as https://app.example.com.")
    ] = ()
    workers: Annotated[
        int,
        _doc(
            "Processes that serve the port, of the roles ingest and api. Memory is shared out among them.", ge=1, le=64
        ),
    ] = 1
    tls_certificate: Annotated[str, _doc("PEM file with the certificate chain; turns HTTPS on.")] = ""
    tls_key: Annotated[str, _doc("PEM file with the private key of the certificate.")] = ""
    drain_delay_s: Annotated[
        float,
        _doc(
            "Seconds during which requests are still accepted after SIGTERM, while /health/ready answers 503.",
            ge=0,
            le=300,
        ),
    ] = 0.0
    shutdown_timeout_s: Annotated[
        float,
        _doc("Seconds after that until the server has stopped; requests have most of them to finish.", ge=0, le=300),
    ] = 10.0
    header_timeout_s: Annotated[float, _doc("Seconds a request has to send its headers.", gt=0, le=300)] = 10.0
    body_timeout_s: Annotated[float, _doc("Seconds a request has to send its body.", gt=0, le=300)] = 15.0
    connections_max: Annotated[int, _doc("Open connections at the same time; further ones are closed.", ge=1)] = 10_000
    synchronous: Annotated[
        Literal["FULL", "NORMAL"],
        _doc("FULL: a 202 survives a power cut. NORMAL: it survives a killed process, not always a power cut."),
    ] = "FULL"
    queue_bytes_max: Annotated[
        int, _doc("Bytes of batches that may wait for the journal before ingest answers 503.", ge=1 << 20)
    ] = 64 << 20
    head_bytes_max: Annotated[
        int,
        _doc("Memory for data not sealed yet; beyond it ingest answers 503 until sealing has caught up.", ge=1 << 20),
    ] = 1 << 30
    series_max: Annotated[
        int,
        _doc(
            "Series that are stored; the samples of further ones go to the series `__overflow__` of their metric.", ge=1
        ),
    ] = 200_000
    series_bytes_max: Annotated[
        int, _doc("Memory for the names and tags of series; beyond it further series are treated alike.", ge=1 << 20)
    ] = 512 << 20
    services_max: Annotated[
        int,
        _doc(
            "Distinct services and environments that senders may use; further ones are recorded as `__overflow__`.",
            ge=1,
        ),
    ] = 10_000
    backup_folder: Annotated[
        str,
        _doc("Where backups from the page of settings go; by default a folder beside `data`, with `-backups` added."),
    ] = ""
    retention_days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | None,
        _doc("Days that data is retained; none: until the disk budget is full. Older samples are rejected."),
    ] = None
    retention_rules: Annotated[
        tuple[str, ...],
        _doc("Shorter retention, as SERVICE/METRIC=DAYS with * for any, such as checkout/*=30 or */debug.*=7."),
    ] = ()
    disk_budget_bytes: Annotated[
        int,
        _doc("Bytes of telemetry on disk; beyond it the oldest samples and spans expire, then rollups.", ge=1 << 20),
    ] = 10_000_000_000
    query_timeout_s: Annotated[float, _doc("Seconds a query may run.", gt=0, le=30)] = 30.0
    query_samples_max: Annotated[
        int, _doc("Samples a query may read, or a tenth as many spans; a query that would read more is refused.", ge=1)
    ] = 50_000_000
    query_memory_max: Annotated[
        int, _doc("Bytes of memory a query may take; one that needs more is refused.", ge=1 << 20)
    ] = 1_000_000_000
    query_cache_bytes: Annotated[
        int, _doc("Memory for results of queries, cached for up to 5 minutes; 0: no cache.", ge=0)
    ] = 32 << 20
    anomaly_mode: Annotated[
        Literal["seasonal", "robust", "sigma", "off"],
        _doc(
            "How anomalies are noticed. seasonal: states that a series has not been in; robust: median and MAD of 7 "
            "days; sigma: their mean and standard deviation; off: not at all."
        ),
    ] = "seasonal"
    anomaly_series_max: Annotated[
        int, _doc("Series watched for anomalies, of 10 kB each; further ones are counted.", ge=0, le=100_000)
    ] = 1000
    detectors_folder: Annotated[
        str,
        _doc("A folder of Python files with detectors of one's own, run once an hour in processes of their own."),
    ] = ""
    public_url: Annotated[
        str, _doc("The address at which people open Vantage, for links in notices. Empty: http://HOST:PORT.")
    ] = ""
    secret_key: Annotated[
        str,
        _doc(
            "Encrypts secrets of channels and signs links in notices, as `vantage secrets key` prints it; older keys "
            "after it, separated by commas. Empty: the file secret.key in the data folder. Secret."
        ),
    ] = ""
    outgoing_networks: Annotated[
        tuple[str, ...],
        _doc(
            "Private networks, such as 10.0.0.0/8, that alert channels and HTTP checks may call; * is any. Empty: none."
        ),
    ] = ()
    websockets_max: Annotated[int, _doc("Open WebSockets at the same time.", ge=1)] = 500
    self_telemetry: Annotated[bool, _doc("Whether Vantage records telemetry of itself, as the service `vantage`.")] = (
        True
    )
    log_format: Annotated[
        Literal["auto", "json", "console"], _doc("auto: readable on a terminal, JSON lines otherwise.")
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("The least severe level logged.")] = "info"
    debug: Annotated[bool, _doc("Log every request, and at level debug; and show `/styleguide`.")] = False

    @property
    def listens_beyond_loopback(self) -> bool:
        """Return whether other machines can connect."""
        try:
            return not ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host != "localhost"


SECRETS: Final = frozenset({"api_key", "secret_key"})
ROLE_PORTS: Final = {"worker": 9091, "api": 5000}
URLS: Final = frozenset({"store_url", "metadata_url", "broker_url", "rate_limit_url"})  # may contain a password
ALIASES: Final = {
    "API_CLICKHOUSE_HOST": f"{PREFIX}CLICKHOUSE_HOST",
    f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": f"{PREFIX}BROKER_URL",
}
_PASSWORD: Final = re.compile(r"(://[^:@/?#]*):.*@")
FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the origin of each, and warnings."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]

    def masked_rows(self) -> list[tuple[str, str, str]]:
        """Return ``(name, value, origin)`` of every setting, secrets masked."""
        rows = []
        for name in FIELDS:
            value = getattr(self.settings, name)
            text = _masked(name, value) if value else _text(value)
            rows.append((name, text, self.origins.get(name, "default")))
        return rows


def load(
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    memory_nbytes: int | None = None,
) -> Loaded:
    """Read every source. Flags that are None are ignored. ``memory_nbytes`` is what the process may use, by default
    the system's limit. Raises ConfigError naming the setting and its origin."""
    environ = dict(os.environ if environ is None else environ)
    for alias, variable in ALIASES.items():
        if alias in environ:
            environ.setdefault(variable, environ.pop(alias))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    warnings: list[str] = []
    if file is not None:
        for name, value in _from_file(file).items():
            _check_name(name, f"{file}")
            values[name], origins[name] = value, str(file)
    if dotenv is not None and dotenv.is_file():
        text = io.StringIO(_read(dotenv, str(dotenv)))
        variables = {name: value for name, value in dotenv_values(stream=text).items() if value is not None}
        _read_environment(variables, str(dotenv), values, origins, warnings)
    _read_environment(environ, "environment", values, origins, warnings)
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origins[name] = value, f"--{name.replace('_', '-')}"
    role = values.get("role", "all")
    if "port" not in values and role in ROLE_PORTS:
        values["port"], origins["port"] = ROLE_PORTS[role], f"default of the role {role}"
    memory_nbytes = memory_limit_nbytes() if memory_nbytes is None else memory_nbytes
    _fit_into_memory(memory_nbytes // _processes(values), values, origins)
    return Loaded(_settings(values, origins), origins, tuple(warnings))


def _processes(values: Mapping[str, Any]) -> int:
    """Return among how many processes the memory is shared out; what is no number is refused later."""
    workers = str(values.get("workers", 1))
    return max(1, int(workers)) if workers.isascii() and workers.isdigit() else 1


def _fit_into_memory(memory_nbytes: int, values: dict[str, Any], origins: dict[str, str]) -> None:
    """Set what is not set, and whose default is more than its share of the memory."""
    for name, share in MEMORY_SHARES.items():
        nbytes = max(1 << 20, int(memory_nbytes * share))
        if name not in values and nbytes < FIELDS[name].default:
            values[name], origins[name] = nbytes, f"default for {memory_nbytes >> 20} MiB of memory"


def _from_file(file: Path) -> dict[str, Any]:
    text = _read(file, str(file))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is not valid TOML: it is nested too deeply") from error


def _read(file: Path, name: str) -> str:
    """Return a file's text. ``name`` is that of the file in errors. Raises ConfigError, also when it is too long."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_NBYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file has
        raise ConfigError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > FILE_NBYTES_MAX:
        raise ConfigError(f"{name} cannot be read: it is longer than {FILE_NBYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not valid UTF-8: byte {error.start}") from error


def _check_name(name: str, origin: str) -> None:
    if name not in FIELDS:
        near = get_close_matches(name, FIELDS, n=1)
        raise ConfigError(f"{origin}: unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))


def _read_environment(
    environ: Mapping[str, str], origin: str, values: dict[str, Any], origins: dict[str, str], warnings: list[str]
) -> None:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable.startswith(AGENT_PREFIX) or variable in TEST_VARIABLES:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.endswith("_file") and name.removesuffix("_file") in SECRETS | URLS:
            name = name.removesuffix("_file")
            text = _secret(Path(text), variable)
        elif name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            warnings.append(f"{variable} is not a setting and was ignored{hint}")
            continue
        elif "://" in text and FIELDS[name].name in ("port", "host"):
            warnings.append(f"{variable} looks like a link that Kubernetes injects and was ignored")
            continue
        values[name], origins[name] = text, f"{origin} ({variable})"


def _secret(path: Path, variable: str) -> str:
    return _read(path, f"{variable}: {path}").strip()


def _settings(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    converted: dict[str, Any] = {}
    for name, value in values.items():
        kind = FIELDS[name].type
        if isinstance(value, str) and name in _LISTS:
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, str) and isinstance(FIELDS[name].default, bool):
            value = _BOOLS.get(value.strip().lower(), value)
        elif FIELDS[name].default is None and value in ("", "none"):
            value = None
        try:
            converted[name] = msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name} = {_masked(name, repr(value))} (from {origins[name]}): {error}") from error
        if problem := _beyond_any(converted[name]):
            masked = _masked(name, repr(value))[:100]
            raise ConfigError(f"{name} = {masked} (from {origins[name]}): {problem}")
    settings = Settings(**converted)
    if settings.clickhouse_host:
        if settings.store_url:
            raise ConfigError("clickhouse_host and store_url both name the telemetry store: give one of them")
        settings = msgspec.structs.replace(settings, store_url=f"clickhouse://{settings.clickhouse_host}")
    _check(settings)
    return settings


def _beyond_any(value: Any) -> str:
    """Return why a value is beyond what any setting takes, '' if it is not."""
    texts = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
    if any(not text.isprintable() for text in texts):
        return "contains characters that cannot be printed"
    if isinstance(value, int) and value > NUMBER_MAX:
        return f"is more than {NUMBER_MAX}"
    return "is not a number" if isinstance(value, float) and not math.isfinite(value) else ""


_LISTS: Final = frozenset({"trusted_proxies", "allowed_hosts", "cors_origins", "retention_rules", "outgoing_networks"})
_BOOLS: Final = {
    "yes": True,
    "on": True,
    "true": True,
    "1": True,
    "no": False,
    "off": False,
    "false": False,
    "0": False,
}


def _check(settings: Settings) -> None:
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise ConfigError("tls_certificate and tls_key must be given together")
    for name in ("store_url", "metadata_url"):
        if getattr(settings, name) == "sqlite:///":
            raise ConfigError(f"{name}: 'sqlite:///' names nothing: add a path, or leave it empty")
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {network!r} is not an address or network") from error
    if settings.public_url and not settings.public_url.startswith(("http://", "https://")):
        raise ConfigError(f"public_url: {settings.public_url!r} is not an http or https address")
    for origin in settings.cors_origins:
        if not origin.startswith(("http://", "https://")) or origin.endswith("/"):
            raise ConfigError(f"cors_origins: {origin!r} is not an origin; write it like https://app.example.com")


def _masked(name: str, value: Any) -> str:
    """Return a value as a text without what is secret."""
    if name in SECRETS:
        return MASK
    return _PASSWORD.sub(rf"\1:{MASK}@", _text(value)) if name in URLS else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_text(name: str) -> str:
    """Return a setting's default as the docs show it."""
    return _text(FIELDS[name].default)


def description(name: str) -> str:
    """Return a setting's description."""
    for meta in FIELDS[name].type.__metadata__:
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    raise LookupError(name)


def example() -> str:
    """Return every setting with its description and default, as an ``.env`` file."""
    lines = ["# Every setting of the server. Copy to .env and uncomment what you change."]
    for name in FIELDS:
        value = default_text(name)
        lines += ["", f"# {description(name)}", f"#{PREFIX}{name.upper()}={'' if value == 'none' else value}"]
    return "\n".join(lines) + "\n"
