"""``/api/alerts/channels``: where notices go."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, Parameter

from vantage.alerting.notices import Notices, public_settings
from vantage.core.api_key import Scope
from vantage.core.channel import Channel
from vantage.web.api.params import examples, problems

ADMIN = {"scope": Scope.ADMIN}
Name = Annotated[str, Parameter(description="The channel's name.", examples=examples("ops"))]
AnyRequest = Request[Any, Any, Any]


class ChannelOut(msgspec.Struct):
    """`settings` has `set` or `not set` for each secret: secrets are never returned. `author` changed it last, at
    `timestamp` (epoch milliseconds)."""

    name: str
    kind: str
    enabled: bool
    settings: dict[str, Any]
    revision: int
    author: str
    timestamp: int


class ChannelsOut(msgspec.Struct):
    channels: list[ChannelOut]


class ChannelIn(msgspec.Struct, forbid_unknown_fields=True):
    """`settings` are those of the `kind`; a secret that is not given stays, '' removes it."""

    kind: Annotated[str, msgspec.Meta(examples=["webhook"], max_length=30)]
    settings: dict[str, Any] = {}
    enabled: bool = True
    revision: int | None = None


class NewChannelIn(ChannelIn, kw_only=True):
    name: Annotated[str, msgspec.Meta(examples=["ops"], max_length=200)]


class TestOut(msgspec.Struct):
    """`problem` is why a test was not accepted, '' if it was."""

    accepted: bool
    problem: str


@get("/api/alerts/channels", summary="Channels", responses=problems(), tags=["alerts"])
async def list_channels(notices: NamedDependency[Notices]) -> ChannelsOut:
    """List the channels by name."""
    return ChannelsOut([_out(channel) for channel in await notices.store.channels()])


@post(
    "/api/alerts/channels",
    summary="Create a channel",
    responses=problems(400, 409),
    tags=["alerts"],
    opt=ADMIN,
)
async def create_channel(
    request: AnyRequest, notices: NamedDependency[Notices], data: JSONBody[NewChannelIn]
) -> ChannelOut:
    """Create a channel; 409 when its name is in use."""
    actor = request.state.principal.id
    return _out(
        await notices.save_channel(data.name, data.kind, data.settings, enabled=data.enabled, actor=actor, revision=0)
    )


@get("/api/alerts/channels/{name:str}", summary="A channel", responses=problems(404), tags=["alerts"])
async def read_channel(notices: NamedDependency[Notices], name: Name) -> ChannelOut:
    """Return a channel by its name."""
    return _out(await notices.channel(name))


@put(
    "/api/alerts/channels/{name:str}",
    summary="Save a channel",
    responses=problems(400, 409),
    tags=["alerts"],
    opt=ADMIN,
)
async def save_channel(
    request: AnyRequest, notices: NamedDependency[Notices], name: Name, data: JSONBody[ChannelIn]
) -> ChannelOut:
    """Create a channel or replace that of the name; with `revision` only if it has it, 409 otherwise."""
    actor = request.state.principal.id
    return _out(
        await notices.save_channel(
            name, data.kind, data.settings, enabled=data.enabled, actor=actor, revision=data.revision
        )
    )


@delete(
    "/api/alerts/channels/{name:str}", summary="Remove a channel", responses=problems(404), tags=["alerts"], opt=ADMIN
)
async def remove_channel(request: AnyRequest, notices: NamedDependency[Notices], name: Name) -> None:
    """Remove a channel; what waits for it fails."""
    await notices.remove_channel(name, actor=request.state.principal.id)


@post(
    "/api/alerts/channels/{name:str}/test",
    summary="Test a channel",
    responses=problems(404),
    tags=["alerts"],
    status_code=200,
    opt=ADMIN,
)
async def test_channel(notices: NamedDependency[Notices], name: Name) -> TestOut:
    """Send a notice that says it is a test, and one that closes it."""
    problem = await notices.test_channel(name)
    return TestOut(not problem, problem)


def _out(channel: Channel) -> ChannelOut:
    return ChannelOut(
        channel.name,
        channel.kind,
        channel.enabled,
        public_settings(channel),
        channel.revision,
        channel.author,
        channel.at_ms,
    )


handlers = [list_channels, create_channel, read_channel, save_channel, remove_channel, test_channel]
