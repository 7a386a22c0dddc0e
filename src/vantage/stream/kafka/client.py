"""What producers and consumers share: the settings of a URL, the topics, and errors as sentences.

librdkafka's settings: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from vantage.core.errors import ConfigError, UnavailableError
from vantage.stream.kafka.failures import Failures
from vantage.stream.kafka.probe import explain
from vantage.stream.kafka.topic_settings import DEAD_LETTERS, LIVE, TopicSettings, differences

SCHEME: Final = "kafka"
GROUP: Final = "vantage-workers"
REQUEST_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 3.0  # with TLS and a login
PING_TIMEOUT_S: Final = 1.0
_SASL: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_log = structlog.get_logger("vantage.stream.kafka")


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where the brokers are, as ``host:port,…``, and librdkafka's settings to connect to them."""

    hosts: str
    settings: Mapping[str, str]


def parse_url(url: str) -> BrokerUrl:
    """Parse ``kafka://[user:password@]host[:port][,host…][?tls=true&ca=FILE&sasl=SCRAM-SHA-512]``; a list of hosts
    alone is one as well. Raises ConfigError, which never shows the password."""
    parts = urlsplit(url if "://" in url else f"{SCHEME}://{url}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme != SCHEME or not hosts or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError("broker_url is not of the form kafka://host:9092,host:9092")
    names = []
    for host in hosts.split(","):
        match = _HOST.fullmatch(host.strip())
        if match is None or not 0 < int((match[2] or ":9092")[1:]) < 65_536:
            raise ConfigError(f"broker_url: {host.strip()[:80]!r} is not a host and port")
        names.append(match[0] if match[2] else f"{match[0]}:9092")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := set(options) - {"tls", "ca", "sasl"}:
        raise ConfigError(f"broker_url: unknown option {min(unknown)[:40]!r}; there are tls, ca and sasl")
    tls = options.get("tls", "true" if "ca" in options else "false")
    if tls not in ("true", "false"):
        raise ConfigError("broker_url: tls is true or false")
    settings = {"bootstrap.servers": ",".join(names)}
    user, _, password = credentials.partition(":")
    sasl = options.get("sasl", "PLAIN" if user else "")
    if sasl and (sasl not in _SASL or not user):
        raise ConfigError(f"broker_url: sasl is one of {', '.join(_SASL)}, and needs user:password@ before the host")
    if sasl:
        settings |= {
            "sasl.mechanism": sasl,
            "sasl.username": unquote(user),
            "sasl.password": unquote(password),
        }
    if "ca" in options:
        settings["ssl.ca.location"] = options["ca"]
    protocol = ("SASL_" if sasl else "") + ("SSL" if tls == "true" else "PLAINTEXT")
    if protocol != "PLAINTEXT":
        settings["security.protocol"] = protocol
    return BrokerUrl(",".join(names), settings)


def library() -> Any:
    """Return confluent_kafka. Raises ConfigError when it is not installed."""
    try:
        return importlib.import_module("confluent_kafka")
    except ImportError as error:
        raise ConfigError(
            f"broker_url names Kafka, whose client is not installed ({error}): pip install 'vantage[server,kafka]'"
        ) from error


def failures_of(url: BrokerUrl) -> Failures:
    """Return the failures of one client."""
    protocol = url.settings.get("security.protocol", "")
    return Failures(
        url.hosts, lambda: explain(url.hosts, tls=protocol.endswith("SSL"), login=protocol.startswith("SASL"))
    )


def make(kind: str, url: BrokerUrl, failures: Failures, settings: Mapping[str, Any]) -> Any:
    """Return a client, such as a Producer. Raises ConfigError when librdkafka cannot use the settings of the URL."""
    kafka = importlib.import_module("confluent_kafka.admin") if kind == "AdminClient" else library()
    ca = url.settings.get("ssl.ca.location")
    if ca is not None:
        try:
            Path(ca).read_bytes()
        except (OSError, ValueError) as error:
            raise ConfigError(f"broker_url: ca={ca} cannot be read: {getattr(error, 'strerror', error)}") from error
    shared = {**url.settings, "client.id": "vantage", "error_cb": failures.on_error, "logger": _quiet()}
    try:
        return getattr(kafka, kind)({**shared, **settings})
    except library().KafkaException as error:
        text = error.args[0].str()
        if "ssl.ca.location" in text:
            raise ConfigError(f"broker_url: ca={ca} contains no certificate in the form PEM") from error
        raise ConfigError(f"broker_url: {text[:200]}") from error


class Topics:
    """Creates the topics that are missing, and checks those that are there. Its methods block; any thread. ``warnings``
    are what is wrong with topics that were there."""

    def __init__(self, url: BrokerUrl, wanted: TopicSettings) -> None:
        self._url = url
        self._wanted = wanted
        self._kafka = library()
        self._lock = threading.Lock()
        self._admin: Any = None
        self._id = ""
        self.warnings: tuple[str, ...] = ()
        self._failures = failures_of(url)

    @property
    def ready(self) -> bool:
        """Return whether the topics were created and checked."""
        return bool(self._id)

    def topic_id(self) -> str:
        """Return the id of the topic: a topic that was deleted and created again has another. Creates and checks the
        topics at the first call. Raises UnavailableError."""
        with self._lock:
            if not self._id:
                self._id = self._prepare()
            return self._id

    def ping(self) -> None:
        """Ask the broker for the topic. Raises UnavailableError."""
        try:
            self._client().list_topics(self._wanted.name, timeout=PING_TIMEOUT_S)
        except self._kafka.KafkaException as error:
            raise self._unavailable(error) from error
        self._failures.clear()

    def _client(self) -> Any:
        if self._admin is None:
            self._admin = make("AdminClient", self._url, self._failures, {})
        return self._admin

    def _unavailable(self, error: Exception) -> UnavailableError:
        self._client().poll(0)  # calls back with what was reported meanwhile
        return self._failures.unavailable(error)

    def _prepare(self) -> str:
        admin = importlib.import_module("confluent_kafka.admin")
        client = self._client()
        try:  # describe_topics waits for its timeout where nothing can be connected to
            client.list_topics(self._wanted.name, timeout=CONNECT_TIMEOUT_S)
        except self._kafka.KafkaException as error:
            raise self._unavailable(error) from error
        known = self._describe(client)
        missing = [name for name in (self._wanted.name, DEAD_LETTERS, LIVE) if name not in known]
        new = [
            admin.NewTopic(
                name,
                self._wanted.partitions if name == self._wanted.name else 1,
                self._wanted.replicas,
                config=self._wanted.config(name),
            )
            for name in missing
        ]
        for name, future in (client.create_topics(new, request_timeout=REQUEST_TIMEOUT_S) if new else {}).items():
            try:
                future.result()
                _log.info("topic created", topic=name)
            except self._kafka.KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # another process was faster
                    raise self._unavailable(error) from error
        end_s = time.monotonic() + REQUEST_TIMEOUT_S
        while self._wanted.name not in known:
            known = self._describe(client)
            if time.monotonic() > end_s:
                raise UnavailableError(f"the topic {self._wanted.name} was created, and is not there yet")
        self.warnings = tuple(
            sentence
            for name in (self._wanted.name, DEAD_LETTERS)
            if name not in missing
            for sentence in self._differences(name, known[name])
        )
        return str(known[self._wanted.name].topic_id)

    def _describe(self, client: Any) -> dict[str, Any]:
        names = self._kafka.TopicCollection([self._wanted.name, DEAD_LETTERS, LIVE])
        known = {}
        for name, future in client.describe_topics(names, request_timeout=REQUEST_TIMEOUT_S).items():
            try:
                known[name] = future.result()
            except self._kafka.KafkaException as error:
                if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise self._unavailable(error) from error
        return known

    def _differences(self, name: str, topic: Any) -> list[str]:
        """Return in what an existing topic differs from how it would be created."""
        admin = importlib.import_module("confluent_kafka.admin")
        resource = admin.ConfigResource(admin.ResourceType.TOPIC, name)
        (future,) = self._client().describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S).values()
        try:
            config = {key: entry.value for key, entry in future.result().items() if entry.value is not None}
        except self._kafka.KafkaException as error:
            _log.info("the topic's settings cannot be read", topic=name, reason=str(error))
            return []
        return differences(name, len(topic.partitions), config, self._wanted)


def deliver(
    producer: Any,
    topic: str,
    *,
    key: bytes,
    value: bytes | None,
    headers: Mapping[str, bytes],
    failures: Failures,
    partition: int = -1,
) -> None:
    """Publish a message and wait until the brokers have it; without a ``partition`` its key says which it goes to.
    Raises UnavailableError, and InputError when it is too large for them."""
    outcome: list[Any] = []  # empty until the brokers have answered
    try:
        producer.produce(
            topic,
            key=key,
            value=value,
            headers=dict(headers),
            partition=partition,
            on_delivery=lambda error, _: outcome.append(error),
        )
    except library().KafkaException as error:
        raise failures.refused(error.args[0]) from error
    producer.flush(REQUEST_TIMEOUT_S + 1)
    if not outcome or outcome[0] is not None:  # a KafkaError cannot be compared with None: that is a SystemError
        failures.note_silence()
        raise failures.refused(outcome[0]) if outcome else UnavailableError(failures.latest)
    failures.clear()


def _quiet() -> Any:
    """Return a logger for librdkafka's own lines, which repeat what ``Failures`` logs once."""
    import logging

    logger = logging.getLogger("vantage.stream.librdkafka")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
