"""The wheel as a stranger installs it: with the server it serves every page, without it, it is the agent alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest

from tests.support.environments import new_environment, pip

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 240
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
READY = re.compile(r"http://127\.0\.0\.1:(\d+)")

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S * 2)


def clean_env(**changes: str) -> dict[str, str]:
    """This environment without what would lead back into the checkout, or configure the server."""
    stored = {k: v for k, v in os.environ.items() if not k.startswith(("VANTAGE_", "PYTHON", "VIRTUAL_ENV"))}
    return {**stored, "PYTHONWARNINGS": "", **changes}


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env or clean_env(),
        capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S,
    )  # fmt: skip


def run_ok(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = run(*command, cwd=cwd, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_venv(folder: Path) -> Path:
    run_ok(*new_environment(folder), cwd=folder.parent)
    return folder / "bin" / "python"


def packages(python: Path) -> set[str]:
    listed = run_ok(*pip(python, "list", "--format=freeze"), cwd=python.parent)
    return {line.partition("==")[0].partition(" @ ")[0].lower() for line in listed.splitlines()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run_ok(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def server_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked dependencies, then the wheel with its extra and without an index: the lock must suffice."""
    python = make_venv(tmp_path_factory.mktemp("server") / "venv")
    locked = ("--require-hashes", "-r", str(ROOT / "requirements" / "server.txt"))
    run_ok(*pip(python, "install", "--quiet", *locked), cwd=wheel.parent)
    run_ok(*pip(python, "install", "--quiet", "--no-index", f"vantage[server] @ {wheel.as_uri()}"), cwd=wheel.parent)
    return python


@pytest.fixture(scope="module")
def agent_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = make_venv(tmp_path_factory.mktemp("agent") / "venv")
    before = packages(python)
    run_ok(*pip(python, "install", "--quiet", "--no-index", str(wheel)), cwd=wheel.parent)
    assert packages(python) - before == {"vantage"}
    return python


@pytest.fixture(scope="module")
def address(server_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [server_python.parent / "vantage", "serve", "--port", "0", "--data", elsewhere / "data"]
    said: list[str] = []
    ready = threading.Event()
    with subprocess.Popen(
        [str(part) for part in command], cwd=elsewhere, env=clean_env(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if READY.search(line):
                    ready.set()
            ready.set()

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            ready.wait(READY_TIMEOUT_S)
            result = READY.search("".join(said))
            assert result, f"no address within {READY_TIMEOUT_S} s:\n{''.join(said)}"
            yield result[0]
            assert process.poll() is None, f"the server ended by itself:\n{''.join(said)}"
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            listener.join()
        assert code == 0, f"SIGTERM ended it with {code}:\n{''.join(said)}"


class References(HTMLParser):
    """What a page loads (scripts, styles, images) and where it links to."""

    def __init__(self, page_url: str) -> None:
        super().__init__()
        self.page_url = page_url
        self.loads: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        target = values.get("href") if tag in {"link", "a"} else values.get("src")
        if target and not target.startswith(("data:", "#", "mailto:", "javascript:")):
            (self.links if tag == "a" else self.loads).add(urldefrag(urljoin(self.page_url, target)).url)


def get(url: str) -> tuple[int, str, str]:
    deadline = time.monotonic() + 10
    while True:
        request = urllib.request.Request(url, headers={"Accept": "text/html,*/*"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.headers.get_content_type(), response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get_content_type(), error.read().decode(errors="replace")
        except urllib.error.URLError:
            # The address is printed when the socket listens; give a slow machine a moment more.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def references(url: str) -> References:
    status, kind, body = get(url)
    assert (status, kind) == (200, "text/html"), f"{url}: {status} {kind}\n{body[:500]}"
    result = References(url)
    result.feed(body)
    return result


def test_the_wheel_carries_resources_and_libraries_with_their_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("vantage/_resources/") for name in archive.namelist()}
    assert {"templates/base.html", "static/vendor/htmx.min.js", "static/vendor/htmx.LICENSE.txt"} <= names
    assert any(name.startswith("migrations/") for name in names)
    assert "vantage_agent/__init__.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/")) or "__pycache__" in name]


@pytest.mark.parametrize("path", ["/", "/schema"])
def test_a_page_and_everything_it_loads_is_served(address: str, path: str) -> None:
    result = references(address + path)
    assert any(urlsplit(url).path.endswith(".js") for url in result.loads), result.loads
    assert any(urlsplit(url).path.endswith(".css") for url in result.loads), result.loads
    for url in sorted(result.loads):
        assert url.startswith(address), f"{path} loads {url} from elsewhere: it must work without the internet"
        status, _, body = get(url)
        assert (status, bool(body)) == (200, True), url
        if urlsplit(url).path.endswith(".css"):
            for inner in re.findall(r"url\(['\"]?([^'\")]+)", body):
                if not inner.startswith("data:"):
                    assert get(urljoin(url, inner))[0] == 200, f"{url} loads {inner}"


def test_every_link_of_the_overview_leads_to_a_page_with_its_assets(address: str) -> None:
    local = sorted(url for url in references(address + "/").links if url.startswith(address))
    assert local, "the overview links to nothing"
    loads = set()
    for url in local:
        status, kind, body = get(url)
        assert status == 200, url
        if kind == "text/html":
            page = References(url)
            page.feed(body)
            loads |= page.loads
    assert not [url for url in sorted(loads) if get(url)[0] != 200]


def test_the_openapi_document_is_served(address: str) -> None:
    assert get(f"{address}/schema/openapi.json")[0] == 200


def test_the_server_wrote_only_into_its_data_folder(address: str, server_python: Path) -> None:
    assert get(f"{address}/health/ready")[0] == 200
    installed = server_python.parents[1] / "lib"
    assert not [*installed.rglob("*.db"), *installed.rglob("*.log")]


def test_without_the_extra_serve_says_in_one_line_what_to_install(agent_python: Path, tmp_path: Path) -> None:
    done = run(agent_python.parent / "vantage", "serve", cwd=tmp_path)
    assert done.returncode != 0
    assert "vantage[server]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir()), "it failed, and left something behind"


def test_without_the_extra_the_agent_works(agent_python: Path, tmp_path: Path) -> None:
    run_ok(agent_python, "-W", "error", "-c", "import vantage_agent", cwd=tmp_path)
    run_ok(agent_python.parent / "vantage-agent", "--help", cwd=tmp_path)


def test_a_source_distribution_builds_without_npm_and_says_so_when_the_libraries_are_gone(tmp_path: Path) -> None:
    run_ok(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    without_npm = clean_env(PATH=str(tmp_path / "nothing-here"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "out", source]
    run_ok(*build, cwd=tmp_path, env=without_npm)

    shutil.rmtree(source / "static" / "vendor")
    failed = run(*build, cwd=tmp_path, env=without_npm)
    assert failed.returncode != 0
    assert "npm is not installed" in failed.stdout + failed.stderr
    by_hand = run(sys.executable, "hatch_build.py", cwd=source, env=without_npm)
    assert by_hand.returncode != 0
    assert len(by_hand.stderr.strip().splitlines()) == 1, by_hand.stderr
