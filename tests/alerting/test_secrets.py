"""Secrets at rest: bound to their channel, readable across rotations, and never without their key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vantage.alerting.secrets import Secrets, SecretUnreadable, new_key
from vantage.core.errors import ConfigError, InputError


def test_a_secret_is_read_by_its_own_channel_alone() -> None:
    box = Secrets(new_key())
    sealed = box.seal("hunter2 ü", "channel:ops:url")
    assert "hunter2" not in sealed
    assert box.unseal(sealed, "channel:ops:url") == "hunter2 ü"
    with pytest.raises(SecretUnreadable, match="another channel"):
        box.unseal(sealed, "channel:other:url")
    assert box.seal("hunter2 ü", "channel:ops:url") != sealed


@pytest.mark.parametrize("damaged", ["", "v1", "v2.00000000.AA==", "v1.00000000.AA=="])
def test_what_is_no_secret_of_ours_is_unreadable(damaged: str) -> None:
    with pytest.raises(SecretUnreadable):
        Secrets(new_key()).unseal(damaged, "a")


def test_every_changed_character_is_noticed() -> None:
    box = Secrets(new_key())
    sealed = box.seal("secret", "a")
    start = sealed.rindex(".") + 1
    for index in range(start, len(sealed) - 1):
        changed = sealed[:index] + ("A" if sealed[index] != "A" else "B") + sealed[index + 1 :]
        with pytest.raises(SecretUnreadable):
            box.unseal(changed, "a")


def test_older_keys_decrypt_and_the_first_one_encrypts() -> None:
    old, new = new_key(), new_key()
    sealed = Secrets(old).seal("secret", "a")
    both = Secrets(f"{new}, {old}")
    assert both.unseal(sealed, "a") == "secret"
    assert Secrets(new).unseal(both.seal("secret", "a"), "a") == "secret"
    with pytest.raises(SecretUnreadable, match="key"):
        Secrets(new).unseal(sealed, "a")


@pytest.mark.parametrize("text", ["secret", "vsk_", "vsk_AAAA", "vsk_" + "é" * 43, new_key() + "AAAA"], ids=range(5))
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Secrets(text)
    assert text not in str(refused.value).replace("secret_key", "").replace("vantage secrets", "")


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    first, second = Secrets(file=file), Secrets(file=file)
    assert second.unseal(first.seal("secret", "a"), "a") == "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Secrets(file=file).keys()


async def test_servers_that_start_together_use_one_key(tmp_path: Path) -> None:
    boxes = [Secrets(file=tmp_path / "secret.key") for _ in range(8)]
    keys = await asyncio.gather(*(asyncio.to_thread(lambda box=box: box.keys()[0].id) for box in boxes))
    assert len(set(keys)) == 1


def test_a_rotation_is_seen_by_a_server_that_runs(tmp_path: Path) -> None:
    running, command = Secrets(file=tmp_path / "secret.key"), Secrets(file=tmp_path / "secret.key")
    sealed = running.seal("secret", "a")
    command.rotate()
    again = command.seal("secret", "a")
    assert running.unseal(again, "a") == running.unseal(sealed, "a") == "secret"
    assert running.keys()[0] == command.keys()[0]
    for _ in range(4):
        command.rotate()
    with pytest.raises(SecretUnreadable):
        running.unseal(sealed, "a")


def test_a_configured_key_is_rotated_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="VANTAGE_SECRET_KEY"):
        Secrets(new_key(), file=tmp_path / "secret.key").rotate()


def test_without_a_key_that_all_servers_have_nothing_is_stored() -> None:
    with pytest.raises(ConfigError, match="secret_key is needed"):
        Secrets().seal("secret", "a")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "not a key\n"], ids=range(3))
def test_a_damaged_file_is_an_error_and_is_not_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret.key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError):
        Secrets(file=file).keys()
    assert file.read_text() == text
