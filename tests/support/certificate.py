"""A certificate for localhost, made with openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate and its key; skip the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate: apt-get install openssl")
    pem, key = folder / "cert.pem", folder / "key.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *names, "-keyout", str(key), "-out", str(pem)],
        check=True,
        capture_output=True,
    )
    return pem, key
