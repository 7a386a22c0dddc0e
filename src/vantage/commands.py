"""What the commands do. Imported once the dependencies are known to be there."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vantage import __version__, config
from vantage.config import Loaded
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError, InputError, StartupError, UnavailableError, VantageError
from vantage.core.key import ApiKey, Scope, hash_secret, new_secret

DISK_FREE_MIN: Final = 500_000_000
CLOCK_EARLIEST_MS: Final = 1_700_000_000_000  # a clock before this was never set
_SERVE_FLAGS: Final = ("role", "host", "port", "data")


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command; the exit status. Raises VantageError."""
    if arguments.version:
        print(f"vantage {__version__}")
        return 0
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "serve": _serve,
        "migrate": _migrate,
        "demo": _demo,
        "healthcheck": _healthcheck,
        "config": _config,
        "doctor": _doctor,
        "keys": _keys,
    }
    return commands[arguments.command or "serve"](arguments)


def _load(arguments: argparse.Namespace) -> Loaded:
    flags = {name: getattr(arguments, name, None) for name in _SERVE_FLAGS}
    file = getattr(arguments, "config", None)
    loaded = config.load(file=Path(file) if file else None, flags=flags)
    for warning in loaded.warnings:
        print(f"vantage: warning: {warning}", file=sys.stderr)
    return loaded


def _serve(arguments: argparse.Namespace) -> int:
    from vantage import log, server
    from vantage.app import create_app

    settings = _load(arguments).settings
    if (arguments.workers or 1) != 1:
        raise ConfigError("--workers above 1 is not possible on the embedded store: it has one writer")
    if sys.platform == "win32":
        raise ConfigError("the server runs on Linux and macOS")
    log.configure(log_format=settings.log_format, log_level="debug" if settings.debug else settings.log_level)
    app = create_app(settings)
    listening = server.listen(settings)
    demo: list[Callable[[], None]] = []

    def ready(url: str) -> None:
        print(f"Vantage {__version__} is ready: {url}  (data in {settings.data}, API at {url}/schema)", flush=True)
        if arguments.demo:
            demo.append(_demo_beside(url, settings.api_key))

    try:
        return server.serve(app, settings, listening, ready)
    finally:
        listening.close()
        for stop in demo:
            stop()


def _demo_beside(url: str, api_key: str) -> Callable[[], None]:
    """Start the demo sender as a process of its own; what is returned stops it."""
    import subprocess

    command = [sys.executable, "-m", "vantage", "demo", "--url", url]
    environ = {**os.environ, **({"VANTAGE_API_KEY": api_key} if api_key else {})}
    sender = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)

    def stop() -> None:
        sender.terminate()
        try:
            sender.wait(5)
        except subprocess.TimeoutExpired:
            sender.kill()

    return stop


def _make_folder(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartupError(f"the data folder {data} cannot be made: {error.strerror}") from error


def _migrate(arguments: argparse.Namespace) -> int:
    from vantage.storage.metadata import migrate
    from vantage.storage.open import metadata_url

    settings = _load(arguments).settings
    if not arguments.dry_run:
        _make_folder(Path(settings.data))
    url = metadata_url(settings.metadata_url, data=Path(settings.data))
    steps = migrate.pending(url) if arguments.dry_run else migrate.upgrade(url)
    verb = "would be applied" if arguments.dry_run else "applied"
    for step in steps:
        print(f"metadata: {step} {verb}")
    if not steps:
        print("metadata: nothing to do")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from vantage import demo

    api_key = _client_key(arguments)
    if arguments.remove:
        gone = demo.remove_demo(arguments.url or _own_url(), api_key=api_key)
        print(f"removed {gone.get('samples', 0)} samples and {gone.get('spans', 0)} spans of the demo")
        return 0
    return demo.run_demo(arguments.url or _own_url(), api_key=api_key, once=arguments.once)


def _client_key(arguments: argparse.Namespace) -> str | None:
    return arguments.api_key or config.load().settings.api_key or None


def _healthcheck(arguments: argparse.Namespace) -> int:
    url = (arguments.url or _own_url()).rstrip("/") + "/health/ready"
    # The question is whether this machine's own server is ready, not whether its certificate names this address.
    unchecked = None
    if url.startswith("https://127.0.0.1:"):
        unchecked = ssl.create_default_context()
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=unchecked) as answer:  # noqa: S310 - the user's own address
            print(f"ready ({answer.status})")
            return 0
    except urllib.error.HTTPError as error:
        raise UnavailableError(f"{url} answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from error


def _own_url() -> str:
    """Where a server with these settings listens on this machine."""
    settings = config.load().settings
    return f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{settings.port}"


def _config(arguments: argparse.Namespace) -> int:
    if arguments.example:
        print(config.example(), end="")
        return 0
    rows = _load(arguments).shown()
    _print_table(["setting", "value", "from"], [list(row) for row in rows])
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """One line a check; exit status 1 when one fails."""
    failed = False

    def check(name: str, probe: Callable[[], str]) -> None:
        nonlocal failed
        try:
            print(f"ok    {name}: {probe()}")
        except (VantageError, OSError) as error:
            failed = True
            print(f"FAIL  {name}: {error}")

    loaded: list[Loaded] = []

    def configuration() -> str:
        loaded.append(_load(arguments))
        return f"{len(loaded[0].origins)} settings given, {len(loaded[0].warnings)} warnings"

    check("configuration", configuration)
    if loaded:
        settings = loaded[0].settings
        data = Path(settings.data)
        check("data folder", lambda: _check_folder(data))
        check("telemetry store", lambda: _check_journal(data))
        check("metadata", lambda: _check_metadata(settings.metadata_url, data))
        check("disk", lambda: _check_disk(data))
    check("clock", _check_clock)
    return 1 if failed else 0


def _check_folder(data: Path) -> str:
    if not data.exists():
        return f"{data} is not there yet; `vantage serve` makes it"
    probe = data / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{data} cannot be written: {error.strerror}") from error
    return f"{data} can be written"


def _check_journal(data: Path) -> str:
    from vantage.storage.embedded.journal import inspect

    path = data / "journal.db"
    if not path.exists():
        return "empty"
    found = inspect(path)
    if found.problem:
        raise ConfigError(f"{path}: {found.problem}")
    if found.damaged:
        raise ConfigError(f"{path}: {found.damaged} of {found.commits} commits cannot be read")
    return f"{found.commits} commits, {found.series} series, every checksum right"


def _check_metadata(url: str, data: Path) -> str:
    from vantage.storage.metadata import migrate
    from vantage.storage.open import metadata_url

    steps = migrate.pending(metadata_url(url, data=data))
    return f"{len(steps)} migrations to apply; `vantage serve` does it" if steps else "schema is current"


def _check_disk(data: Path) -> str:
    existing = next(folder for folder in (data.absolute(), *data.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < DISK_FREE_MIN:
        raise ConfigError(f"{free / 1e6:.0f} MB free on {existing}, at least {DISK_FREE_MIN / 1e6:.0f} MB are needed")
    return f"{free / 1e9:.1f} GB free"


def _check_clock() -> str:
    now_ms = SystemClock().now_ms()
    if now_ms < CLOCK_EARLIEST_MS:
        raise ConfigError(f"the clock says {_utc(now_ms)}: set it, or every sample lies in the future")
    return f"{_utc(now_ms)} UTC"


def _keys(arguments: argparse.Namespace) -> int:
    from vantage.storage.open import open_metadata

    settings = _load(arguments).settings
    data = Path(settings.data)
    _make_folder(data)

    async def act() -> int:
        async with open_metadata(settings.metadata_url, data=data, clock=SystemClock()) as metadata:
            if arguments.action == "create":
                return await _create_key(arguments, metadata)
            if arguments.action == "revoke":
                key = await metadata.revoke_key(arguments.key, actor="cli")
                print(f"revoked {key.id} ({key.name}); running servers refuse it within seconds")
                return 0
            rows = [
                [
                    key.id,
                    key.name,
                    " ".join(sorted(key.scopes)),
                    _utc(key.created_ms),
                    "never" if key.expires_ms is None else _utc(key.expires_ms),
                    _state(key),
                ]
                for key in await metadata.keys()
            ]
            _print_table(["id", "name", "scopes", "created", "expires", "state"], rows)
            return 0

    return asyncio.run(act())


async def _create_key(arguments: argparse.Namespace, metadata: Any) -> int:
    now_ms = SystemClock().now_ms()
    if arguments.expires is not None and arguments.expires < 1:
        raise InputError("must be at least 1 day", field="--expires")
    name = arguments.name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise InputError("must be 1 to 100 printable characters", field="name")
    secret = new_secret()
    key = ApiKey(
        id=secrets.token_hex(4),
        name=name,
        scopes=frozenset(Scope(scope) for scope in arguments.scope or ["ingest", "read"]),
        secret_hash=hash_secret(secret),
        created_ms=now_ms,
        expires_ms=None if arguments.expires is None else now_ms + arguments.expires * 86_400_000,
    )
    await metadata.create_key(key, actor="cli")
    print(f"key {key.id} ({key.name}) may {', '.join(sorted(key.scopes))}", file=sys.stderr)
    print("The secret is shown this once:", file=sys.stderr)
    print(secret)
    return 0


def _state(key: ApiKey) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return "usable" if key.usable(SystemClock().now_ms()) else "expired"


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
