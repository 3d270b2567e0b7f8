"""What is asked and answered at /v1/accounts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mailgate.web.selection import LONGEST_NAME, Model, Text

__all__ = ["AccountRelease", "AccountReleased", "SuspectedAccount", "SuspectedAccounts"]


class SuspectedAccount(Model):
    """An account that sends as if somebody else had its password; times are in seconds since the epoch."""

    name: str
    signals: tuple[str, ...]
    action: str
    since: float
    until: float


class SuspectedAccounts(Model):
    """Those that are suspected now, by name; `is_all` is false where there are more."""

    accounts: tuple[SuspectedAccount, ...]
    is_all: bool = True


class AccountRelease(Model):
    """The account that is to be suspected no more."""

    name: Annotated[Text, Field(min_length=1, max_length=1000)]
    by: Annotated[Text, Field(max_length=LONGEST_NAME)] = ""
    """who wants it, "" for an administrator"""


class AccountReleased(Model):
    """Whether it was suspected."""

    was_suspected: bool
