"""``/agent/``: the agent as a wheel, made of the package beside this one, so that an application can install it from
the server it will send to, behind whatever firewall.

A wheel is a zip archive of the package with three files that describe it, as in
https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Final

from litestar import Response, get
from litestar.params import FromPath

from vantage import __version__
from vantage.core.errors import NotFoundError

PACKAGE: Final = "vantage_agent"
WHEEL_NAME: Final = f"{PACKAGE}-{__version__}-py3-none-any.whl"
_DIST_INFO: Final = f"{PACKAGE}-{__version__}.dist-info"
_METADATA: Final = f"""Metadata-Version: 2.1
Name: vantage-agent
Version: {__version__}
Summary: Sends metrics and traces of a Python application to Vantage.
Requires-Python: >=3.9
License: MIT
"""
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: vantage\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_SCRIPTS: Final = "[console_scripts]\nvantage-agent = vantage_agent.run:main\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of zip: the same package is the same wheel
_PAGE: Final = f'<!doctype html><title>The agent</title><a href="{WHEEL_NAME}">{WHEEL_NAME}</a>'


@lru_cache(maxsize=1)
def agent_wheel() -> bytes:
    """Return the wheel. Raises NotFoundError where the agent is not installed beside the server."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise NotFoundError("the agent is not installed with this server")
    package = Path(spec.origin).parent
    paths = sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = [(path.relative_to(package.parent).as_posix(), path.read_bytes()) for path in paths]
    files += [
        (f"{_DIST_INFO}/{name}", text.encode())
        for name, text in (("METADATA", _METADATA), ("WHEEL", _WHEEL), ("entry_points.txt", _SCRIPTS))
    ]
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files)
    files.append((f"{_DIST_INFO}/RECORD", f"{record}{_DIST_INFO}/RECORD,,\n".encode()))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files:
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@get("/agent", include_in_schema=False)
async def agent_page() -> Response[str]:
    """List the wheel as ``pip --find-links`` reads it."""
    return Response(_PAGE, media_type="text/html")


@get("/agent/{name:str}", include_in_schema=False)
async def agent_file(name: FromPath[str]) -> Response[bytes]:
    """Send the wheel."""
    if name != WHEEL_NAME:
        raise NotFoundError(f"this server has the agent as /agent/{WHEEL_NAME}", field="name")
    wheel = await asyncio.to_thread(agent_wheel)
    return Response(wheel, media_type="application/octet-stream", headers={"Cache-Control": "no-cache"})


handlers = [agent_page, agent_file]
