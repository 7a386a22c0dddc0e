"""Secrets of channels at rest: AES-GCM, under a key that the database does not have."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vantage.config import Settings
from vantage.core.errors import ConfigError, InputError, UnavailableError

PREFIX: Final = "vsk_"
KEY_NBYTES: Final = 32
NONCE_NBYTES: Final = 12  # 96 random bits: the least of AES-GCM's own nonce
FILE_NBYTES_MAX: Final = 64 << 10
OLD_KEYS_MAX: Final = 3  # that a rotation leaves in the file
_VERSION: Final = "v1"


class SecretUnreadable(UnavailableError):
    """A secret cannot be decrypted: its key is missing, or the row was changed. Give the key, or set it again."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key; ``id`` tells it apart and reveals nothing of it."""

    id: str
    material: bytes

    def derived(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for another purpose."""
        return hashlib.blake2b(purpose.encode(), key=self.material, digest_size=32).digest()


def new_key() -> str:
    """Return a new key as text."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(KEY_NBYTES)).decode().rstrip("=")


def parse_key(text: str) -> Key:
    """Return a key. Raises ConfigError, without the text."""
    body = text.strip()
    try:
        material = base64.urlsafe_b64decode(body.removeprefix(PREFIX) + "=")
    except (binascii.Error, ValueError):
        material = b""
    if not body.startswith(PREFIX) or len(material) != KEY_NBYTES:
        raise ConfigError("secret_key is not a key: make one with `vantage secrets key`")
    return Key(hashlib.blake2b(material, digest_size=4, person=b"vantage key id").hexdigest(), material)


class Secrets:
    """Encrypts and decrypts. The first key encrypts, all decrypt. Keys are those of the setting, or else those of a
    file that is made when a key is first needed, and read again when another process has rotated it."""

    def __init__(self, configured: str = "", *, file: Path | None = None) -> None:
        """``configured`` are keys separated by commas; ``file`` is where keys are without any, None where each process
        would make one of its own. Raises ConfigError."""
        self._configured = [parse_key(text) for text in configured.split(",") if text.strip()]
        self._file = file
        self._read: list[Key] = []
        self._stamp: tuple[int, int] | None = None

    @property
    def file(self) -> Path | None:
        """The file of keys, None where they are configured."""
        return None if self._configured else self._file

    def keys(self) -> Sequence[Key]:
        """Return all keys, the one that encrypts first. Raises ConfigError when there is none and none can be made."""
        if self._configured:
            return self._configured
        if self._file is None:
            raise ConfigError(
                "secret_key is needed, as several servers may share the metadata database: "
                "make one with `vantage secrets key`, and set VANTAGE_SECRET_KEY on each"
            )
        return self._from_file(self._file)

    def seal(self, text: str, identity: str) -> str:
        """Return a secret encrypted, bound to what it belongs to. Raises ConfigError."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self.keys()[0]
        nonce = secrets.token_bytes(NONCE_NBYTES)
        sealed = AESGCM(key.material).encrypt(nonce, text.encode("utf-8", "surrogatepass"), identity.encode())
        return f"{_VERSION}.{key.id}.{base64.b64encode(nonce + sealed).decode()}"

    def unseal(self, sealed: str, identity: str) -> str:
        """Return a secret. Raises SecretUnreadable, ConfigError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        version, _, rest = sealed.partition(".")
        key_id, _, body = rest.partition(".")
        key = next((key for key in self.keys() if key.id == key_id), None)
        if version != _VERSION or key is None:
            raise SecretUnreadable(f"its key {key_id[:16]!r} is not among those that are configured")
        try:
            data = base64.b64decode(body, validate=True)
            plain = AESGCM(key.material).decrypt(data[:NONCE_NBYTES], data[NONCE_NBYTES:], identity.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadable("it was changed, or belongs to another channel") from error
        return plain.decode("utf-8", "surrogatepass")

    def rotate(self) -> None:
        """Put a new key first in the file; the latest of the old ones stay. Raises InputError where keys are
        configured."""
        if self.file is None:
            raise InputError(
                "keys are configured: put a new one before them in VANTAGE_SECRET_KEY, separated by a comma",
                field="secret_key",
            )
        old = self._texts(self.file) if self.file.exists() else []
        _write(self.file, [new_key(), *old[:OLD_KEYS_MAX]])

    def _from_file(self, file: Path) -> Sequence[Key]:
        try:
            status = file.stat()
        except FileNotFoundError:
            _create(file)
            status = file.stat()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            if status.st_mode & 0o077:
                raise ConfigError(f"{file} may be read by others: chmod 600 {file}")
            self._read = [parse_key(text) for text in self._texts(file)]
            self._stamp = stamp
        if not self._read:
            raise ConfigError(f"{file} has no key: restore it, or remove it and set the secrets of channels again")
        return self._read

    @staticmethod
    def _texts(file: Path) -> list[str]:
        try:
            with file.open("rb") as opened:
                text = opened.read(FILE_NBYTES_MAX).decode("ascii", "replace")
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def secrets_of(settings: Settings) -> Secrets:
    """Return the secrets of a server. Its file of keys is in the data folder, where the metadata database is no shared
    one. Raises ConfigError."""
    shared = settings.metadata_url.startswith("postgres")
    return Secrets(settings.secret_key, file=None if shared else Path(settings.data) / "secret.key")


def _create(file: Path) -> None:
    """Make a file with a new key, unless another process does at the same time."""
    temporary = _write_beside(file, [new_key()])
    with suppress(FileExistsError):
        os.link(temporary, file)
    temporary.unlink()


def _write(file: Path, keys: Sequence[str]) -> None:
    _write_beside(file, keys).replace(file)


def _write_beside(file: Path, keys: Sequence[str]) -> Path:
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    lines = ["# Keys of the secrets of channels; the first one encrypts. Keep a copy apart from backups.", *keys, ""]
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write("\n".join(lines))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    return temporary
