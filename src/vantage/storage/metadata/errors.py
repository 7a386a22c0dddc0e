"""Turn errors of the database driver into Vantage's own, in this one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vantage.core.errors import ConflictError, StoreUnavailable


@contextmanager
def driver_errors() -> Iterator[None]:
    """Run the body. A violated constraint raises ConflictError, any other failure of the database or the file system
    StoreUnavailable. The message omits the statement and its values, which contain key hashes."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"the metadata database refused the change: {error.orig}") from error
    except DBAPIError as error:
        raise StoreUnavailable(f"the metadata database does not answer: {error.orig}") from error
    except PoolTimeout as error:
        raise StoreUnavailable("the metadata database is busy: no connection became available in time") from error
    except TimeoutError as error:
        raise StoreUnavailable("the metadata database is busy: other changes take too long") from error
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the metadata database does not answer: {error}") from error
