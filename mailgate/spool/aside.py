"""Where a person finds what could not be read: nothing of it is deleted."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mailgate.spool.database import as_octets, link, sync
from mailgate.spool.disk import write_durably

__all__ = ["SetAside", "put_aside"]

#: What names a file.
_SAFE = re.compile(r"[0-9A-Za-z-]{1,100}")

SetAside = tuple[str, str, str]
"""Queue id, where it lies now, why."""


def put_aside(
    aside: Path, contents: Path, name: str, reason: str, text: object, data: bytes | None
) -> tuple[SetAside, Path | None]:
    """Keep an envelope and its content in the folder `aside`; and the file that is to go once the row has gone."""
    if not _SAFE.fullmatch(name):
        name = f"entry-{hashlib.sha256(as_octets(name)).hexdigest()[:16]}"
    place = aside / f"{name}.envelope"
    content = contents / name
    write_durably(place, as_octets(text) + b"\n")
    if data is not None:
        write_durably(aside / f"{name}.eml", as_octets(data))
    # A link: the row may still be rolled back, and then the content must be where it was.
    is_linked = data is None and content.is_file()
    if is_linked:
        link(content, aside / f"{name}.eml")
    sync(aside)
    return (name, str(place), reason), content if is_linked else None
