"""What the answers of back ends of a known kind mean beyond their codes: routes with `preset`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from pydantic import TypeAdapter

from mailgate.config.routes import Preset
from mailgate.config.section import Section
from mailgate.config.values import ReplyPattern
from mailgate.relay.replies.patterns import Pattern, Said
from mailgate.reply import Reply

__all__ = ["Meaning", "meaning"]

Meaning = Literal["", "connector", "waits", "busy", "recipient"]
"""Of whom an answer is: of our host or its connector; of a domain that the back end does not take yet; of a host that
takes nothing now; of one recipient. "" where it is about the mail, as its code says."""

#: What may be the name of a domain, or an address. Whoever sends mail chooses such names: what an Exchange says of them
#: is not what it says itself.
_NAMED = re.compile(r"\w\.\w")
#: And what is written like one, and the word of an Exchange for whatever is wrong with a recipient.
_RESOLVER = "resolver."
#: Characters of a reply that are looked at.
_LONGEST = 2000
#: Replies of which is remembered what they mean: as they came, which is said to each recipient, and without names.
_WHOLE, _REMEMBERED = 64, 512


class _Rules(Section):
    """One preset's in the file back_ends.toml."""

    connector: list[ReplyPattern]
    waits: list[ReplyPattern]
    busy: list[ReplyPattern]
    recipient: list[ReplyPattern]


@lru_cache(_WHOLE)
def meaning(preset: Preset, reply: Reply) -> Meaning:
    """What an answer that is not 2yz means at such a back end, the worst for us first."""
    words = reply.text[:_LONGEST].split()
    if len(reply.text) > _LONGEST:
        words = words[:-1]  # a part of a name would look like no name
    text = " ".join(map(_unnamed, words))
    return _by_words(preset, Said.by(Reply(reply.code, reply.status, (text,))))


def _unnamed(word: str) -> str:
    if _NAMED.search(word) is None:
        return word
    return _RESOLVER if word.lower().startswith(_RESOLVER) else "@"


@lru_cache(_REMEMBERED)
def _by_words(preset: Preset, said: Said) -> Meaning:
    for what, patterns in _BUILT_IN[preset]:
        if any(pattern.is_in(said) for pattern in patterns):
            return what
    return ""


def _built_in() -> Mapping[Preset, Sequence[tuple[Meaning, tuple[Pattern, ...]]]]:
    text = (files("mailgate.relay.replies") / "data" / "back_ends.toml").read_text("utf-8")
    presets = TypeAdapter(dict[Preset, _Rules]).validate_python(tomllib.loads(text))
    return {
        preset: (
            ("connector", Pattern.all(rules.connector)),
            ("waits", Pattern.all(rules.waits)),
            ("busy", Pattern.all(rules.busy)),
            ("recipient", Pattern.all(rules.recipient)),
        )
        for preset, rules in presets.items()
    }


# Read with the module: a process that has changed its user may not reach the file, nor what reads it.
_BUILT_IN = _built_in()
