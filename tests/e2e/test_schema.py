"""The OpenAPI document: it names every route, explains each, works offline, and the server keeps to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.server import Server, serving
from vantage.app import create_app
from vantage.config import Settings

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
EXAMPLES = 200 if LONG else 10
NO_RATES = {"VANTAGE_INGEST_RATE_LIMIT": "0", "VANTAGE_API_RATE_LIMIT": "0", "VANTAGE_SELF_TELEMETRY": "false"}
DOCUMENTED_ELSEWHERE = {"/schema", "/static", "/login", "/logout", "/ws/metrics", "/ws/pages"}
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("schema") / "data", environ=NO_RATES) as server:
        yield server
        assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    answer = server.get("/schema/openapi.json")
    assert answer.status == 200
    return answer.json()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_the_document_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert {"key", "bearer"} <= document["components"]["securitySchemes"].keys()


def test_every_route_of_the_application_is_in_the_document(document: Any, tmp_path: Path) -> None:
    site: Any = create_app(Settings(data=str(tmp_path))).asgi._site
    known = set()
    for route in site.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        handlers = getattr(route, "route_handlers", ())
        pages = all(not handler.include_in_schema for handler in handlers)
        if path not in DOCUMENTED_ELSEWHERE and not path.startswith(("/static", "/schema", "/ws")) and not pages:
            known.add(path)
    assert known | {"/v1/metrics", "/v1/spans"} == set(document["paths"])


def test_every_operation_says_what_it_does_and_what_it_may_answer(document: Any) -> None:
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("description"), where
        assert operation.get("operationId"), where
        assert operation.get("tags"), where
        if path.startswith(("/api/", "/v1/")):
            assert {"400", "401", "403", "429", "503"} <= operation["responses"].keys(), where
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description") or parameter["schema"].get("description"), (
                f"{where} {parameter['name']}"
            )


def test_operation_ids_are_unique(document: Any) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_what_must_be_given_has_an_example(document: Any) -> None:
    for path, method, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter.get("required"):
                shown = parameter.get("examples") or parameter.get("example") or parameter["schema"].get("examples")
                assert shown, f"{method} {path} {parameter['name']}"
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            shown = {"example", "examples"} & {*content, *content["schema"]}
            assert shown or examples_inside(document, content["schema"]), path


def examples_inside(document: Any, schema: Any) -> bool:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    required = schema.get("required", ())
    return bool(required) and all(schema["properties"][name].get("examples") for name in required)


def test_the_document_s_own_examples_are_accepted(server: Server, document: Any) -> None:
    for path in ("/v1/metrics", "/v1/spans"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        recorded = server.send(content["example"], path)
        assert (recorded.status, recorded.json()["rejected"]) == (202, 0)


def test_it_can_be_browsed_without_the_internet(server: Server) -> None:
    page = server.get("/schema", Accept="text/html")
    assert (page.status, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    loaded = re.findall(rb"""(?:src|href|data-src|action)\s*=\s*["']([^"']+)""", page.body)
    assert loaded
    for address in loaded:
        assert not re.match(rb"(?:https?:)?//", address), f"{address!r} is elsewhere"
    for path in (p.decode() for p in loaded if p.startswith(b"/static")):
        assert server.get(path).status == 200


@pytest.mark.timeout(1800 if LONG else 300)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.filterwarnings("ignore")
def test_the_server_keeps_to_its_document(server: Server, mode: GenerationMode, subtests: pytest.Subtests) -> None:
    """Requests as the document allows them (positive) and as it does not (negative), answers as it promises."""
    api = schemathesis.openapi.from_url(f"{server.url}/schema/openapi.json")
    for result in api.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_to_it(case: schemathesis.Case[Any]) -> None:
            # Relations between fields (start before end, one of two) have no words in OpenAPI; faulty samples among
            # good ones are answered 202 and named.
            partly = [negative_data_rejection] if case.operation.path.startswith("/v1/") else []
            case.call_and_validate(excluded_checks=[positive_data_acceptance, *partly])

        with subtests.test(operation=operation.label):
            try:
                keeps_to_it()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, "nothing can be said wrong where nothing can be said"
