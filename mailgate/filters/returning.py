"""Whose mail leaves us, so that reports about it may come back."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.envelope import Recipient

__all__ = ["leaves"]


def leaves(recipient: Recipient, is_local: Callable[[str], bool]) -> bool:
    """Whether mail for a recipient goes to domains that are not ours, it may be by way of aliases."""
    addresses = [one.address for one in recipient.targets] or [recipient.address]
    return not all(is_local(one.domain) for one in addresses)
