"""The docs say what the code does: settings, routes, metrics, agent variables, limits, links, and no loose ends."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vantage_agent
from tests.support.samples import NOW_MS, MovedClock, a_series
from tests.support.server import serving
from vantage import app, cli, config, parts, server
from vantage.commands import client, doctor, import_data
from vantage.config import Settings
from vantage.connections import limits
from vantage.core import batch, red, sample, sketch, span
from vantage.core.batch import build_batch
from vantage.core.exemplars import encode_exemplars
from vantage.ingest import body, origin_limits
from vantage.ingest.wire import decoded
from vantage.query import live, overview, rollups, service_map, timeseries, timeseries_query
from vantage.query import storage_report as query_storage
from vantage.query import vql as query_vql
from vantage.storage import edge_join, ports, query_pool, recent_spans, steady_time
from vantage.storage import service_edges as storage_edges
from vantage.storage.clickhouse import edges as clickhouse_edges
from vantage.storage.clickhouse import upkeep
from vantage.storage.embedded import queries, store
from vantage.storage.embedded.format import chunk, exemplars, part_writer, segment
from vantage.storage.embedded.maintain import merge, seal_queue, segment_files, worker
from vantage.storage.embedded.offline import backup
from vantage.storage.embedded.read import chunk_index, connection_pool, earlier_spans
from vantage.storage.embedded.write import block, commit, head, journal
from vantage.telemetry import Telemetry
from vantage.web.api import export, sessions
from vantage_agent import _batch_maker, _config, _exporter
from vantage_agent._agent import TAG_KEY_LENGTH_MAX

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
AGENT = Path(vantage_agent.__file__).parent
LOOSE_ENDS = re.compile(
    r"\b(TODO|FIXME|TBD|XXX|WIP|lorem ipsum|coming soon|roadmap|blazing\w*|seamless\w*|effortless\w*|world-class|"
    r"cutting-edge|state-of-the-art|simply|obviously)\b",
    re.IGNORECASE,
)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """A section of a page, without its heading, up to the next one of the same or a higher level."""
    result = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", text_of(name), re.MULTILINE | re.DOTALL)
    assert result, f"{name} has no section {title!r}"
    return result[2]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, headings and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [cells for index, cells in enumerate(split) if not lines[min(index + 1, len(lines) - 1)].startswith("| ---")
            and not lines[index].startswith("| ---")]  # fmt: skip


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def settings_table() -> str:
    """What docs/operations.md must hold; printed when it does not."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name in config.FIELDS:
        default = config.default_text(name)
        lines.append(f"| `{name}` | {f'`{default}`' if default else 'empty'} | {config.description(name)} |")
    return "\n".join(lines)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    expected = settings_table()
    assert expected in section("docs/operations.md", "Settings"), f"put this into docs/operations.md:\n\n{expected}\n"


def test_the_example_of_an_env_file_is_what_the_command_prints() -> None:
    assert text_of(".env.example") == config.example(), "run: vantage config --example > .env.example"


def routes() -> set[str]:
    """Method and path of everything the application answers to."""
    site: Any = app.create_app(Settings()).asgi._site
    result = {"POST /v1/metrics", "POST /v1/spans"}
    for route in site.routes:
        path = re.sub(r":\w+}", "}", route.path)
        methods = {"WS"} if type(route).__name__ == "WebSocketRoute" else set(route.methods) - {"OPTIONS", "HEAD"}
        result |= {f"{method} {path}" for method in methods}
    return result


def test_the_table_of_routes_is_that_of_the_application() -> None:
    written = {code for cells in rows(section("docs/api.md", "Routes")) for code in codes(cells[0])}
    assert written == routes()


def test_metrics_of_a_running_server_are_in_the_table(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        exposition = running.get("/metrics").body.decode()
    exposed = {
        (name, kind) for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", exposition, re.MULTILINE)
        if not name.endswith("_created")
    }  # fmt: skip
    table = rows(section("docs/operations.md", "Metrics"))
    assert {(codes(cells[0])[0], cells[1]) for cells in table} == exposed


def test_every_command_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli._parser()
    below: Any = next(action for action in parser._actions if hasattr(action, "choices") and action.dest == "command")
    commands = set()
    for name, command in below.choices.items():
        actions: Any = [action for action in command._actions if action.dest == "action"]
        commands |= {f"vantage {name} {choice}" for choice in actions[0].choices} if actions else {f"vantage {name}"}
    table = rows(section("docs/operations.md", "Commands"))
    written = {re.sub(r" [A-Z]+$", "", code) for cells in table for code in codes(cells[0])}
    assert written == commands | {"vantage"}
    flags = {flag for cells in table for flag in re.findall(r"--[a-z-]+", cells[1])}
    assert flags <= set(cli._options(parser))


class TimeseriesQuery(dict[str, str]):
    """An environment that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.names.add(name)
        return default


def test_variables_of_the_agent_are_those_it_reads() -> None:
    environ = TimeseriesQuery()
    _config.make_config(environ)
    read = re.compile(r"environ\.get\(\"(VANTAGE_AGENT_\w+)\"")
    elsewhere = {name for path in AGENT.rglob("*.py") for name in read.findall(path.read_text())}
    written = {codes(cells[1])[0] for cells in rows(section("docs/agent.md", "Settings")) if codes(cells[1])}
    shared = set(re.findall(r"`(OTEL_\w+)`", section("docs/agent.md", "Settings")))
    assert written | shared == environ.names | elsewhere
    assert f"`{_config.COLLECTOR_URL_DEFAULT}`" in section("docs/agent.md", "Settings")


def test_reasons_for_which_the_agent_drops_are_listed() -> None:
    counted = re.compile(r"(?:count_loss\(|_lose\([^\n]*?, )f?\"([a-z_]+)(\{[^}]*\})?\"")
    in_code = {
        name + ("<status>" if status else "")
        for path in AGENT.rglob("*.py")
        for name, status in counted.findall(path.read_text())
    }
    table = rows(section("docs/agent.md", "Limits"))
    written = {codes(cells[0])[0] for cells in table if cells[0].startswith("`")}
    assert written == in_code


def test_functions_of_the_agent_are_listed() -> None:
    table = rows(section("docs/agent.md", "Of your own"))
    assert {re.split(r"\(", code)[0] for cells in table for code in codes(cells[0])} == set(vantage_agent.__all__)


USUAL_EXEMPLAR = encode_exemplars(np.zeros(1, np.uint32), (32 * "a",), (16 * "b",))
CONFIG = _config.Config("", "", "", 0, "")
NARROW_DAYS, WIDER_DAYS = red.KEPT_DAYS["endpoint", 300_000], red.KEPT_DAYS["service", 300_000]
LIMITS = [
    ("docs/api.md", f"{body.BODY_NBYTES_MAX} bytes as sent, {body.UNPACKED_NBYTES_MAX} unpacked"),
    ("docs/api.md", (f"| tags of a sample | {sample.TAGS_MAX}; keys {sample.TAG_KEY_LENGTH_MAX} characters, "
                    f"values {sample.TAG_VALUE_LENGTH_MAX} |")),
    ("docs/api.md", f"| metric name, environment | {sample.NAME_LENGTH_MAX} of"),
    ("docs/api.md", f"| unit | {sample.UNIT_LENGTH_MAX} characters |"),
    ("docs/api.md", f"| trace id, span id, batch id | {sample.ID_LENGTH_MAX} of"),
    ("docs/api.md", f"{sample.FUTURE_MS_MAX // 60_000} minutes ahead"),
    ("docs/api.md", f"| span name | {span.SPAN_NAME_LENGTH_MAX} characters |"),
    ("docs/api.md", (f"| span attributes | {span.ATTRIBUTES_MAX}; keys {span.ATTRIBUTE_KEY_LENGTH_MAX} characters, "
                    f"values {span.ATTRIBUTE_VALUE_LENGTH_MAX} |")),
    ("docs/api.md", f"| span duration | {span.DURATION_NS_MAX // 86_400_000_000_000} days |"),
    ("docs/api.md", f"| errors listed in an answer | {decoded.ERRORS_LISTED_MAX} |"),
    ("docs/api.md", f"| points of a series | {timeseries_query.BUCKETS_MAX} |"),
    ("docs/api.md", f"| series of an answer | {timeseries.GROUPS_MAX} |"),
    ("docs/api.md", f"At most {service_map.EDGES_MAX} edges"),
    ("docs/api.md", f"up to {edge_join.PARENT_REACH_MS // 60_000} minutes earlier or later"),
    ("docs/storage.md", f"beyond the first {earlier_spans.BLOCKS_MAX} blocks of spans"),
    ("docs/storage.md", f"{clickhouse_edges.SETTLE_MS // 60_000} minutes after the end of their 5 minutes"),
    ("docs/storage.md", f"with pauses of {upkeep.PAUSE_S:.0f} seconds"),
    ("docs/api.md", f"of more than {storage_edges.SPANS_MAX} spans"),
    ("docs/api.md", f"| series of a socket | {live.SERIES_MAX} |"),
    ("docs/api.md", f"more than {live.PENDING_MAX} updates waited"),
    ("docs/api.md", ", ".join(f"`{agg}`" for agg in timeseries.AGGREGATIONS[1:])),
    ("docs/storage.md", f"| batch ids | {batch.BATCH_ID_MEMORY_MS // 60_000} minutes, {batch.BATCH_ID_MEMORY_MAX} |"),
    (
        "docs/storage.md",
        (f"estimated as {block.SAMPLE_NBYTES} bytes a sample, {USUAL_EXEMPLAR.nbytes + block.HASH_NBYTES} more with a "
        f"trace and a span id of the usual length, {span.SPAN_NBYTES} a span"),
    ),
    ("docs/storage.md", f"up to {head.BLOCK_SAMPLES_MAX} samples or {head.BLOCK_SPANS_MAX} spans a block"),
    ("docs/storage.md", f"in blocks of up to {exemplars.EXEMPLARS_MAX}"),
    ("docs/storage.md", f"once the log has {commit.WAL_NBYTES_CHECKPOINT >> 20} MiB"),
    ("docs/storage.md", f"beyond {journal.WAL_NBYTES_KEPT >> 20} MiB is cut to that"),
    ("docs/storage.md", f"the pages beyond {journal.FREE_PAGES_KEPT * 4 >> 10} MiB go back to the disk"),
    ("docs/storage.md", f"{journal.GIVE_BACK_PAGES * 4} KiB every half second"),
    ("docs/storage.md", f"when at most {journal.REWRITTEN_PAGES_MAX * 4 >> 10} MiB are in it"),
    ("docs/storage.md", f"in arrays with room for {head.GROWING_SAMPLES_MAX}"),
    ("docs/storage.md", f"From {commit.WAL_NBYTES_MAX >> 20} MiB on the writer"),
    ("docs/operations.md", f"`services_max`, {origin_limits.SERVICES_MAX} sent within a day"),
    ("docs/operations.md", f"{origin_limits.NAMES_PER_SERVICE_MAX} each sent within a day; {origin_limits.NAMES_MAX}"),
    ("docs/operations.md", f"| endpoints of a service in rollups | {red.ENDPOINTS_MAX} since the start"),
    ("docs/operations.md", f"| rollups of requests over minutes, of endpoints over 5 | {NARROW_DAYS} days |"),
    ("docs/operations.md", f"| rollups of requests over 5 minutes | {WIDER_DAYS} days |"),
    ("docs/operations.md", f"| {recent_spans.SPANS_MAX} | a repeat is stored again; traces"),
    ("docs/operations.md", f"| 10000, and {query_vql.ANSWER_NBYTES_MAX >> 20} MiB | cut"),
    ("docs/api.md", f"more than {ports.TRACE_SPANS_MAX} spans"),
    ("docs/operations.md", f"| {ports.TRACE_SPANS_MAX} | the first; `left_out`"),
    ("docs/operations.md", f"| services on the overview | {overview.SERVICES_SHOWN_MAX} |"),
    ("docs/operations.md", f"has stayed there for {steady_time.TRUST_AFTER_S / 3600:.0f} hours"),
    ("docs/storage.md", f"| batches in one commit | {commit.COMMIT_BATCHES_MAX} |"),
    ("docs/storage.md", f"| queries at once | {queries.QUERY_THREADS}, and {query_pool.WAITING_MAX} waiting |"),
    (
        "docs/storage.md",
        (f"{merge.PARTS_MIN} at a time: once nothing was sealed or queried for {worker.CALM_S:.0f} seconds, "
        f"or when {merge.PARTS_MIN_BUSY} wait"),
    ),
    ("docs/operations.md", f"beside a backup waits for its end, up to {segment_files.BACKUP_WAIT_S:.0f} s"),
    (
        "docs/storage.md",
        f"| series | {Settings().series_max} (`series_max`) and {Settings().series_bytes_max >> 20} MiB",
    ),
    (
        "docs/storage.md",
        (f"| a generation | {seal_queue.GENERATION_SAMPLES_MAX} samples, "
        f"{seal_queue.GENERATION_NBYTES_MAX >> 20} MiB by the same estimate "
        "(a quarter of `head_bytes_max` where that is less), "
        f"{seal_queue.GENERATION_AGE_S_MAX / 3600:.0f} hours |"),
    ),
    (
        "docs/storage.md",
        (f"When the head has {seal_queue.GENERATION_SAMPLES_MAX} samples, an estimated "
        f"{seal_queue.GENERATION_NBYTES_MAX >> 20} MiB, "
        f"or is {seal_queue.GENERATION_AGE_S_MAX / 3600:.0f} hours old"),
    ),
    (
        "docs/storage.md",
        (f"| a merged part | {merge.SAMPLES_MAX} samples, {merge.SPANS_MAX} spans, {merge.NBYTES_MAX >> 20} MiB |"),
    ),
    ("docs/storage.md", f"`user_version` the format: {segment.FORMAT}. The page size is {segment.PAGE_NBYTES}:"),
    ("docs/storage.md", f"**Chunks** hold up to {chunk.CHUNK_SAMPLES_MAX} samples"),
    ("docs/storage.md", f"some {chunk.RUN_SAMPLES} samples, so that"),
    ("docs/storage.md", f"committed in slices of {part_writer.SLICE_NBYTES >> 10} KiB"),
    ("docs/storage.md", f"blocks of up to {part_writer.SPAN_BLOCK_ROWS}, in order of start"),
    ("docs/storage.md", f"with a relative error of {sketch.RELATIVE_ERROR}, as a MessagePack array"),
    ("docs/storage.md", f"| connections to segments | {connection_pool.IDLE_MAX} idle ones |"),
    ("docs/storage.md", f"| directories of chunks cached | {chunk_index.CACHE_NBYTES_MAX >> 20} MiB |"),
    ("docs/storage.md", f'{segment.APPLICATION_ID:#x} ("VTS1")'),
    ("docs/architecture.md", f"exact from samples up to {rollups.SAMPLES_READ_MAX} of them"),
    ("README.md", f"| series | {Settings().series_max} |"),
    ("docs/operations.md", f"| headers | {limits.HEADERS_NBYTES_MAX >> 10} KiB |"),
    ("docs/operations.md", f"({server.HANG_UP_AFTER * Settings().shutdown_timeout_s:g} of"),
    ("docs/api.md", f"Only quantiles of more than {rollups.SAMPLES_READ_MAX} samples"),
    ("docs/api.md", f"within {sketch.RELATIVE_ERROR * 100:g} % of the exact ones"),
    ("docs/api.md", f"`growing` are the {query_storage.GROWING_MAX} series with most samples"),
    ("docs/operations.md", f"waits up to {backup.WAIT_S:g} s for its turn, and says so after {backup.PATIENCE_S:g}"),
    ("docs/operations.md", f"batches of up to {import_data.BATCH_ITEMS_MAX} lines or"),
    ("docs/operations.md", f"up to {client.PATIENCE_S // 60:g} minutes for one batch"),
    ("docs/operations.md", f"the first {doctor.FAULTS_SHOWN} faults"),
    ("docs/api.md", f"reads less than {limits.UNREAD_PROGRESS_NBYTES >> 10} KiB in {limits.UNREAD_S:g} s"),
    ("docs/operations.md", f"less than {limits.UNREAD_PROGRESS_NBYTES >> 10} KiB in {limits.UNREAD_S:g} s"),
    ("docs/operations.md", f"{limits.UNREAD_NBYTES_MAX >> 20} MiB of all connections together"),
    ("docs/operations.md", f"{limits.FRAMES_PER_S_MAX} frames a second, {limits.FRAGMENTS_MAX} fragments a message"),
    ("docs/operations.md", f"slower than {export.RATE_MIN // 1000} kB a second gives way"),
    ("docs/operations.md", f"| a form of `/login` | {sessions.FORM_NBYTES_MAX >> 10} KiB, {parts.LOGINS_PER_MINUTE} a"),
    ("docs/agent.md", f"| buffer | {CONFIG.items_max} samples and spans, or some {CONFIG.nbytes_max >> 20} MiB |"),
    ("docs/agent.md", f"| batch | {_batch_maker.BATCH_ITEMS_MAX} items"),
    ("docs/agent.md", f"after {_exporter.RETRY_S_MAX // 60} minutes the batch is lost"),
    ("docs/agent.md", f"| tags | {_batch_maker.TAGS_MAX}, keys {TAG_KEY_LENGTH_MAX} characters |"),
    ("README.md", (f"| tags of a sample | {sample.TAGS_MAX}, keys to {sample.TAG_KEY_LENGTH_MAX} "
                  f"and values to {sample.TAG_VALUE_LENGTH_MAX} characters |")),
    ("README.md", f"| {Settings().ingest_rate_limit} a minute |"),
    ("README.md", (f"| {Settings().api_rate_limit} a minute (signed-in pages "
                  f"{Settings().api_rate_limit * parts.SESSION_RATE_FACTOR}) |")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sentence"), LIMITS)
def test_a_figure_is_that_of_the_code(name: str, sentence: str) -> None:
    assert sentence in text_of(name)


def anchors(text: str) -> set[str]:
    """The anchors GitHub gives to headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{page.name} links to {target}"
        assert aim.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(aim.read_text(encoding="utf-8")), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_named_in_a_page_exist(page: Path) -> None:
    for path in codes(page.read_text(encoding="utf-8")):
        if re.fullmatch(r"(src|tests|docs|migrations|templates|static|benchmarks|requirements)/[\w./-]*", path):
            made_by_the_build = path.startswith("static/vendor")
            assert made_by_the_build or (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_loose_ends(page: Path) -> None:
    assert not LOOSE_ENDS.findall(page.read_text(encoding="utf-8"))


def test_every_folder_of_the_server_is_in_the_map() -> None:
    table = section("docs/architecture.md", "Where things are")
    folders = {path.parent.name for path in (ROOT / "src" / "vantage").glob("*/__init__.py")}
    assert {f"src/vantage/{name}/" for name in folders} <= set(codes(table))
    named = {path for path in codes(table) if path.startswith(("src/", "migrations/"))}
    assert not [path for path in named if not (ROOT / path).exists()]


def test_images_are_small_enough_to_load_on_a_phone() -> None:
    images = sorted((DOCS / "images").iterdir())
    assert images
    assert not [image.name for image in images if image.stat().st_size > 200_000]


def test_the_readme_shows_every_image_and_describes_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r'<img src="docs/images/([^"]+)"[^>]* alt="([^"]*)"', text))
    shown |= {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\(docs/images/([^)]+)\)", text)}
    assert sorted(shown) == sorted(image.name for image in (DOCS / "images").iterdir())
    assert all(shown.values())


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text_of("docs/storage.md"), re.MULTILINE | re.DOTALL)


def test_the_program_in_the_docs_reads_a_journal(tmp_path: Path) -> None:
    program = programs()[0]
    assert len(program.splitlines()) <= 25
    now_ms = 1_703_001_234_567
    first = {"metric_name": "m", "value": 1.5, "unit": "s", "timestamp": now_ms, "tags": {"a": "b"}, "trace_id": "t-1"}
    two = {"trace_id": "t-1", "span_id": "s-1", "name": "work", "start_ns": now_ms * 1_000_000, "duration_ns": 7}
    with serving(tmp_path / "data", environ={"VANTAGE_SELF_TELEMETRY": "false"}) as running:
        for service in ("gone", "kept"):
            assert running.send({"service_name": service, "metrics": [first]}).status == 202
            assert running.send({"service_name": service, "spans": [two]}, "/v1/spans").status == 202
        assert running.request("DELETE", "/api/data?service=gone").status == 200
        beside = run_program(program, tmp_path)
    assert beside == [
        f"sample {now_ms} kept default m gauge 1.5 s {{'a': 'b'}} ('t-1', '')",
        f"span {now_ms}000000 kept default work 7 t-1 s-1  unset",
    ]
    shutil.copytree(tmp_path / "data", tmp_path / "copy" / "data")
    assert run_program(program, tmp_path / "copy") == beside


async def test_the_program_in_the_docs_reads_every_sample_of_the_segments(tmp_path: Path) -> None:
    """With nothing but the text of docs/storage.md a stranger gets the data back."""
    program = programs()[1]
    assert len(program.splitlines()) <= 60
    chance = random.Random(5)
    expected: list[str] = []
    async with store.EmbeddedStore(tmp_path / "data", clock=MovedClock(), telemetry=Telemetry()) as opened:
        for _ in range(5):
            rows = []
            for n in range(300):
                series = a_series(f"svc {n % 3}", f"m{n % 7}", tags={"ü": str(n % 11)}, unit="s")
                at_ms = NOW_MS - chance.choice([0, 1, 400 * 86_400_000]) - n
                value = chance.choice([float(n), round(chance.random(), 3), chance.random(), -0.0, 5e-324, 1e300])
                rows.append((series, at_ms, value))
                expected.append(f"sample {at_ms} svc {n % 3} test m{n % 7} gauge {value} s {{'ü': '{n % 11}'}}")
            await opened.write(build_batch(rows))
            await opened.seal()
        beside = run_program(program, tmp_path)
    assert sorted(beside) == sorted(expected)


def run_program(program: str, folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
