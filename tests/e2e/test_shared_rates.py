"""Servers that share their rates in Redis."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.databases import redis_server
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

pytest.importorskip("redis", reason="pip install 'vantage[server,redis]'")
BATCH = {"service_name": "api", "metrics": [{"metric_name": "m", "value": 1.0}]}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def log_in(server: Server) -> int:
    return server.request("POST", "/login", urlencode({"key": "guessed"}).encode(), FORM).status


def test_two_servers_share_their_rates_and_go_on_without_redis(tmp_path: Path) -> None:
    with redis_server("--requirepass", "geheim") as redis:
        environ = {
            "VANTAGE_RATE_LIMIT_URL": f"redis://:geheim@127.0.0.1:{redis.port}/0",
            "VANTAGE_INGEST_RATE_LIMIT": "10",
            "VANTAGE_API_RATE_LIMIT": "6",
            "VANTAGE_API_KEY": "the-key",
            "VANTAGE_SELF_TELEMETRY": "no",
        }
        with serving(tmp_path / "a", environ=environ) as first, serving(tmp_path / "b", environ=environ) as second:
            both = (first, second)
            # Some tokens come back meanwhile, and a busy machine is slower than a request waits. Counted by each server
            # itself, the rates would let through twice as many.
            sent = [server.send(BATCH, x_api_key="the-key") for _ in range(12) for server in both]
            assert 10 <= sum(answer.status == 202 for answer in sent) < 17
            refused = next(answer for answer in sent if answer.status == 429)
            assert int(refused.headers["retry-after"]) >= 1
            headers = {"X-API-Key": "the-key"}
            queried = [server.get("/api/services", **headers).status for _ in range(8) for server in both]
            assert 6 <= queried.count(200) < 11
            # Unknown keys count against the address, for ingest and for the form.
            guessed = [server.send(BATCH, x_api_key="guessed").status for _ in range(12) for server in both]
            assert 10 <= guessed.count(401) < 17
            assert [log_in(server) for _ in range(28) for server in both].count(429) >= 10

            redis.kill()
            assert [server.send(BATCH, x_api_key="the-key").status for server in both] == [202, 202]
            health = first.get("/health")
            assert health.status == 200
            assert "Redis" in health.json()["warnings"][0]
            assert first.counts()["vantage_rate_limit_fallbacks_total"] >= 1
            redis.start()
            wait_until(lambda: not first.get("/health").json()["warnings"])
            assert first.output.count("rates are not shared") == 1
            assert "geheim" not in first.output
        assert "rates: Redis answers" in vantage("doctor", "--data", str(tmp_path / "a"), environ=environ).stdout
        redis.kill()
        checked = vantage("doctor", "--data", str(tmp_path / "a"), environ=environ)
        assert checked.returncode == 1
        assert "rates: Redis at 127.0.0.1" in checked.stdout
        assert "geheim" not in checked.stdout + checked.stderr
        shown = vantage("config", "--data", str(tmp_path), environ=environ).stdout
        assert "redis://:********@127.0.0.1" in shown
        assert "geheim" not in shown


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", environ={"VANTAGE_RATE_LIMIT_URL": "redis://:geheim@host:port"})
    assert server.wait_exit() == 1
    assert "rate_limit_url must be like" in server.output
    assert "geheim" not in server.output
    assert len(server.output.splitlines()) == 1
