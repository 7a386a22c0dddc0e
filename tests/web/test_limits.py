"""Rates and addresses: who owns a token, and whose word is believed about where a request comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.web.limits import RateLimited, TokenBuckets, TrustedProxies


def try_take(buckets: TokenBuckets, owner: str, *times_s: float) -> list[bool]:
    """Whether each of these requests was let through."""
    result = []
    for at_s in times_s:
        try:
            buckets.take(owner, at_s)
            result.append(True)
        except RateLimited:
            result.append(False)
    return result


def test_all_of_a_minute_s_requests_may_come_at_once_and_no_more() -> None:
    assert try_take(TokenBuckets(3), "a", *[0.0] * 5) == [True, True, True, False, False]


def test_tokens_come_back_steadily() -> None:
    buckets = TokenBuckets(60)
    try_take(buckets, "a", *[0.0] * 60)
    assert try_take(buckets, "a", 0.5, 1.0, 1.5, 2.1) == [False, True, False, True]


def test_a_bucket_never_exceeds_the_tokens_of_a_minute() -> None:
    buckets = TokenBuckets(2)
    assert try_take(buckets, "a", 0.0, 1e9, 1e9, 1e9) == [True, True, True, False]


def test_owners_do_not_take_from_each_other() -> None:
    buckets = TokenBuckets(1)
    assert try_take(buckets, "a", 0.0, 0.0) == [True, False]
    assert try_take(buckets, "b", 0.0) == [True]


def test_zero_is_no_limit() -> None:
    assert all(try_take(TokenBuckets(0), "a", *[0.0] * 10_000))


def test_a_refusal_has_the_time_of_the_next_token() -> None:
    buckets = TokenBuckets(6)
    try_take(buckets, "a", *[0.0] * 6)
    with pytest.raises(RateLimited, match="6 requests a minute") as refused:
        buckets.take("a", 4.0)
    assert refused.value.retry_after_s == pytest.approx(6.0)
    assert try_take(buckets, "a", 10.1) == [True]


def test_a_refused_request_costs_nothing() -> None:
    buckets = TokenBuckets(60)
    try_take(buckets, "a", *[0.0] * 60)
    assert try_take(buckets, "a", *[0.9] * 1000, 1.05)[-1] is True


def test_the_least_recently_used_bucket_is_dropped_first() -> None:
    buckets = TokenBuckets(1, buckets_max=2)
    for owner in ("a", "b"):
        try_take(buckets, owner, 0.0)
    assert try_take(buckets, "a", 0.0) == [False]  # a was seen after b
    try_take(buckets, "c", 0.0)
    assert try_take(buckets, "a", 0.0) == [False]
    assert try_take(buckets, "b", 0.0) == [True]


@given(st.integers(1, 100), st.lists(st.floats(0, 5), max_size=300))
def test_no_minute_lets_more_than_twice_the_rate_through(per_minute: int, pauses_s: list[float]) -> None:
    now_s, passed = 0.0, []
    buckets = TokenBuckets(per_minute)
    for pause_s in pauses_s:
        now_s += pause_s
        passed += [now_s] * try_take(buckets, "a", now_s)[0]
    for start in passed:
        assert sum(start <= at_s < start + 60 for at_s in passed) <= 2 * per_minute + 1


def client(networks: tuple[str, ...], peer: str, forwarded_for: str) -> str:
    return TrustedProxies(networks).client(peer, {b"x-forwarded-for": forwarded_for.encode("latin-1")})


@pytest.mark.parametrize(
    ("networks", "peer", "forwarded_for", "result"),
    [
        ((), "203.0.113.1", "", "203.0.113.1"),
        ((), "10.0.0.1", "203.0.113.9", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", "", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), "203.0.113.1", "198.51.100.7", "203.0.113.1"),
        (("10.0.0.0/8",), "10.0.0.1", "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", "198.51.100.7, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (("10.0.0.1",), "10.0.0.1", " 203.0.113.9 ,", "203.0.113.9"),
        (("::1", "2001:db8::/32"), "::1", "2001:db8::5, 203.0.113.9", "203.0.113.9"),
        (("2001:db8::/32",), "2001:db8::1", "2001:db9::5", "2001:db9::/64"),
        (("10.0.0.0/8",), "", "203.0.113.9", ""),
        (("10.0.0.0/8",), "unix socket", "203.0.113.9", "unix socket"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(
    networks: tuple[str, ...], peer: str, forwarded_for: str, result: str
) -> None:
    assert client(networks, peer, forwarded_for) == result
