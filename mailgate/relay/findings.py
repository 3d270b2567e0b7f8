"""Findings of ours, in the form of replies, to which more than one module comes."""

from __future__ import annotations

from mailgate.reply import Reply

__all__ = ["LOCAL_ERROR", "NOT_YET", "PROTOCOL_ERROR", "TOO_LATE", "for_now"]

PROTOCOL_ERROR = Reply.of(451, "4.5.0", "The next hop does not follow the protocol")
LOCAL_ERROR = Reply.of(451, "4.3.0", "Local error in delivery")
NOT_YET = Reply.of(451, "4.4.5", "It waits for its turn, and could not be attempted yet")
#: RFC 2852 section 4.1.
TOO_LATE = Reply.of(554, "5.4.7", "Delivery time expired")


def for_now(finding: Reply) -> Reply:
    """The same as 451, for what may be otherwise the next time."""
    return Reply(451, f"4{finding.status[1:]}", finding.lines) if finding.is_permanent else finding
