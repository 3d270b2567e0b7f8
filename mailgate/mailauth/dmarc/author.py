"""Whose name a message bears: the domains in its From field (RFC 9989 section 5.3.1, RFC 5322 section 3.4, RFC 6854).

The reading goes once over the field and keeps to what programs that show mail agree on. Where they may not, it says so:
whoever writes such a field may want to show one domain, and have another one checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.address import Address, AddressError

__all__ = ["MAX_AUTHORS", "MAX_FROM", "MAX_MAILBOXES", "Authors", "author_domain", "author_domains"]

#: Domains that are looked at (RFC 9989 section 11.5), and characters and mailboxes of all From fields together that are
#: read.
MAX_AUTHORS = 4
MAX_FROM = 16 * 1024
MAX_MAILBOXES = 500

_FOLD = re.compile(r"\r?\n(?=[ \t])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(r'[()<>\[\],:;@"\\]|[^()<>\[\],:;@"\\]+')
#: The beginning of an encoded word. It must not be in an address (RFC 2047 section 5), and programs decode it there all
#: the same: they then show what it holds.
_ENCODED = re.compile(r"=\?[^?\s]+\?[BbQq]\?")
#: What some programs take for the "@" that it looks like.
_SIGNS = ("@", "=?", "\uff20", "\ufe6b")
#: What stands for a quoted string: it fits a local part, and no domain.
_QUOTED = '"'


@dataclass(frozen=True, slots=True)
class Authors:
    """`domains` are the authors', each once, in the order of the field: lower case, A-labels.

    `problem` says why the field does not tell its authors beyond doubt, "" where it does; domains that were found all
    the same are given. `is_nobody`: there is no address, nor anything that a program could show as one.
    """

    domains: tuple[str, ...]
    problem: str = ""
    is_nobody: bool = False


def author_domains(values: Sequence[str]) -> Authors:
    """The authors' domains in the values of a message's From fields, folded or not. Time and memory are linear."""
    if not values:
        return Authors((), "there is no From field", is_nobody=True)
    reader = _Reader()
    if len(values) > 1:
        reader.complain(f"there are {len(values)} From fields")
    room = MAX_FROM
    for value in values:
        if len(value) > room:
            reader.complain(f"the From field has more than {MAX_FROM} characters")
            break
        room -= len(value)
        reader.read(_FOLD.sub("", value))
    domains = tuple(reader.domains)
    if len(domains) > MAX_AUTHORS:
        reader.complain(f"the From field has more than {MAX_AUTHORS} domains")
    elif not domains:
        reader.complain("there is no address in the From field")
    is_nobody = not domains and len(values) == 1 and not any(sign in values[0] for sign in _SIGNS)
    return Authors(domains[:MAX_AUTHORS], reader.problem, is_nobody)


def author_domain(text: str) -> str:
    """A domain in the form in which domains are compared; "" where it is none, or an address literal."""
    text = " ".join(text.split()).replace(" .", ".").replace(". ", ".")
    try:
        domain = Address.parse(f"x@{text}").domain
    except AddressError:
        return ""
    return "" if domain.startswith("[") else domain


class _Spec:
    """The text of an address as it is gathered, in pieces between the `@` that are not quoted."""

    def __init__(self) -> None:
        self.pieces: list[list[str]] = [[]]
        self._begins_blank = True

    def add(self, text: str) -> None:
        self.pieces[-1].append(text)
        if len(self.pieces) == 1 and self._begins_blank:
            self._begins_blank = not text.strip()

    def at(self) -> None:
        self.pieces.append([])

    @property
    def has_domain(self) -> bool:
        return len(self.pieces) > 1

    @property
    def is_blank(self) -> bool:
        return self._begins_blank and not self.has_domain

    @property
    def is_route(self) -> bool:
        """Whether this begins as a source route does: `@one.example,@two.example` (RFC 5322 section 4.4)."""
        return self._begins_blank and self.has_domain


class _Reader:
    """Gathers domains part by part. Comments are counted, not descended into."""

    def __init__(self) -> None:
        self.domains: dict[str, None] = {}
        self.problem = ""
        self._room = MAX_MAILBOXES

    def complain(self, problem: str) -> None:
        """Note a problem; the first one counts."""
        self.problem = self.problem or problem

    def read(self, value: str) -> None:
        """Read one field."""
        if _CONTROL.search(value):
            self.complain("there is a control character in the From field")
        self._begin()
        self._comment = 0
        self._quoted = self._literal = escaped = False
        for match in _TOKEN.finditer(value):
            if self._room < 0:
                self.complain(f"the From field has more than {MAX_MAILBOXES} addresses")
                return
            if len(self.domains) > MAX_AUTHORS:
                return
            part = match[0]
            if escaped:
                escaped = False
                continue
            if self._comment:
                escaped = part == "\\"
                self._comment += (part == "(") - (part == ")")
            elif self._quoted:
                if encoded := _ENCODED.search(part):
                    self._spec.add(encoded[0])
                escaped = part == "\\"
                self._quoted = part != '"'
            elif self._literal:
                self._spec.add(part)
                self._literal = part != "]"
            else:
                self._read_part(part)
        if self._comment or self._quoted or self._literal:
            self.complain("a comment or quoted text in the From field has no end")
        self._finish()

    def _begin(self) -> None:
        """Begin a mailbox."""
        self._room -= 1
        self._outside = _Spec()
        self._angle: _Spec | None = None
        self._had_angle = False

    @property
    def _spec(self) -> _Spec:
        return self._outside if self._angle is None else self._angle

    def _read_part(self, part: str) -> None:
        match part:
            case "(":
                self._comment = 1
                self._spec.add(" ")
            case '"':
                self._quoted = True
                self._spec.add(_QUOTED)
            case "[" if self._spec.has_domain:
                self._literal = True
                self._spec.add(part)
            case "@":
                self._spec.at()
            case "<":
                self._open()
            case ">":
                self._close()
            case ":":
                self._colon()
            case "," | ";" if self._angle is None:
                self._finish()
                self._begin()
            case _:
                self._spec.add(part)

    def _open(self) -> None:
        if self._angle is not None or self._had_angle:
            self.complain("the From field has several addresses in one")
            self._take(self._spec)
        self._room -= 1
        # What stands before it is a name to show, even where it looks like an address.
        self._outside, self._angle, self._had_angle = _Spec(), _Spec(), True

    def _close(self) -> None:
        if self._angle is None:
            self.complain("the From field has a closing bracket too many")
            return
        if not self._angle.has_domain:
            self.complain("an address in the From field has no domain")
        self._take(self._angle)
        self._angle = None

    def _colon(self) -> None:
        if self._angle is None:
            # The name of a group; its members follow.
            if self._outside.has_domain or self._had_angle:
                self.complain("the From field has a group whose name holds an address")
                self._take(self._outside)
            self._begin()
        elif self._angle.is_route:
            self._angle = _Spec()
        else:
            self._angle.add(":")

    def _finish(self) -> None:
        """A mailbox ends."""
        if self._angle is not None:
            self.complain("an address in the From field has no end")
            self._take(self._angle)
        elif not self._had_angle:
            self._take(self._outside)
        elif not self._outside.is_blank:
            self.complain("the From field has text behind an address")
            self._take(self._outside)

    def _take(self, spec: _Spec) -> None:
        if not spec.has_domain:
            return  # words without an address: part of a name with a comma in it
        local_part = " ".join("".join(spec.pieces[-2]).split()).replace(" .", ".").replace(". ", ".")
        if len(spec.pieces) > 2 or not local_part or " " in local_part:
            self.complain("an address in the From field is malformed")
        elif _ENCODED.search(local_part):
            self.complain("an address in the From field has an encoded word in it")
        domain = author_domain("".join(spec.pieces[-1]))
        if domain:
            self.domains[domain] = None
        else:
            self.complain("an address in the From field has no domain")
