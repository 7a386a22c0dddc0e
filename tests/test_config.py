"""Settings: which source wins, what is refused, what is warned about, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vantage.config import FIELDS, MASK, Loaded, Settings, description, example, load
from vantage.core.errors import ConfigError


def loaded(tmp_path: Path, *, toml: str = "", dotenv: str = "", environ: Any = None, flags: Any = None) -> Loaded:
    file, env_file = tmp_path / "vantage.toml", tmp_path / ".env"
    file.write_text(toml)
    env_file.write_text(dotenv)
    return load(file=file if toml else None, dotenv=env_file, environ=environ or {}, flags=flags, memory_nbytes=1 << 40)


def test_without_sources_every_setting_has_its_default(tmp_path: Path) -> None:
    result = loaded(tmp_path)
    assert result.settings == Settings()
    assert (result.origins, result.warnings) == ({}, ())


def test_the_later_source_wins(tmp_path: Path) -> None:
    sources: dict[str, Any] = {
        "toml": "port = 1",
        "dotenv": "VANTAGE_PORT=2",
        "environ": {"VANTAGE_PORT": "3"},
        "flags": {"port": 4},
    }
    for count in range(1, 5):
        given = dict(list(sources.items())[:count])
        assert loaded(tmp_path, **given).settings.port == count


def test_each_value_s_origin_is_told(tmp_path: Path) -> None:
    result = loaded(
        tmp_path, toml='host = "::1"', dotenv="VANTAGE_PORT=2", environ={"VANTAGE_DEBUG": "1"}, flags={"data": "d"}
    )
    origins = {name: origin for name, _, origin in result.masked_rows() if origin != "default"}
    assert origins["host"].endswith("vantage.toml")
    assert origins["port"].endswith(".env (VANTAGE_PORT)")
    assert origins["debug"] == "environment (VANTAGE_DEBUG)"
    assert origins["data"] == "--data"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("VANTAGE_DEBUG", "true", "debug", True),
        ("VANTAGE_DEBUG", "Off", "debug", False),
        ("VANTAGE_DEBUG", "1", "debug", True),
        ("VANTAGE_SELF_TELEMETRY", "no", "self_telemetry", False),
        ("VANTAGE_DRAIN_DELAY_S", "2.5", "drain_delay_s", 2.5),
        (
            "VANTAGE_ALLOWED_HOSTS",
            " a.example.com , b.example.com,",
            "allowed_hosts",
            ("a.example.com", "b.example.com"),
        ),
        ("VANTAGE_ALLOWED_HOSTS", "", "allowed_hosts", ()),
        ("VANTAGE_RETENTION_DAYS", "30", "retention_days", 30),
        ("VANTAGE_RETENTION_DAYS", "none", "retention_days", None),
        ("VANTAGE_RETENTION_DAYS", "", "retention_days", None),
        ("VANTAGE_DISK_BUDGET_BYTES", "2000000000", "disk_budget_bytes", 2_000_000_000),
        ("VANTAGE_API_KEY", "k3y", "api_key", "k3y"),
    ],
)
def test_text_becomes_what_the_setting_is(tmp_path: Path, variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(loaded(tmp_path, environ={variable: text}).settings, name) == value


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"toml": "prot = 1"}, "unknown setting 'prot', did you mean 'port'?"),
        ({"toml": "[server]\nport = 1"}, "unknown setting 'server'"),
        ({"toml": "port = "}, "not valid TOML"),
        ({"toml": 'port = "many"'}, "port = 'many'"),
        ({"toml": "port = 70000"}, "port = 70000"),
        ({"toml": "port = true"}, "port = True"),
        ({"environ": {"VANTAGE_PORT": "-1"}}, "environment (VANTAGE_PORT)"),
        ({"environ": {"VANTAGE_DEBUG": "perhaps"}}, "debug = 'perhaps'"),
        ({"environ": {"VANTAGE_RETENTION_DAYS": "0"}}, "retention_days = '0'"),
        ({"environ": {"VANTAGE_RETENTION_DAYS": "some"}}, "retention_days = 'some'"),
        ({"environ": {"VANTAGE_AUTH": "maybe"}}, "auth = 'maybe'"),
        ({"environ": {"VANTAGE_BODY_TIMEOUT_S": "0"}}, "body_timeout_s"),
        ({"environ": {"VANTAGE_BODY_TIMEOUT_S": "nan"}}, "body_timeout_s"),
        ({"dotenv": "VANTAGE_ROLE=boss"}, ".env (VANTAGE_ROLE)"),
        ({"flags": {"role": "boss"}}, "--role"),
        ({"environ": {"VANTAGE_TLS_KEY": "k.pem"}}, "given together"),
        ({"environ": {"VANTAGE_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}}, "'proxy' is not an address"),
        ({"environ": {"VANTAGE_CORS_ORIGINS": "https://a.example.com/"}}, "not an origin"),
        ({"environ": {"VANTAGE_API_KEY_FILE": "/nowhere"}}, "VANTAGE_API_KEY_FILE: /nowhere cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_names_the_setting_and_its_origin(tmp_path: Path, sources: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, **sources)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("VANTAGE_PROT", "1", "did you mean VANTAGE_PORT?"),
        ("VANTAGE_SERVICE_HOST", "10.0.0.1", "is not a setting and was ignored"),
        ("VANTAGE_PORT", "tcp://10.0.0.1:8000", "Kubernetes"),
        ("VANTAGE_PORT_FILE", "/x", "is not a setting"),
    ],
)
def test_variables_that_are_no_settings_are_one_warning_each(
    tmp_path: Path, variable: str, text: str, said: str
) -> None:
    result = loaded(tmp_path, environ={variable: text})
    (warning,) = result.warnings
    assert said in warning
    assert result.settings == Settings()


def test_the_agent_s_variables_and_other_people_s_are_none_of_our_business(tmp_path: Path) -> None:
    assert not loaded(
        tmp_path, environ={"VANTAGE_AGENT_SERVICE_NAME": "x", "PATH": "y", "MY_VANTAGE_PORT": "1"}
    ).warnings


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    url = "clickhouse://me:geh/e@im@host:9000/db"
    result = loaded(tmp_path, environ={"VANTAGE_STORE_URL": url})
    assert result.settings.store_url == url
    assert "geh" not in repr(result.masked_rows())
    assert f"clickhouse://me:{MASK}@host:9000/db" in repr(result.masked_rows())
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, environ={"VANTAGE_STORE_URL": url + "\x07"})
    assert "geh" not in str(caught.value)


def test_the_url_of_a_store_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("clickhouse://me:pw@host/db\n")
    result = loaded(tmp_path, environ={"VANTAGE_STORE_URL_FILE": str(tmp_path / "url")})
    assert result.settings.store_url == "clickhouse://me:pw@host/db"


@pytest.mark.parametrize("variable", ["API_CLICKHOUSE_HOST", "VANTAGE_CLICKHOUSE_HOST"])
def test_the_host_of_clickhouse_is_short_for_its_url(tmp_path: Path, variable: str) -> None:
    assert loaded(tmp_path, environ={variable: "clickhouse"}).settings.store_url == "clickhouse://clickhouse"
    with pytest.raises(ConfigError, match="both name the telemetry store"):
        loaded(tmp_path, environ={variable: "clickhouse", "VANTAGE_STORE_URL": "chdb:///"})


def test_a_secret_may_stand_in_a_file_and_is_never_shown(tmp_path: Path) -> None:
    stored = tmp_path / "key"
    stored.write_text("  s3cret\n")
    result = loaded(tmp_path, environ={"VANTAGE_API_KEY_FILE": str(stored)})
    assert result.settings.api_key == "s3cret"
    assert ("api_key", MASK, "environment (VANTAGE_API_KEY_FILE)") in result.masked_rows()
    assert "s3cret" not in repr(result.masked_rows())


def test_a_missing_file_that_was_named_is_an_error_and_a_missing_dotenv_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file=tmp_path / "absent.toml", environ={}, dotenv=None)
    assert load(environ={}, dotenv=tmp_path / ".env").settings == Settings()


@pytest.mark.parametrize(
    ("host", "beyond"),
    [("127.0.0.1", False), ("127.8.8.8", False), ("::1", False), ("[::1]", False), ("localhost", False),
     ("0.0.0.0", True), ("::", True), ("192.168.1.5", True), ("vantage.example.com", True)],
)  # fmt: skip
def test_it_is_known_whether_others_can_connect(host: str, *, beyond: bool) -> None:
    assert Settings(host=host).listens_beyond_loopback is beyond


def test_every_setting_is_explained_and_in_the_example() -> None:
    text = example()
    for name in FIELDS:
        assert len(description(name)) > 10, name
        assert f"#VANTAGE_{name.upper()}=" in text
        assert description(name) in text


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_can_be_given_as_text(tmp_path: Path, name: str) -> None:
    """What the documents show as default means the default."""
    value = {row[0]: row[1] for row in loaded(tmp_path).masked_rows()}[name]
    if name not in ("api_key", "secret_key", "tls_certificate", "tls_key"):
        text = "" if value == "none" else value
        assert loaded(tmp_path, environ={f"VANTAGE_{name.upper()}": text}).settings == Settings()
