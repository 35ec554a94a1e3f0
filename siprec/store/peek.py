"""What the journal of a running server says of one session, read beside it without disturbing it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from siprec.errors import StoreUnavailable
from siprec.store import frames
from siprec.store.codec import Row

BUSY_SECONDS = 2.0
"""How long a commit of the server is waited for."""


def row(journal: Path, session_id: str) -> Row | None:
    """The row of a session as it was last committed, None when the journal has none.

    Raises StoreUnavailable when there is a journal that cannot be read.
    """
    if not journal.exists():
        return None
    number = frames.number_of(session_id)
    whole = frames.Assembly()
    try:
        with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as db:
            for table in ("session", "sdp", "metadata"):
                for (data,) in db.execute(f"SELECT frame FROM {table} WHERE number = ?", (number,)):  # noqa: S608
                    found = frames.unpack(data) if isinstance(data, bytes) else None
                    if found is not None:
                        whole.add(*found)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{journal} cannot be read: {error}") from None
    return next((each for each in whole.rows() if each.session_id == session_id), None)
