"""The OpenAPI document: Litestar's, and the ingest endpoints that are written outside it, by hand."""

from __future__ import annotations

from typing import Any, Final

from vantage.core.sample import KINDS
from vantage.ingest.receive import MSGPACK
from vantage.ingest.wire.packed import MEDIA_TYPE as PACKED
from vantage.web.problems import MEDIA_TYPE

_SAMPLE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["metric_name", "value"],
    "properties": {
        "metric_name": {"type": "string", "description": "1 to 255 of letters, digits and _ . : / -"},
        "value": {"type": "number"},
        "timestamp": {"type": "integer", "format": "int64", "description": "Epoch milliseconds; arrival if absent."},
        "metric_type": {"type": "string", "enum": sorted(KINDS), "default": "gauge"},
        "tags": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 512}},
        "unit": {"type": "string", "maxLength": 63, "description": "UCUM, such as ms, s, By or 1."},
        "service_name": {"type": "string", "description": "The envelope's if absent."},
        "environment": {"type": "string", "description": "The envelope's if absent."},
        "service_version": {"type": "string", "maxLength": 255},
        "instance": {"type": "string", "maxLength": 255},
        "trace_id": {"type": "string", "maxLength": 64},
        "span_id": {"type": "string", "maxLength": 64},
    },
}
_ENVELOPE: Final[dict[str, Any]] = {
    name: {"type": "string", "maxLength": 255}
    for name in ("service_name", "environment", "service_version", "instance")
}
_METRICS_EXAMPLE: Final[dict[str, Any]] = {
    "metrics": [
        {
            "timestamp": 1703001234567,
            "service_name": "my-api",
            "metric_name": "http.request.duration",
            "metric_type": "histogram",
            "value": 123.45,
            "tags": {"endpoint": "/api/users", "method": "GET"},
            "trace_id": "abc123",
            "span_id": "span001",
        }
    ],
    "service_name": "my-api",
    "environment": "production",
}
_SPAN: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["trace_id", "span_id", "name", "start_ns", "duration_ns"],
    "properties": {
        "trace_id": {"type": "string", "maxLength": 64},
        "span_id": {"type": "string", "maxLength": 64},
        "parent_span_id": {"type": "string", "maxLength": 64, "description": "Absent or empty: a root span."},
        "service_name": {"type": "string", "description": "The envelope's if absent."},
        "name": {"type": "string", "maxLength": 512},
        "kind": {"type": "string", "enum": ["internal", "server", "client", "producer", "consumer"]},
        "status": {"type": "string", "enum": ["unset", "ok", "error"]},
        "start_ns": {"type": "integer", "format": "int64"},
        "duration_ns": {"type": "integer", "format": "int64", "minimum": 0},
        "attributes": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    },
}
_SPANS_EXAMPLE: Final[dict[str, Any]] = {
    "service_name": "api-gateway",
    "spans": [
        {
            "trace_id": "abc-123",
            "span_id": "span-001",
            "name": "GET /api/users",
            "kind": "server",
            "start_ns": 1703001234567000000,
            "duration_ns": 123000000,
            "attributes": {"http.response.status_code": 200},
        }
    ],
}
_ACCEPTED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["accepted", "rejected", "errors"],
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "errors": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["index", "field", "reason"],
                "properties": {
                    "index": {"type": "integer"},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}


def add_ingest_paths(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with the ingest endpoints and the ways to send a key."""
    paths = dict(document.get("paths", {}))
    paths["/v1/metrics"] = _ingest("Send samples", "metrics", _SAMPLE, _METRICS_EXAMPLE, packed=True)
    paths["/v1/spans"] = _ingest("Send spans", "spans", _SPAN, _SPANS_EXAMPLE, packed=False)
    components = dict(document.get("components", {}))
    components["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    return {**document, "paths": paths, "components": components, "security": [{}, {"key": []}, {"bearer": []}]}


def _ingest(summary: str, name: str, item: dict[str, Any], example: dict[str, Any], *, packed: bool) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": [name],
        "properties": {name: {"type": "array", "items": item}, **_ENVELOPE},
    }
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    content |= dict.fromkeys(MSGPACK, binary)
    if packed:
        content[PACKED] = binary
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}}
    texts = {
        "400": "The body cannot be read; `field` is the path in it. Nothing was stored.",
        "401": "A key is required.",
        "403": "The key may not ingest, or the Host or Origin is not allowed.",
        "408": "The body did not arrive in time.",
        "413": "Over 1 MB as sent, or over 8 MB after decompression.",
        "415": "Unknown Content-Type or Content-Encoding.",
        "429": "Over the rate limit; see Retry-After.",
        "503": "The queue is full or the store is unavailable; see Retry-After. Nothing was stored.",
    }
    return {
        "post": {
            "operationId": f"Ingest{name.capitalize()}",
            "summary": summary,
            "tags": ["ingest"],
            "description": (
                "A 202 means durable. Invalid entries are rejected and listed; the others are stored. JSON, "
                "MessagePack of the same shape, and gzip or zstd as Content-Encoding."
            ),
            "parameters": [
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "description": "The batch id: the same id within 60 minutes gets a 202 and is stored once.",
                    "schema": {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9_.:-]{1,64}$"},
                }
            ],
            "requestBody": {"required": True, "content": content},
            "responses": {
                "202": {
                    "description": "Everything that was not rejected is stored durably.",
                    "content": {"application/json": {"schema": _ACCEPTED}},
                },
                **{status: {"description": text, **problem} for status, text in texts.items()},
            },
        }
    }
