"""Servers that share a PostgreSQL database: keys and sessions, its outages, and the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.databases import PostgresServer, postgres_server
from tests.support.server import Answer, Server, serving, vantage
from tests.support.wait import wait_until

pytest.importorskip("asyncpg", reason="pip install 'vantage[server,postgres]'")
REPORT = {"service": "api", "version": "1"}
BATCH = {"service_name": "api", "metrics": [{"metric_name": "m", "value": 1.0}]}


@pytest.fixture(scope="module")
def database_server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def environ(database_server: PostgresServer) -> dict[str, str]:
    url = database_server.url(database_server.new_database()).replace("vantage@", "vantage:geheim@")
    return {"VANTAGE_METADATA_URL": url, "VANTAGE_SELF_TELEMETRY": "no"}


def create_key(data: Path, environ: dict[str, str], name: str, *options: str) -> str:
    done = vantage("keys", "create", name, *options, "--data", str(data), environ=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "the secret alone is printed on standard output"
    return done.stdout.strip()


def log_in(server: Server, secret: str) -> str:
    """Sign a browser in; return its cookie."""
    form = urlencode({"key": secret}).encode()
    answer = server.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 303, answer
    return answer.headers["set-cookie"].partition(";")[0]


def metadata_of(health: Answer) -> tuple[int, str, str]:
    content = health.json()
    return health.status, content["status"], content["dependencies"]["metadata"]["status"]


def test_two_servers_share_keys_and_sessions(environ: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path / "a", environ=environ) as first, serving(tmp_path / "b", environ=environ) as other:
        assert other.send(BATCH).status == 202
        secret = create_key(tmp_path / "c", environ, "shop")
        for server in (first, other):
            wait_until(lambda server=server: server.send(BATCH).status == 401)
            assert server.send(BATCH, x_api_key=secret).status == 202
        cookie = log_in(first, secret)
        assert other.get("/api/services", Cookie=cookie).status == 200
        assert vantage("keys", "revoke", "shop", "--data", str(tmp_path), environ=environ).returncode == 0
        for server in (first, other):
            wait_until(lambda server=server: server.send(BATCH, x_api_key=secret).status == 401)
            assert server.get("/api/services", Cookie=cookie).status == 401
        assert "geheim" not in first.output + other.output


def test_commands_work_on_postgresql_and_never_show_the_password(environ: dict[str, str], tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    outputs = []

    def run(*arguments: str, status: int = 0) -> str:
        done = vantage(*arguments, environ=environ)
        assert done.returncode == status, done.stdout + done.stderr
        outputs.append(done.stdout + done.stderr)
        return outputs[-1]

    assert "metadata: 0001_keys_deployments_audit would be applied" in run("migrate", "--dry-run", *data)
    assert "metadata: 9 migrations to apply" in run("doctor", *data)
    assert "metadata: 0001_keys_deployments_audit applied" in run("migrate", *data)
    assert "metadata: nothing to do" in run("migrate", *data)
    assert "metadata: schema is current" in run("doctor", *data)
    run("keys", "create", "shop", *data)
    assert "shop" in run("keys", "list", *data)
    assert "revoked" in run("keys", "revoke", "shop", *data)
    with serving(tmp_path / "data", environ=environ):
        assert "copy it with pg_dump" in run("backup", str(tmp_path / "backup"), *data)
        assert not (tmp_path / "backup" / "metadata.db").exists()
    assert "vantage:********@127.0.0.1" in run("config", *data)
    assert not any("geheim" in output for output in outputs)


@pytest.mark.parametrize("command", [["keys", "list"], ["migrate"], ["migrate", "--dry-run"], ["doctor"]])
def test_a_command_without_the_database_fails_in_one_line(command: list[str], tmp_path: Path) -> None:
    environ = {"VANTAGE_METADATA_URL": "postgresql://me:geheim@127.0.0.1:1/db"}
    done = vantage(*command, "--data", str(tmp_path / "data"), environ=environ)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "PostgreSQL cannot be reached at 127.0.0.1:1/db: Connection refused" in output
    assert "geheim" not in output
    assert "Traceback" not in output
    assert command == ["doctor"] or len(output.splitlines()) == 1


def test_a_server_does_not_start_with_a_login_that_is_refused(database_server: PostgresServer, tmp_path: Path) -> None:
    url = f"postgresql://me:geheim@127.0.0.1:{database_server.port}/postgres"
    server = Server(tmp_path / "data", environ={"VANTAGE_METADATA_URL": url})
    assert server.wait_exit() == 1
    assert 'refuses: role "me" does not exist' in server.output
    assert "geheim" not in server.output
    assert "Traceback" not in server.output


def test_a_server_without_its_database_is_closed_to_everybody_until_it_is_back(tmp_path: Path) -> None:
    with postgres_server() as database:
        environ = {"VANTAGE_METADATA_URL": database.url(database.new_database()), "VANTAGE_SELF_TELEMETRY": "no"}
        secret = create_key(tmp_path / "data", environ, "shop")
        database.kill()
        fixed = {"VANTAGE_API_KEY": "the-fixed-key", **environ}
        with (
            serving(tmp_path / "a", environ=environ) as server,
            serving(tmp_path / "b", environ=fixed) as with_fixed,
            serving(tmp_path / "c", environ={"VANTAGE_AUTH": "off", **environ}) as open_to_all,
        ):
            for headers in ({}, {"x_api_key": secret}, {"x_api_key": "guessed"}):
                refused = server.send(BATCH, **headers)
                assert (refused.status, "retry-after" in refused.headers) == (503, True)
                assert with_fixed.send(BATCH, **headers).status == 503
            for path in ("/api/services", "/", "/api/deployments"):
                assert server.get(path).status == 503, path
            assert metadata_of(server.get("/health")) == (503, "down", "down")
            assert server.get("/health/ready").status == 503
            assert server.get("/health/live").status == 200
            assert with_fixed.send(BATCH, x_api_key="the-fixed-key").status == 202
            assert open_to_all.send(BATCH).status == 202
            database.start()
            wait_until(lambda: server.send(BATCH, x_api_key=secret).status == 202)
            assert server.send(BATCH).status == 401
            wait_until(lambda: server.get("/health/ready").status == 200)
            assert "Traceback" not in server.output


def test_known_keys_work_while_the_database_is_away_and_changes_are_refused(tmp_path: Path) -> None:
    with postgres_server() as database:
        environ = {"VANTAGE_METADATA_URL": database.url(database.new_database()), "VANTAGE_SELF_TELEMETRY": "no"}
        secret = create_key(tmp_path / "data", environ, "shop")
        with serving(tmp_path / "data", environ=environ) as server:
            cookie = log_in(server, secret)
            admin = create_key(tmp_path / "data", environ, "admin", "--scope", "admin")
            wait_until(lambda: server.get("/api/services", **{"X-API-Key": admin}).status == 200)
            outages = ((database.kill, database.start), (database.pause, database.resume))
            for end, again in outages:
                end()
                assert server.send(BATCH, x_api_key=secret).status == 202
                assert server.send(BATCH).status == 401
                wait_until(lambda: metadata_of(server.get("/health")) == (503, "degraded", "down"))
                assert server.get("/health/ready").status == 200
                assert server.get("/api/services", Cookie=cookie).status == 200
                for page in ("/", "/services/api"):
                    assert server.get(page, Cookie=cookie).status == 200, page
                wait_until(lambda: b"Deployments are not shown" in server.get("/", Cookie=cookie).body)
                assert server.send(REPORT, "/api/deployments", x_api_key=secret).status == 503
                assert server.request("DELETE", "/api/data?service=api", None, {"X-API-Key": admin}).status == 503
                assert server.get("/api/metrics?service=api", Cookie=cookie).json()["metrics"], "nothing is deleted"
                again()
                wait_until(lambda: server.get("/health").status == 200)
                wait_until(lambda: server.send(REPORT, "/api/deployments", x_api_key=secret).status == 201)
                create_key(tmp_path / "data", environ, f"made after {end.__name__}")
            # Once for each outage that lasts until keys are read again, which is every 2 s.
            assert 1 <= server.output.count("API keys cannot be read") <= len(outages), server.output
            assert "Traceback" not in server.output
