"""Imports point one way. This reads every import in src/ and holds it against the plan in docs/architecture.md."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"

# A module may import what stands in a lower step; within a step only what SAME_STEP names.
STEPS = {
    "core": 0,
    "demo": 1,
    "vql": 1,
    "storage": 2,
    "stream": 2,
    "analysis": 2,
    "query": 3,
    "ingest": 4,
    "alerting": 4,
    "web": 5,
    "app": 6,
    "cli": 6,
    "commands": 6,
    "server": 6,
    "__main__": 7,
}
SAME_STEP = {("cli", "commands"), ("commands", "server"), ("commands", "app"), ("commands", "demo"), ("server", "app")}
# Imported by everyone above core; they import core and each other.
BESIDE_CORE = {"config", "http_client", "log", "telemetry", "resources", "roles"}

# A third-party package, and the modules that may import it (with everything below them).
HOMES = {
    "aiosqlite": ["vantage.storage.metadata"],
    "alembic": ["vantage.storage.metadata"],
    "sqlalchemy": ["vantage.storage.metadata"],
    "chdb": ["vantage.storage.clickhouse.chdb"],
    "pyarrow": ["vantage.query.table_formats", "vantage.storage.clickhouse.arrow"],
    "httpx2": ["vantage.http_client"],
    "clickhouse_driver": ["vantage.storage.clickhouse.native"],
    "confluent_kafka": ["vantage.stream.kafka"],
    "scipy": ["vantage.analysis"],
    "sqlglot": ["vantage.vql"],
    "litestar": ["vantage.web", "vantage.app"],
    "litestar_htmx": ["vantage.web", "vantage.app"],
    "jinja2": ["vantage.web", "vantage.app", "vantage.alerting"],
    "jinja2_fragments": ["vantage.web", "vantage.app", "vantage.alerting"],
    "markupsafe": ["vantage.web", "vantage.app", "vantage.alerting"],
    "uvicorn": ["vantage.server"],
    "rich": ["vantage.commands"],
    "dotenv": ["vantage.config"],
    "prometheus_client": ["vantage.telemetry"],
    # at home everywhere
    "cachetools": ["vantage"],
    "msgspec": ["vantage"],
    "numpy": ["vantage"],
    "psutil": ["vantage"],
    "structlog": ["vantage"],  # configured in vantage.log alone
    "zstandard": ["vantage"],
}
PURE_CORE = {"msgspec", "numpy"}
# In the standard library of the server's Python, not in that of the agent's oldest.
NEWER_THAN_3_9 = {"tomllib", "annotationlib", "compression", "string.templatelib"}
NAMES_THAT_KNOW_NOTHING = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"}
PARSE_ON_3_9 = ["vantage/__init__.py", "vantage/__main__.py", "vantage/cli.py"]


@dataclass(frozen=True)
class Import:
    importer: str
    target: str
    line: int = 0
    deferred: bool = False  # inside a function, guarded by `except ImportError`, or for type checkers alone


def imports_of(path: Path, src: Path) -> Iterator[Import]:
    parts = path.relative_to(src).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    package = list(parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))

    def walk(node: ast.AST, *, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, f"{origin}.{alias.name}", node.lineno, deferred)
        else:
            inner = deferred or defers(node)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, deferred=inner)

    yield from walk(tree, deferred=False)


def defers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    if isinstance(node, ast.Try):
        caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
        return "ImportError" in caught or "ModuleNotFoundError" in caught
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def sources(src: Path) -> list[Path]:
    return sorted(path for path in src.rglob("*.py") if "_resources" not in path.parts)


def all_imports() -> list[Import]:
    return [found for path in sources(SRC) for found in imports_of(path, SRC)]


def is_module(dotted: str) -> bool:
    path = SRC.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def under(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def complaint(found: Import) -> str | None:
    """Why this import is not allowed, or None."""
    top = found.target.partition(".")[0]
    if under(found.importer, "vantage_agent"):
        if top == "vantage_agent" or (top in sys.stdlib_module_names and top not in NEWER_THAN_3_9):
            return None
        return f"the agent imports the standard library of Python 3.9 and itself, not {top}"
    if top == "vantage_agent":
        return "the server and the agent share no code"
    if top == "vantage":
        return direction_complaint(found)
    if top in sys.stdlib_module_names:
        return None
    if under(found.importer, "vantage.core") and top not in PURE_CORE:
        return f"core is pure: standard library, {', '.join(sorted(PURE_CORE))}; not {top}"
    if top not in HOMES:
        return f"{top} has no home yet: add it to HOMES in {Path(__file__).name}"
    if not any(under(found.importer, home) for home in HOMES[top]):
        return f"{top} is at home in {', '.join(HOMES[top])}"
    return None


def direction_complaint(found: Import) -> str | None:
    target = part_of(found.target)
    importer = part_of(found.importer)
    if target is None or target == importer:  # a name of the root package, or a neighbour
        return None
    for part in (importer, target):
        if part is not None and part not in STEPS and part not in BESIDE_CORE:
            return f"vantage.{part} has no step yet: add it to STEPS in {Path(__file__).name}"
    if importer is None:
        return "the root package imports nothing, so that the agent's Python can read it"
    if importer in BESIDE_CORE:
        allowed = target == "core" or target in BESIDE_CORE
    elif target in BESIDE_CORE:
        allowed = importer != "core"
    else:
        allowed = STEPS[target] < STEPS[importer] or (importer, target) in SAME_STEP
    return None if allowed else f"{importer} must not import {target}"


def part_of(module: str) -> str | None:
    """`vantage.storage.ports.X` -> `storage`; None for the root package and the plain names in it."""
    names = module.split(".")
    if len(names) < 2 or not (names[1] in STEPS or names[1] in BESIDE_CORE or is_module(f"vantage.{names[1]}")):
        return None
    return names[1]


def test_every_import_points_downwards_and_every_driver_stays_at_home() -> None:
    found = all_imports()
    assert found, "no imports read: is src/ where this test looks?"
    wrong = [f"{one.importer}:{one.line} imports {one.target}: {why}" for one in found if (why := complaint(one))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("vantage.core.sample", "vantage.storage.ports"),
        ("vantage.core.sample", "vantage.config"),
        ("vantage.core.sample", "structlog"),
        ("vantage.storage.embedded.store", "vantage.stream.ports"),
        ("vantage.storage.ports", "vantage.query.cache"),
        ("vantage.ingest.receive", "vantage.alerting.notify"),
        ("vantage.ingest.receive", "vantage.web.auth"),
        ("vantage.app", "vantage.cli"),
        ("vantage.config", "vantage.storage.open"),
        ("vantage.demo.send", "vantage.ingest.wire.packed"),
        ("vantage", "vantage.config.Settings"),
        ("vantage.query.cache", "litestar.Request"),
        ("vantage.web.api.keys", "sqlalchemy.select"),
        ("vantage.web.api.keys", "leftpad"),
        ("vantage.web.api.keys", "vantage_agent.span"),
        ("vantage_agent._exporter", "requests"),
        ("vantage_agent._exporter", "vantage.core.sample"),
        ("vantage_agent._config", "tomllib"),
    ],
)
def test_an_import_against_the_plan_is_refused(importer: str, target: str) -> None:
    assert complaint(Import(importer, target))


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("vantage.commands", "vantage.app.create_app"),
        ("vantage.app", "litestar.Litestar"),
        ("vantage.web.pages.overview", "vantage.query.timeseries"),
        ("vantage.ingest.receive", "vantage.config.Settings"),
        ("vantage.roles", "vantage.config"),
        ("vantage.storage.metadata.keys", "sqlalchemy.ext.asyncio"),
        ("vantage.core.series", "numpy"),
        ("vantage_agent._exporter", "vantage_agent._buffer"),
        ("vantage_agent._exporter", "http.client"),
    ],
)
def test_an_import_within_the_plan_is_allowed(importer: str, target: str) -> None:
    assert complaint(Import(importer, target)) is None


def test_relative_guarded_and_inner_imports_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vantage" / "storage" / "open.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from . import memory\nfrom ..core.sample import Sample\n"
        "def later():\n    import chdb\n"
        "try:\n    import uvloop\nexcept ImportError:\n    uvloop = None\n"
    )
    found = {(one.target, one.deferred) for one in imports_of(path, tmp_path)}
    assert found == {
        ("vantage.storage.memory", False),
        ("vantage.core.sample.Sample", False),
        ("chdb", True),
        ("uvloop", True),
    }


def test_the_command_line_starts_without_any_dependency() -> None:
    """`vantage serve` after a base install must live long enough to say what to install."""
    eager: dict[str, list[str]] = {}
    for one in all_imports():
        if not one.deferred:
            eager.setdefault(one.importer, []).append(one.target)
    waiting, seen, wrong = ["vantage.cli"], set(), []
    while waiting:
        module = waiting.pop()
        if module in seen or not is_module(module):
            continue
        seen.add(module)
        for target in eager.get(module, []):
            names = target.split(".")
            if names[0] == "vantage":
                waiting += [".".join(names[:length]) for length in range(1, len(names) + 1)]
            elif names[0] not in sys.stdlib_module_names:
                wrong.append(f"{module} imports {target} when it is loaded")
    assert "vantage.cli" in seen, "src/vantage/cli.py is missing"
    assert not wrong, "\n".join(wrong)


def test_the_agent_and_the_command_line_parse_on_python_3_9() -> None:
    old = [path for name in PARSE_ON_3_9 if (path := SRC / name).is_file()]
    for path in [*old, *sources(SRC / "vantage_agent")]:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


def test_no_module_is_named_after_nothing() -> None:
    named = [path for path in SRC.rglob("*") if path.stem.strip("_") in NAMES_THAT_KNOW_NOTHING]
    assert not named, f"name a file after what it knows: {', '.join(map(str, named))}"
