"""What is asked about a message, and what is found in it: plain values, as they go between the processes."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Examination", "Limits", "Link", "Member", "Part", "Problem", "Question", "Rule"]


class Limits(Struct, frozen=True):
    """How far a message is looked into; beyond a limit the rest is not, and a Problem says so.

    `parts` counts parts and what is in archives in all, `nesting` multiparts and messages inside one another, `depth`
    archives inside one another, `octets` what unpacking and decoding yield in all, `ratio` how many times its own size
    an archive may unpack to, `text` the characters of text that are searched.
    """

    parts: int = 1000
    nesting: int = 50
    depth: int = 4
    octets: int = 128 * 1024 * 1024
    ratio: int = 250
    text: int = 2 * 1024 * 1024


class Rule(Struct, frozen=True):
    """Something to look for. `where` is "text", "raw", "headers", or "header:" and the name of a field in lower case.

    `pattern` is a regular expression of RE2, or with `is_plain` a string as it stands.
    """

    name: str
    pattern: str
    where: str = "text"
    is_plain: bool = False
    ignore_case: bool = True


class Question(Struct, frozen=True):
    """A message, in memory (`data`) or in a file (`path`), and what is to be looked for beside its parts."""

    data: bytes = b""
    path: str = ""
    limits: Limits = Limits()
    archives: bool = False
    links: bool = False
    bare_hosts: bool = False
    rules: tuple[Rule, ...] = ()


class Part(Struct, frozen=True):
    """A leaf of the message's structure, or what stands where a part should be.

    `start` and `end` bound the part with its header in the message as received, `body` is where its body begins; all
    are -1 for what lies in something encoded, and then `holder` is the number of the part that has offsets (a part's
    own number otherwise). `type` is the declared type in lower case, `also` those that it is declared to be in further
    fields, `types` what its octets are, of each way to
    decode them; `names` are those that any program might give it. `size` counts decoded octets. `marks` are words:
    "encrypted", "macro", "embedded", "broken", "script", "preamble", "archive", "signed", "tnef"; "uuencoded", "binhex"
    and "yenc" for a file in a text; "opaque" for what may hold files and cannot be looked into, "sealed" for mail that
    is encrypted.
    """

    number: int
    start: int = -1
    body: int = -1
    end: int = -1
    holder: int = -1
    type: str = ""
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    size: int = 0
    marks: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def is_message(self) -> bool:
        """Whether it is the whole message, which has no parts."""
        return self.start == 0


class Member(Struct, frozen=True):
    """A file in an archive that is `part`; `path` names the archives in which it lies and itself, "a.zip/b.exe".

    `depth` is 1 in an archive that is a part. `types` and `marks` as in Part, with "unread" where a limit kept us from
    its octets, "damaged" where we cannot have them, and "hidden" where only one of two tables of contents names it.
    """

    part: int
    path: str
    name: str
    depth: int = 1
    types: tuple[str, ...] = ()
    size: int = 0
    marks: tuple[str, ...] = ()


class Link(Struct, frozen=True):
    """An address in the text. `host` is in lower case and A-labels, or an IP address; `domain` is what was registered
    of it by the list of public suffixes, or the address. `via` is the host whose link carries this one, or ""."""

    url: str
    host: str
    domain: str
    via: str = ""


class Problem(Struct, frozen=True):
    """Why something was not looked at. `kind` is "parts", "nesting", "depth", "octets", "ratio", "text", "lines",
    "headers", "links", or of the whole message "time", "memory", "crash", "error"."""

    kind: str
    where: str = ""


class Examination(Struct, frozen=True):
    """What was found. `matches` are names of rules. With `failure` nothing else is known."""

    parts: tuple[Part, ...] = ()
    members: tuple[Member, ...] = ()
    links: tuple[Link, ...] = ()
    matches: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    failure: Problem | None = None
