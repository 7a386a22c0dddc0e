"""What the URL of a ClickHouse server means, and how mistakes are reported without the password."""

from __future__ import annotations

import pytest

from vantage.core.errors import ConfigError
from vantage.storage.clickhouse.server_url import parse_server_url


def test_without_anything_else_a_host_is_enough() -> None:
    url = parse_server_url("clickhouse://ch")
    assert (url.hosts, url.user, url.password, url.database) == ((("ch", 9000),), "default", "", "vantage")
    assert (url.secure, url.verify, url.ca_certs) == (False, True, "")


def test_every_part_is_read() -> None:
    url = parse_server_url(
        "clickhouses://me%40x:p%2Fw%3A@a,[::1]:9001,c:9002/telemetry"
        "?verify=false&ca_certs=/etc/ca.pem&connect_timeout_s=1.5&read_timeout_s=7"
    )
    assert url.hosts == (("a", 9440), ("::1", 9001), ("c", 9002))
    assert (url.user, url.password, url.database) == ("me@x", "p/w:", "telemetry")
    assert (url.secure, url.verify, url.ca_certs) == (True, False, "/etc/ca.pem")
    assert (url.connect_timeout_s, url.read_timeout_s) == (1.5, 7.0)
    assert "p/w" not in repr(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("clickhouse://", "the host is missing"),
        ("clickhouse:///db", "the host is missing"),
        ("clickhouse://me:geheim@/db", "the host is missing"),
        ("clickhouse://me:geheim@a:0/db", "host 1 is not a name with a port"),
        ("clickhouse://me:geheim@a,b:99999/db", "host 2 is not a name with a port"),
        ("clickhouse://me:geheim:9000/db", "host 1 is not a name with a port"),
        ("clickhouse://me:ge/heim@a:9000/db", "write / and @ in a password as %2F and %40"),
        ("clickhouse://me:geheim@a/d-b", "the database must be a name"),
        ("clickhouse://me:geheim@a/db?sekure=true", "did you mean 'secure'"),
        ("clickhouse://me:geheim@a/db?xyz=true", "unknown option; known are secure"),
        ("clickhouse://me:geheim@a/db?secure=maybe", "secure must be true or false"),
        ("clickhouse://me:geheim@a/db?read_timeout_s=0", "read_timeout_s must be seconds"),
        ("clickhouse://me:geheim@a/db?read_timeout_s=nan", "read_timeout_s must be seconds"),
        ("clickhouse://" + ",".join(f"h{n}" for n in range(17)), "17 hosts are given, at most 16"),
    ],
)
def test_a_mistake_is_named_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_server_url(url)
    assert reason in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "heim" not in str(caught.value)
