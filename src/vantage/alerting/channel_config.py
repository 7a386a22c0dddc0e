"""The settings of channels: what people give, what is stored, and what notifiers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vantage.alerting.channels.kinds import KINDS
from vantage.alerting.channels.notifier import Notifier, NotifierKind, PermanentNotifyError, Tools
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.secrets import Secrets, SecretUnreadable
from vantage.core.channel import Channel, checked_channel_name
from vantage.core.errors import ConfigError, InputError
from vantage.core.sample import text_problem

TEXT_LENGTH_MAX: Final = 4000


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a kind. ``choices`` are its values, if there are few; ``default`` None: it must be given."""

    name: str
    title: str
    description: str
    is_secret: bool
    is_list: bool
    is_number: bool
    choices: tuple[str, ...]
    default: Any


def kind_of(kind: str) -> NotifierKind:
    """Return a kind by its name. Raises InputError."""
    if kind not in KINDS:
        raise InputError(f"is none of {', '.join(KINDS)}", field="kind")
    return KINDS[kind]


def settings_of(kind: NotifierKind) -> list[Setting]:
    """Return the settings of a kind, in the order to show them in."""
    result = []
    for field in msgspec.structs.fields(kind.config):
        info = msgspec.inspect.type_info(field.type)
        extra: Mapping[str, Any] = {}
        schema: Mapping[str, Any] = {}
        while isinstance(info, msgspec.inspect.Metadata):
            extra, schema = {**(info.extra or {}), **extra}, {**(info.extra_json_schema or {}), **schema}
            info = info.type
        result.append(
            Setting(
                field.name,
                schema.get("title", field.name),
                schema.get("description", ""),
                is_secret=bool(extra.get("secret")),
                is_list=isinstance(info, msgspec.inspect.VarTupleType),
                is_number=isinstance(info, msgspec.inspect.IntType),
                choices=tuple(map(str, info.values)) if isinstance(info, msgspec.inspect.LiteralType) else (),
                default=None if field.required else field.default,
            )
        )
    return result


def sealed_channel(
    name: str,
    kind: str,
    given: Mapping[str, Any],
    *,
    enabled: bool,
    before: Channel | None,
    secrets: Secrets,
    outgoing: Outgoing,
) -> Channel:
    """Return a channel of what was given, its secrets encrypted. A secret that is not given is that of ``before``, if
    the kind is the same and what it is sent to is; '' removes it. Raises InputError that names the field, ConfigError
    without a key."""
    name, notifier = checked_channel_name(name), kind_of(kind)
    settings = settings_of(notifier)
    known = {setting.name for setting in settings}
    for field, value in given.items():
        if field not in known:
            raise InputError(f"is not a setting of {kind}: there are {', '.join(sorted(known)) or 'none'}", field=field)
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and text and (problem := text_problem(text, TEXT_LENGTH_MAX)):
                raise InputError(problem, field=field)
    same = before if before is not None and before.kind == kind else None
    values = dict(given)
    secret_names = [setting.name for setting in settings if setting.is_secret]
    stays = {field for field in secret_names if same is not None and field in same.sealed and field not in given}
    if same is not None and stays and _target(settings, given) != _target(settings, same.settings):
        # Otherwise anybody who may edit a channel could have its secret sent to a server of their own.
        raise InputError("give the secret again: what it is sent to has changed", field=sorted(stays)[0])
    for field in stays:
        assert same is not None
        values[field] = _unsealed(same, field, secrets)
    config = _config(notifier, values)
    notifier.check(config, outgoing)
    stored = msgspec.to_builtins(config)
    sealed = {
        field: same.sealed[field] if field in stays and same is not None else secrets.seal(text, _identity(name, field))
        for field in secret_names
        if (text := stored.pop(field, ""))
    }
    return Channel(name, kind, stored, sealed, enabled)


def _target(settings: list[Setting], values: Mapping[str, Any]) -> list[str]:
    names = [setting for setting in settings if setting.name in ("url", "host", "port") and not setting.is_secret]
    return [str(values.get(setting.name, setting.default)) for setting in names]


def notifier_of(channel: Channel, secrets: Secrets, tools: Tools) -> Notifier:
    """Return what sends the notices of a channel. Raises PermanentNotifyError when its settings cannot be used."""
    try:
        kind = kind_of(channel.kind)
        values = {**channel.settings, **{field: _unsealed(channel, field, secrets) for field in channel.sealed}}
        return kind.make(_config(kind, values), tools)
    except InputError as error:
        raise PermanentNotifyError(f"the settings of the channel cannot be used: {error}") from error


def resealed(channel: Channel, secrets: Secrets) -> dict[str, str]:
    """Return the secrets of a channel, encrypted with the newest key. Raises SecretUnreadable, ConfigError."""
    return {
        field: secrets.seal(secrets.unseal(text, _identity(channel.name, field)), _identity(channel.name, field))
        for field, text in channel.sealed.items()
    }


def _unsealed(channel: Channel, field: str, secrets: Secrets) -> str:
    try:
        return secrets.unseal(channel.sealed[field], _identity(channel.name, field))
    except (SecretUnreadable, ConfigError) as error:
        raise InputError(f"cannot be read: {error}", field=field) from error


def _identity(name: str, field: str) -> str:
    return f"channel\x1f{name}\x1f{field}"


def _config(kind: NotifierKind, values: Mapping[str, Any]) -> msgspec.Struct:
    try:
        config: msgspec.Struct = msgspec.convert(dict(values), kind.config)
    except msgspec.ValidationError as error:
        text = str(error)
        path = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else text.partition("field `")[2].rstrip("`")
        raise InputError(text.partition(" - at ")[0], field=path) from None
    for setting in settings_of(kind):
        if setting.default is None and not getattr(config, setting.name):
            raise InputError("is empty", field=setting.name)
    return config
