"""As whom all is looked at: what the gateway's user may not read, the gateway does not see either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mailgate.doctor.diagnosis import Check, Notes
from mailgate.process import user_name

__all__ = ["become_owner", "owner_check"]

#: What is there of Python, of its packages and of ours if anything is; and seconds for that.
_TRIAL, _PATIENCE = "import encodings.unicode_escape, twisted.internet.defer, mailgate", 30.0


def become_owner(folder: Path) -> str:
    """A superuser becomes the user whom this state directory belongs to; "" then, and where there is nobody to become.
    Else why that user cannot run the gateway at all: whoever became that user could not import anything any more."""
    try:
        owner = folder.stat()
    except OSError:
        return ""
    if os.geteuid() != 0 or owner.st_uid == 0:
        return ""
    groups = os.getgrouplist(user_name(owner.st_uid), owner.st_gid)
    if problem := cannot_run(owner.st_uid, owner.st_gid, groups):
        return f"{user_name(owner.st_uid)} cannot run it ({problem})"
    os.setgroups(groups)
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    return ""


def owner_check(problem: str) -> Check:
    """Tells what `become_owner` has found."""

    async def tell(notes: Notes) -> None:
        text = f"{problem}: the gateway, as that user, fails when it starts or imports something; the rest is looked at"
        notes.fail(f"{text} as root", "install mailgate where every user can read, such as /opt, and not below a home")

    return Check("files", sys.prefix, tell)


def cannot_run(user: int, group: int, groups: list[int]) -> str:
    """Why a user cannot run this Python with this package; "" where nothing is against it."""
    try:
        done = subprocess.run(  # noqa: S603  this Python
            [sys.executable, "-c", _TRIAL],
            user=user,
            group=group,
            extra_groups=groups,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except OSError as error:
        return f"{sys.executable}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "" if done.returncode == 0 else lines[-1] if lines else f"status {done.returncode}"
