"""Describe spans: names by OpenTelemetry's semantic conventions, metrics as Vantage reads them.

Runs in the exporter's thread. https://opentelemetry.io/docs/specs/semconv/http/, …/semconv/database/
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from vantage_agent._redis import command_name
from vantage_agent._span import Span, SpanDescription
from vantage_agent._sql import summary

SERVER_METRIC = "http.request.duration"
CLIENT_METRIC = "http.client.request.duration"
DATABASE_METRIC = "db.client.operation.duration"
TASK_METRIC = "celery.task.duration"
TASK_SENT_METRIC = "celery.publish.duration"
NO_ROUTE = "unmatched"  # never the path, which may contain anything
OTHER_METHOD = "_OTHER"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"))
_PORTS = {"http": 80, "https": 443}
# Names that libraries use for a system, where they differ from OpenTelemetry's.
_SYSTEMS = {"oracle": "oracle.db", "mssql": "microsoft.sql_server"}
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379}
NAMESPACE_LENGTH_MAX = 100
OTHER_TASK = "_OTHER"
_TASK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}")


def http_server(span: Span) -> SpanDescription:
    """Describe a request that the application received."""
    method = span.method if span.method in _METHODS else OTHER_METHOD
    tags = {"method": method}
    attributes = {"http.request.method": method}
    name = method
    if span.route:
        tags["endpoint"] = attributes["http.route"] = span.route
        name = f"{method} {span.route}"
    elif span.route is not None:
        tags["endpoint"] = NO_ROUTE
    return _finish_description(span, name, attributes, SERVER_METRIC, tags)


def http_client(span: Span) -> SpanDescription:
    """Describe a request that the application sent."""
    method = span.method.upper()
    method = method if method in _METHODS else OTHER_METHOD
    tags = {"method": method}
    attributes = {"http.request.method": method}
    host, port = address_of(span.peer) if isinstance(span.peer, str) else span.peer
    name = method
    if host:
        tags["peer"] = host if port is None else f"{host}:{port}"
        name = f"{method} {host}"
        attributes["server.address"] = host
        if port is not None:
            attributes["server.port"] = str(port)
    return _finish_description(span, name, attributes, CLIENT_METRIC, tags)


def database(span: Span) -> SpanDescription:
    """Describe a statement or command that the application sent to a database."""
    system, host, port, namespace = span.database or ("", None, None, None)
    statement = span.statement
    if span.method:
        operation, table = command_name(span.method), ""
    else:
        operation, table = summary(statement if isinstance(statement, str) else statement.decode("utf-8", "replace"))
    system = _SYSTEMS.get(system, system)
    tags = {"db.system.name": system}
    attributes = {"db.system.name": system}
    if operation:
        tags["operation"] = attributes["db.operation.name"] = operation
    if namespace := _namespace(namespace):
        attributes["db.namespace"] = namespace
    # The path of a Unix socket is specific to this machine.
    if host and not host.startswith("/"):
        port = port or _DATABASE_PORTS.get(system)
        tags["peer"] = host[:255] if port is None else f"{host[:255]}:{port}"
        attributes["server.address"] = host[:255]
        if port is not None:
            attributes["server.port"] = str(port)
    name = f"{operation} {table}" if table else operation
    return _finish_description(span, name or system or "database", attributes, DATABASE_METRIC, tags)


def task_sent(span: Span) -> SpanDescription:
    """Describe a task that the application sent to Celery."""
    return _task(span, "send", TASK_SENT_METRIC)


def task_run(span: Span) -> SpanDescription:
    """Describe a task that a Celery worker ran."""
    return _task(span, "process", TASK_METRIC)


def _task(span: Span, operation: str, metric: str) -> SpanDescription:
    name = span.name if _TASK_NAME.fullmatch(span.name) else OTHER_TASK
    tags = {"task": name}
    attributes = {"messaging.system": "celery", "messaging.operation.type": operation, "celery.task_name": name}
    if span.method:
        tags["state"] = attributes["celery.state"] = span.method
    return _finish_description(span, f"{operation} {name}", attributes, metric, tags)


def _namespace(name: str | None) -> str:
    """Return the database's name: of a file without its folders, of a URI without its query."""
    if not name:
        return ""
    return name.partition("?")[0].replace("\\", "/").rpartition("/")[2][:NAMESPACE_LENGTH_MAX]


def _finish_description(
    span: Span, name: str, attributes: dict[str, str], metric: str, tags: dict[str, str]
) -> SpanDescription:
    if span.status_code:
        tags["status"] = attributes["http.response.status_code"] = str(span.status_code)
    if span.error_type:
        tags["error_type"] = attributes["error.type"] = span.error_type
    if span.failed and span.status_code < 500:  # an aborted response began with a successful status
        tags["error"] = "true"
    if span.exception is not None:
        attributes.update(span.exception.attributes())
    if span.tags:
        tags = {**tags, **span.tags}
        attributes.update(span.tags)
    if span.attributes:
        attributes.update(span.attributes)
    return SpanDescription(name, attributes, metric, tags)


def address_of(url: str) -> tuple[str, int | None]:
    """Return host and port, None for the scheme's default port. Nothing else of a URL may be sent."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return host[:255], None if port == _PORTS.get(parts.scheme) else port
