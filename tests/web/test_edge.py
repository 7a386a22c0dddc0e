"""Which Host headers are ours."""

from __future__ import annotations

import socket

import pytest

from vantage.web.middleware import HostGuard


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LocalHost:8000", True),
        ("localhost.", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("10.1.2.3:80", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("[2001:db8::1]:8000", True),
        ("vantage.example.com", True),
        ("VANTAGE.example.com:443", True),
        ("listened.example.com", True),
        (socket.gethostname(), True),
        ("", False),
        (":8000", False),
        ("evil.example.com", False),
        ("evil.example.com:8000", False),
        ("vantage.example.com.evil.com", False),
        ("evil-vantage.example.com", False),
        ("127.0.0.1.evil.com", False),
        ("127.1", False),
        ("2130706433", False),
        ("localhost@evil.com", False),
        ("localhost:8000@evil.com", False),
        ("evillocalhost", False),
        ("[evil]", False),
        ("[::1]evil.com", False),
        ("localhost:port", False),
        ("localhost:", False),
        ("[", False),
        ("\xff", False),
        ("a b", False),
    ],
)
def test_only_names_that_nobody_else_can_point_here_are_answered(host: str, *, allowed: bool) -> None:
    guard = HostGuard(listen_host="listened.example.com", allowed=("vantage.example.com",))
    for _ in range(2):  # the second answer comes from memory
        assert guard.allows(host.encode("latin-1")) is allowed


def test_a_star_allows_every_name() -> None:
    assert HostGuard(listen_host="127.0.0.1", allowed=("*",)).allows(b"evil.example.com")


def test_the_cache_of_hosts_is_bounded() -> None:
    guard = HostGuard(listen_host="127.0.0.1", allowed=())
    for port in range(2000):
        assert guard.allows(f"localhost:{port}".encode())
    assert guard.allows(b"x" * 10_000 + b".localhost")
    assert guard._check_cached.cache_info().currsize == 256
    assert not guard.allows(b"evil.example.com")
