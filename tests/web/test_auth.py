"""Keys and the sessions made from them: who is let in, and what a tampered cookie is worth."""

from __future__ import annotations

import pytest

from tests.support.samples import NOW_MS, MovedClock
from vantage.core.api_key import ApiKey, Scope, hash_secret, new_secret
from vantage.core.errors import ForbiddenError, UnauthorizedError
from vantage.web.auth import SESSION_MS, Authenticator, secret_of, session_of

SECRET = "vtg_the-secret"


def a_key(
    key_id: str = "k1", secret: str = SECRET, scopes: tuple[Scope, ...] = (Scope.READ,), **other: object
) -> ApiKey:
    return ApiKey(key_id, key_id, frozenset(scopes), hash_secret(secret), NOW_MS, **other)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def access_with(clock: MovedClock, *keys: ApiKey, auth: str = "auto", api_key: str = "") -> Authenticator:
    access = Authenticator(clock=clock, auth=auth, api_key=api_key)
    access.refresh(keys)
    return access


@pytest.mark.parametrize(
    ("auth", "keys", "api_key", "required"),
    [
        ("auto", 0, "", False),
        ("auto", 1, "", True),
        ("auto", 0, "from-env", True),
        ("required", 0, "", True),
        ("off", 1, "from-env", False),
    ],
)
def test_the_setting_decides_whether_a_key_is_required(
    clock: MovedClock, auth: str, keys: int, api_key: str, *, required: bool
) -> None:
    access = access_with(clock, *[a_key()] * keys, auth=auth, api_key=api_key)
    assert access.required is required
    if required:
        with pytest.raises(UnauthorizedError):
            access.principal("")
    else:
        assert access.principal("").id == "local"
        assert access.principal("whatever").allows(Scope.ADMIN)


def test_a_revoked_last_key_does_not_open_the_door_again(clock: MovedClock) -> None:
    access = access_with(clock, a_key(revoked_ms=NOW_MS))
    with pytest.raises(UnauthorizedError):
        access.principal("")


def test_a_known_key_has_its_scopes_and_no_others(clock: MovedClock) -> None:
    principal = access_with(clock, a_key(scopes=(Scope.INGEST,))).principal(SECRET)
    assert principal.id == "k1"
    assert [principal.allows(scope) for scope in (Scope.INGEST, Scope.READ, Scope.ADMIN)] == [True, False, False]


def test_admin_includes_the_rest(clock: MovedClock) -> None:
    principal = access_with(clock, a_key(scopes=(Scope.ADMIN,))).principal(SECRET)
    assert all(principal.allows(scope) for scope in Scope)


@pytest.mark.parametrize("secret", ["vtg_other", "", SECRET + "x", SECRET[:-1], SECRET.upper(), "\udc80", "x" * 10**6])
def test_another_secret_is_unknown(clock: MovedClock, secret: str) -> None:
    with pytest.raises(UnauthorizedError):
        access_with(clock, a_key()).principal(secret)


def test_secrets_that_are_unknown_are_not_cached(clock: MovedClock) -> None:
    access = access_with(clock, a_key())
    for number in range(100):
        with pytest.raises(UnauthorizedError):
            access.principal(f"vtg_{number}")
        access.principal(SECRET)
    assert access._by_secret.cache_info().currsize == 1


def test_a_key_ends_when_it_expires(clock: MovedClock) -> None:
    access = access_with(clock, a_key(expires_ms=NOW_MS + 10))
    access.principal(SECRET)
    clock.now += 10
    with pytest.raises(UnauthorizedError):
        access.principal(SECRET)


def test_a_refresh_removes_keys_but_never_that_of_the_environment(clock: MovedClock) -> None:
    access = access_with(clock, a_key(), api_key="from-env")
    access.refresh(())
    assert access.principal("from-env").allows(Scope.ADMIN)
    with pytest.raises(UnauthorizedError):
        access.principal(SECRET)


# ---- sessions


def test_a_session_is_as_good_as_its_key_for_thirty_days(clock: MovedClock) -> None:
    access = access_with(clock, a_key())
    session = access.start_session(SECRET)
    assert SECRET not in session
    principal = access.principal("", session)
    assert (principal.id, principal.by_session, principal.allows(Scope.ADMIN)) == ("k1", True, False)
    clock.now += SESSION_MS
    access.principal("", session)
    clock.now += 1
    with pytest.raises(UnauthorizedError):
        access.principal("", session)


def test_every_changed_character_of_a_session_makes_it_worthless(clock: MovedClock) -> None:
    access = access_with(clock, a_key(), a_key("k2", "other"))
    session = access.start_session(SECRET)
    for index, character in enumerate(session):
        for other in {"0", "1", "2", "a", ".", "k"} - {character}:
            with pytest.raises(UnauthorizedError):
                access.principal("", session[:index] + other + session[index + 1 :])


@pytest.mark.parametrize(
    "session",
    [
        "x",
        ".",
        "..",
        "k1",
        "k1.",
        "k1..",
        "k1.99999999999999.",
        "k1.9e20.x",
        "k1.-1.x",
        "k1.٣.x",
        f"k1.{'9' * 5000}.x",
        "k1.1.é",
        "\x00",
    ],
)
def test_a_made_up_session_is_worthless(clock: MovedClock, session: str) -> None:
    with pytest.raises(UnauthorizedError):
        access_with(clock, a_key()).principal("", session)


def test_revoking_the_key_ends_its_sessions(clock: MovedClock) -> None:
    access = access_with(clock, a_key())
    session = access.start_session(SECRET)
    access.refresh((a_key(revoked_ms=NOW_MS),))
    with pytest.raises(UnauthorizedError):
        access.principal("", session)


def test_a_session_of_one_secret_is_not_one_of_the_next_with_the_same_id(clock: MovedClock) -> None:
    access = access_with(clock, a_key())
    session = access.start_session(SECRET)
    access.refresh((a_key(secret="changed"),))
    with pytest.raises(UnauthorizedError):
        access.principal("", session)


def test_a_key_that_may_not_read_cannot_sign_in(clock: MovedClock) -> None:
    with pytest.raises(ForbiddenError, match="may not read"):
        access_with(clock, a_key(scopes=(Scope.INGEST,))).start_session(SECRET)


def test_without_keys_there_is_nothing_to_sign_in_to(clock: MovedClock) -> None:
    with pytest.raises(UnauthorizedError, match="nothing to sign in to"):
        access_with(clock).start_session("anything")


# ---- where the secret stands in a request


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, ""),
        ({b"x-api-key": b"a"}, "a"),
        ({b"x-api-key": b" a "}, "a"),
        ({b"authorization": b"Bearer a"}, "a"),
        ({b"authorization": b"bearer  a "}, "a"),
        ({b"authorization": b"Basic a"}, ""),
        ({b"authorization": b"a"}, ""),
        ({b"x-api-key": b"a", b"authorization": b"Bearer b"}, "a"),
        ({b"x-api-key": b"\xff"}, "\xff"),
    ],
)
def test_a_secret_comes_in_one_of_two_headers(headers: dict[bytes, bytes], secret: str) -> None:
    assert secret_of(headers) == secret


@pytest.mark.parametrize(
    ("cookie", "session"),
    [
        (b"", ""),
        (b"vantage_session=a.b.c", "a.b.c"),
        (b"x=1; vantage_session=a; y=2", "a"),
        (b"not_vantage_session=a", ""),
        (b"vantage_session", ""),
        (b"vantage_session=a=b", "a=b"),
    ],
)
def test_a_session_comes_in_its_cookie(cookie: bytes, session: str) -> None:
    assert session_of({b"cookie": cookie}) == session


def test_secrets_are_long_random_and_recognisable() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("vtg_") and len(secret) > 40 for secret in made)
