"""Calls to configured addresses reach public ones alone, end in time, and follow no redirect elsewhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.certificate import make_certificate
from tests.support.receiver import Answer, Receiver
from vantage.alerting import outgoing
from vantage.alerting.outgoing import Outgoing, OutgoingFailed, OutgoingRefused
from vantage.core.errors import ConfigError

LOCAL = ("127.0.0.0/8",)


def resolving(*addresses: str, calls: list[str] | None = None) -> outgoing.Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if calls is not None:
            calls.append(host)
        return addresses

    return resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "168.63.129.16", "::", "::1",
        "fe80::1", "fd00:ec2::254",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
async def test_private_and_special_addresses_are_refused(address: str) -> None:
    with pytest.raises(OutgoingRefused, match="private"):
        await Outgoing(resolve=resolving(address)).addresses("example.com", 443)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808", "::ffff:8.8.8.8"])
async def test_public_addresses_are_allowed(address: str) -> None:
    assert await Outgoing(resolve=resolving(address)).addresses("example.com", 443)


async def test_networks_that_are_allowed_open_no_others() -> None:
    guard = Outgoing(["10.0.0.0/8", "fd00::/8", "192.168.1.7"], resolve=resolving("10.2.3.4"))
    assert await guard.addresses("inside", 80) == ["10.2.3.4"]
    guard = Outgoing(["10.0.0.0/8", "192.168.1.7"], resolve=resolving("192.168.1.8", "192.168.1.7", "127.0.0.1"))
    assert await guard.addresses("inside", 80) == ["192.168.1.7"]
    with pytest.raises(ConfigError, match="outgoing_networks"):
        Outgoing(["10.0.0.0/99"])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "example.com", "http://", "http://user:secret@example.com/", "http://example.com:0/",
        "http://example.com:99999/", "http://exa mple.com/", "http://[::1/", "http://example.com/\nX: 1",
        "//example.com",
        "http://\u202eexample.com", "file:///etc/passwd", "http://" + "a" * 3000,
    ],
    ids=range(13),
)  # fmt: skip
async def test_what_is_no_url_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(OutgoingRefused) as refused:
        await Outgoing(["*"]).call("GET", url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "localhost"])
async def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    async with Receiver() as receiver:
        with pytest.raises(OutgoingRefused):
            await Outgoing().call("GET", f"http://{host}:{receiver.port}/")
        assert not receiver.received


async def test_a_name_is_resolved_once_and_the_checked_address_is_called() -> None:
    calls: list[str] = []
    guard = Outgoing(LOCAL, resolve=resolving("127.0.0.1", calls=calls))
    async with Receiver() as receiver:
        response = await guard.call(
            "POST", f"http://hooks.example.com:{receiver.port}/a?b=c#d", body=b"x", headers={"X-Token": "t"}
        )
    request = receiver.received[0]
    assert (response.status, response.body, calls) == (200, b"ok", ["hooks.example.com"])
    assert (request.method, request.path, request.body) == ("POST", "/a?b=c", b"x")
    assert request.headers["host"] == f"hooks.example.com:{receiver.port}"
    assert request.headers["x-token"] == "t"


async def test_an_address_that_refuses_connections_is_followed_by_the_next() -> None:
    guard = Outgoing(LOCAL, resolve=resolving("127.0.0.9", "127.0.0.1"))
    async with Receiver() as receiver:
        assert (await guard.call("GET", f"http://twice.example.com:{receiver.port}/")).status == 200


async def test_redirects_on_the_host_are_followed_and_others_are_not() -> None:
    guard = Outgoing(LOCAL, resolve=resolving("127.0.0.1"))
    async with Receiver(Answer(302, headers={"location": "/new"}), Answer()) as receiver:
        assert (await guard.call("GET", f"{receiver.url}/old")).status == 200
        assert [request.path for request in receiver.received] == ["/old", "/new"]
    async with Receiver(Answer(307, headers={"location": "/new"}), Answer()) as receiver:
        assert (await guard.call("POST", f"{receiver.url}/old", body=b"kept")).status == 200
        assert receiver.received[1].body == b"kept"
    async with Receiver(Answer(302, headers={"location": "/new"})) as receiver:
        assert (await guard.call("POST", f"{receiver.url}/old", body=b"x")).status == 302
    async with Receiver() as target:
        places = (target.url, "http://169.254.169.254/latest", "file:///etc/passwd", "//other.example.com/", "http://[")
        for location in places:
            async with Receiver(Answer(307, headers={"location": location})) as receiver:
                assert (await guard.call("GET", receiver.url)).status == 307
        assert not target.received
    async with Receiver(Answer(302, headers={"location": "/again"})) as receiver:
        with pytest.raises(OutgoingFailed, match="redirects"):
            await guard.call("GET", receiver.url)


@pytest.mark.parametrize("answer", [Answer(hangs=True), Answer(drips=True)], ids=["hangs", "drips"])
async def test_a_call_ends_in_time(answer: Answer) -> None:
    async with Receiver(answer) as receiver:
        with pytest.raises(OutgoingFailed, match="within"):
            await Outgoing(LOCAL).call("GET", receiver.url, timeout_s=0.2, response_nbytes_max=1 << 30)


async def test_a_resolver_that_hangs_ends_in_time() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(OutgoingFailed, match="within"):
        await Outgoing(resolve=resolve).call("GET", "http://example.com/", timeout_s=0.05)


async def test_a_long_response_is_cut() -> None:
    async with Receiver(Answer(drips=True)) as receiver:
        response = await Outgoing(LOCAL).call("GET", receiver.url, response_nbytes_max=500)
    assert (len(response.body), response.is_cut) == (500, True)


async def test_a_connection_that_is_broken_off_or_refused_fails() -> None:
    async with Receiver(Answer(breaks=True)) as receiver:
        with pytest.raises(OutgoingFailed, match="broke"):
            await Outgoing(LOCAL).call("GET", receiver.url)
    with pytest.raises(OutgoingFailed, match="cannot be reached"):
        await Outgoing(LOCAL).call("GET", receiver.url)
    with pytest.raises(OutgoingFailed, match="no address"):
        await Outgoing(resolve=resolving()).call("GET", "http://example.com/")


@pytest.mark.parametrize(
    "headers", [{"X\r\nY": "1"}, {"X": "1\r\nY: 2"}, {"X": "\u20ac"}, {"Host": "inside"}], ids=range(4)
)
async def test_headers_that_would_change_the_request_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(OutgoingRefused, match="header"):
        await Outgoing(LOCAL).call("GET", "http://127.0.0.1:1/", headers=headers)


async def test_certificates_are_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, key = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem, key)
    async with Receiver(tls=server) as receiver:
        guard = Outgoing(LOCAL, resolve=resolving("127.0.0.1"))
        with pytest.raises(OutgoingFailed, match="certificate"):
            await guard.call("GET", f"https://localhost:{receiver.port}/")
        monkeypatch.setattr(outgoing, "tls_context", lambda: ssl.create_default_context(cafile=pem))
        assert (await guard.call("GET", f"https://localhost:{receiver.port}/")).status == 200
        with pytest.raises(OutgoingFailed, match="certificate"):
            await guard.call("GET", f"https://elsewhere.example.com:{receiver.port}/")
