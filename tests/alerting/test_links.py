"""Links in notices: for one act on one alert, for a week, and for nobody who changes a character."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts.metadata_contract import MovedClock
from vantage.alerting.links import PATH, VALID_MS, Act, Link, Links
from vantage.alerting.secrets import Secrets, new_key
from vantage.core.errors import ForbiddenError


def test_a_link_is_read_until_it_expires() -> None:
    clock = MovedClock()
    links = Links(Secrets(new_key()), clock)
    token = links.path(Act.SILENCE, 7).removeprefix(PATH)
    assert links.read(token) == Link(Act.SILENCE, 7, clock.ms + VALID_MS)
    clock.ms += VALID_MS
    with pytest.raises(ForbiddenError, match="expired"):
        links.read(token)


def test_no_changed_link_is_valid() -> None:
    links = Links(Secrets(new_key()), MovedClock())
    token = links.path(Act.ACKNOWLEDGE, 7).removeprefix(PATH)
    # The bits of the last character that belong to no byte may differ.
    for index in range(len(token) - 1):
        with pytest.raises(ForbiddenError):
            links.read(token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :])
    for other in ("", "a", token[:-4], token + "AAAA", "é", "x" * 10_000, "\0", "=" * 8):
        with pytest.raises(ForbiddenError):
            links.read(other)


def test_a_link_of_another_server_is_not_valid() -> None:
    token = Links(Secrets(new_key()), MovedClock()).path(Act.ACKNOWLEDGE, 7).removeprefix(PATH)
    with pytest.raises(ForbiddenError):
        Links(Secrets(new_key()), MovedClock()).read(token)


def test_a_link_stays_valid_when_the_key_is_rotated(tmp_path: Path) -> None:
    secrets = Secrets(file=tmp_path / "secret.key")
    links = Links(secrets, MovedClock())
    token = links.path(Act.ACKNOWLEDGE, 7).removeprefix(PATH)
    secrets.rotate()
    assert links.read(token).alert_id == 7
