"""Of what kind a refusal is: categories of replies, for people and for counting."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from pydantic import Field

from mailgate.config.rules import ReplyRule, ReplyRules
from mailgate.config.schema import BouncesSection
from mailgate.config.section import Section
from mailgate.relay.replies.patterns import Pattern, Said
from mailgate.reply import Reply

__all__ = ["Bounces", "Classifier"]

#: Replies whose category is remembered.
_REMEMBERED = 512


class _Codes(Section):
    """The file codes.toml."""

    codes: dict[str, str]
    ours: dict[str, str]
    basic: dict[int, str] = Field(strict=False)


class _Rule(NamedTuple):
    category: str
    patterns: tuple[Pattern, ...]


class _BuiltIn(NamedTuple):
    rules: tuple[_Rule, ...]
    codes: Mapping[str, str]
    ours: Mapping[str, str]
    basic: Mapping[int, str]


class Classifier:
    """Tells the category of a reply: by a site's own `rules`, then by the words that we know, then by its enhanced
    status (RFC 3463), then by its code."""

    def __init__(self, rules: ReplyRules | None = None) -> None:
        self._rules = (*_compiled(() if rules is None else rules.rules), *_BUILT_IN.rules)
        # Addresses are left out of what was said: when a list bounces, most answers are the same.
        self._by_words = lru_cache(_REMEMBERED)(self._find)

    def category(self, reply: Reply, *, ours: bool = False) -> str:
        """The category of a reply that is not 2yz. `ours`: our own finding in the form of one, whose words are nobody's
        and whose codes are exact."""
        if not ours:
            category = self._by_words(Said.by(reply))
            if category:
                return category
        _, codes, own, basic = _BUILT_IN
        status = reply.status[2:]
        subject = status.partition(".")[0]
        for table in (own, codes) if ours else (codes,):
            found = table.get(status) or table.get(subject)
            if found:
                return found
        return basic.get(reply.code, "other")

    def _find(self, said: Said) -> str:
        """The category by what we know of words; "" where we know nothing."""
        for rule in self._rules:
            if any(pattern.is_in(said) for pattern in rule.patterns):
                return rule.category
        return ""


@dataclass(frozen=True, slots=True)
class Bounces:
    """What refusals mean, and who gets reports that cannot be delivered ("": nobody): `[bounces]`. `sign` puts our
    signature on the octets of a report, where reports have one."""

    classifier: Classifier = field(default_factory=Classifier)
    double_to: str = ""
    sign: Callable[[bytes], bytes] | None = None

    @classmethod
    def of(cls, section: BouncesSection, rules: ReplyRules | None = None) -> Bounces:
        """Those of a configuration, with what the file of its rules holds (see Loaded)."""
        return cls(Classifier(rules), section.double_to or "")


def _compiled(rules: Iterable[ReplyRule]) -> tuple[_Rule, ...]:
    return tuple(_Rule(rule.category, Pattern.all(rule.replies)) for rule in rules)


def _built_in() -> _BuiltIn:
    folder = files("mailgate.relay.replies") / "data"
    rules = ReplyRules.model_validate(tomllib.loads((folder / "replies.toml").read_text("utf-8")))
    codes = _Codes.model_validate(tomllib.loads((folder / "codes.toml").read_text("utf-8")))
    return _BuiltIn(_compiled(rules.rules), codes.codes, codes.ours, codes.basic)


# Read with the module: a process that has changed its user may not reach the files, nor what reads them.
_BUILT_IN = _built_in()
