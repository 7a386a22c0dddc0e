"""Paths of templates, static files and migrations: inside the installed package, or at the top of a checkout.

The build carries the three top-level folders into the wheel as vantage/_resources/; an editable install and a plain
checkout serve the folders themselves, so that an edit shows on the next request.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_WHEEL = _PACKAGE / "_resources"
_IN_CHECKOUT = _PACKAGE.parent.parent


class ResourceMissing(RuntimeError):
    """The installation is incomplete: only installing again helps."""


def templates_dir() -> Path:
    """Return the folder of Jinja templates: base, pages/, parts/, notify/."""
    return _folder("templates")


def static_dir() -> Path:
    """Return the folder of our CSS and JavaScript, with the libraries that the build fetched in vendor/."""
    return _folder("static")


def migrations_dir() -> Path:
    """Return the folder of migrations: metadata/ (Alembic) and clickhouse/ (numbered SQL)."""
    return _folder("migrations")


def _folder(name: str) -> Path:
    candidates = (_IN_WHEEL / name, _IN_CHECKOUT / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    paths = " nor ".join(str(candidate) for candidate in candidates)
    raise ResourceMissing(f"the folder {name!r} is neither at {paths}: install vantage again, or run `make setup`")
