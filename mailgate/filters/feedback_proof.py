"""Whom a report is about, and why that may be believed: anybody can write a report about anybody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mailgate.address import Address, AddressError
from mailgate.mime.reports import Fields, Report
from mailgate.rewriting.unsubscribe import UnsubscribeError, UnsubscribeTokens, Unsubscription
from mailgate.rewriting.verp import Verp, VerpError

__all__ = ["Proof", "Prover"]

#: What may be a token of ours in the links of a field; how many are tried.
_TOKEN = re.compile(r"\.?[A-Za-z0-9_-]{16,2000}\.[A-Za-z0-9_-]{16,200}")
_MOST_TOKENS = 4
_IN_BRACKETS = re.compile(r"<([^<>\s]{1,320})>")


@dataclass(frozen=True, slots=True)
class Proof:
    """Mail from `sender` (None where that is not known) to `recipient` is what a report is about; `kind` says how that
    is known."""

    kind: str
    recipient: Address
    sender: Address | None
    stream: str = ""


class Prover:
    """Looks for what only we can have made, in the mail that came back: a return path, or a token."""

    def __init__(self, verp: Verp | None, tokens: UnsubscribeTokens | None) -> None:
        self._verp = verp
        self._tokens = tokens

    def made_by_us(self, report: Report) -> Proof | None:
        """What the returned mail itself proves."""
        if self._tokens is not None:
            for token in _tokens_in(report.returned):
                try:
                    about = self._tokens.read(token)
                except UnsubscribeError:
                    continue
                if about.recipient is not None:
                    return Proof("token", about.recipient, about.sender, about.stream)
        if self._verp is not None:
            for text in (report.about.get("original-mail-from"), *report.returned.all("return-path")):
                path = _mailbox_in(text)
                if path is None or not self._verp.has_form(path):
                    continue
                try:
                    found = self._verp.read(path)
                except VerpError:
                    continue
                return Proof("verp", found.recipient, found.sender)
        return None

    def wish_in(self, subjects: Sequence[str]) -> Unsubscription | None:
        """The wish of a recipient whose token stands in a subject by itself."""
        if self._tokens is None or not subjects or not _TOKEN.fullmatch(token := subjects[0].strip()):
            return None
        try:
            about = self._tokens.read(token)
        except UnsubscribeError:
            return None
        return about if about.recipient is not None else None

    @staticmethod
    def claimed(report: Report, kind: str) -> Sequence[Proof]:
        """What the report says by itself, to be believed of those alone who are trusted: a proof for each recipient."""
        sender = _mailbox_in(report.about.get("original-mail-from")) or _mailbox_in(report.returned.get("return-path"))
        sender = sender or _mailbox_in(report.returned.get("from"))
        if report.kind == "feedback":
            texts = report.about.all("original-rcpt-to")[:_MOST_TOKENS]
        else:
            texts = [one.typed("original-recipient") or one.typed("final-recipient") for one in report.recipients]
        found = dict.fromkeys(address for text in texts if (address := _mailbox_in(text)) is not None)
        return [Proof(kind, address, sender) for address in found]


def _mailbox_in(text: str) -> Address | None:
    """The address that a value is, or has in angle brackets; None where there is none."""
    found = _IN_BRACKETS.search(text)
    try:
        return Address.parse(found[1] if found else text.strip())
    except AddressError:
        return None


def _tokens_in(returned: Fields) -> Iterator[str]:
    count = 0
    for value in returned.all("list-unsubscribe"):
        for found in _TOKEN.finditer(value):
            count += 1
            if count > _MOST_TOKENS:
                return
            yield found[0]
