"""Imports point one way, the agent stands alone, and each third-party package has its homes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"

# A third-party package, and the modules that may import it (with everything below them).
HOMES = {
    "aiosqlite": ["vantage.storage.metadata"],
    "alembic": ["vantage.storage.metadata"],
    "asyncpg": ["vantage.storage.metadata.postgres"],
    "redis": ["vantage.web.shared_rates"],
    "sqlalchemy": ["vantage.storage.metadata"],
    "chdb": ["vantage.storage.clickhouse.chdb"],
    "pyarrow": ["vantage.query.table_formats", "vantage.storage.clickhouse.arrow"],
    "httpx2": ["vantage.http_client", "vantage.alerting.outgoing"],
    "clickhouse_driver": ["vantage.storage.clickhouse.native"],
    "confluent_kafka": ["vantage.stream.kafka"],
    "scipy": ["vantage.analysis"],
    "sqlglot": ["vantage.vql.text"],
    "litestar": ["vantage.web"],
    "litestar_htmx": ["vantage.web"],
    "jinja2": ["vantage.web", "vantage.alerting"],
    "jinja2_fragments": ["vantage.web"],
    "markupsafe": ["vantage.web"],
    "uvicorn": ["vantage.connections", "vantage.server"],
    "websockets": ["vantage.connections"],
    "rich": ["vantage.commands"],
    "dotenv": ["vantage.config"],
    "prometheus_client": ["vantage.telemetry"],
    "aiosmtplib": ["vantage.alerting.channels.email"],
    "cronsim": ["vantage.alerting"],
    "cryptography": ["vantage.alerting.secrets"],
    "yaml": ["vantage.alerting.rule_files"],
    # at home everywhere
    "cachetools": ["vantage"],
    "msgspec": ["vantage"],
    "numpy": ["vantage"],
    "psutil": ["vantage"],
    "structlog": ["vantage"],  # configured in vantage.log alone
    "zstandard": ["vantage"],
}
PURE_CORE = {"msgspec", "numpy"}
LOADED_LATE = {
    "aiosmtplib",
    "alembic",
    "asyncpg",
    "chdb",
    "clickhouse_driver",
    "confluent_kafka",
    "cronsim",
    "cryptography",
    "pyarrow",
    "redis",
    "sqlglot",
}
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
    return [result for path in sources(SRC) for result in imports_of(path, SRC)]


def is_module(dotted: str) -> bool:
    path = SRC.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def under(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def complaint(result: Import) -> str | None:
    """Why this import is not allowed, or None."""
    top = result.target.partition(".")[0]
    if under(result.importer, "vantage_agent"):
        if top == "vantage_agent" or (top in sys.stdlib_module_names and top not in NEWER_THAN_3_9):
            return None
        return f"the agent imports the standard library of Python 3.9 and itself, not {top}"
    if top == "vantage_agent":
        return "the server and the agent share no code"
    if top == "vantage":
        return None  # import-linter's business
    if top in sys.stdlib_module_names:
        return None
    if under(result.importer, "vantage.core") and top not in PURE_CORE:
        return f"core is pure: standard library, {', '.join(sorted(PURE_CORE))}; not {top}"
    if top not in HOMES:
        return f"{top} has no home yet: add it to HOMES in {Path(__file__).name}"
    if not any(under(result.importer, home) for home in HOMES[top]):
        return f"{top} is at home in {', '.join(HOMES[top])}"
    return None


def test_imports_point_one_way() -> None:
    """The contracts stand in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=SRC.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_driver_stays_at_home() -> None:
    result = all_imports()
    assert result, "no imports read: is src/ where this test looks?"
    wrong = [f"{item.importer}:{item.line} imports {item.target}: {why}" for item in result if (why := complaint(item))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("vantage.core.sample", "structlog"),
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
        ("vantage.web.litestar_app", "litestar.Litestar"),
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
    results = {(item.target, item.deferred) for item in imports_of(path, tmp_path)}
    assert results == {
        ("vantage.storage.memory", False),
        ("vantage.core.sample.Sample", False),
        ("chdb", True),
        ("uvloop", True),
    }


def loaded_with(start: str) -> list[Import]:
    """Return the imports of third-party packages that run when a module is imported."""
    eager: dict[str, list[Import]] = {}
    for item in all_imports():
        if not item.deferred:
            eager.setdefault(item.importer, []).append(item)
    waiting, seen, third_party = [start], set(), []
    while waiting:
        module = waiting.pop()
        if module in seen or not is_module(module):
            continue
        seen.add(module)
        for item in eager.get(module, []):
            names = item.target.split(".")
            if names[0] == "vantage":
                waiting += [".".join(names[:length]) for length in range(1, len(names) + 1)]
            elif names[0] not in sys.stdlib_module_names:
                third_party.append(item)
    assert start in seen, f"{start} is no module"
    return third_party


def test_the_command_line_starts_without_any_dependency() -> None:
    """`vantage serve` after a base install must live long enough to say what to install."""
    wrong = [f"{item.importer} imports {item.target} when it is loaded" for item in loaded_with("vantage.cli")]
    assert not wrong, "\n".join(wrong)


def test_a_server_loads_large_packages_when_they_are_first_used() -> None:
    """Each costs an idle server 6 to 55 MB, and each start some tenths of a second."""
    results = loaded_with("vantage.parts")
    assert {"litestar", "numpy"} <= {item.target.partition(".")[0] for item in results}
    early = [item for item in results if item.target.partition(".")[0] in LOADED_LATE]
    wrong = [f"{item.importer} imports {item.target}" for item in early]
    assert not wrong, "\n".join(wrong)


def test_the_agent_and_the_command_line_parse_on_python_3_9() -> None:
    old = [path for name in PARSE_ON_3_9 if (path := SRC / name).is_file()]
    for path in [*old, *sources(SRC / "vantage_agent")]:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


def test_no_module_is_named_after_nothing() -> None:
    named = [path for path in SRC.rglob("*") if path.stem.strip("_") in NAMES_THAT_KNOW_NOTHING]
    assert not named, f"name a file after what it knows: {', '.join(map(str, named))}"


def store_access(tree: ast.AST) -> list[int]:
    """Lines on which code reaches through a query context to a store."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"store", "metadata"}
        and ast.unparse(node.value).rpartition(".")[2] == "context"
    ]


def test_no_handler_reaches_through_the_query_context_to_a_store() -> None:
    paths = sources(SRC / "vantage" / "web")
    assert paths
    wrong = [f"{path}:{line}" for path in paths for line in store_access(ast.parse(path.read_text(encoding="utf-8")))]
    assert not wrong, "ask a module of vantage.query instead: " + ", ".join(wrong)


@pytest.mark.parametrize("code", ["await context.store.edges(r)", "state.context.metadata", "store = context.store"])
def test_reaching_through_to_a_store_is_noticed(code: str) -> None:
    assert store_access(ast.parse(f"async def handler():\n    {code}")) == [2]
