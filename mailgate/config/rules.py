"""The file of `bounces.rules`: of what kind a reply is, in the words of whoever knows the hosts that give it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from mailgate.config.categories import CATEGORIES
from mailgate.config.locate import locate
from mailgate.config.problems import Problems, choices
from mailgate.config.section import Section
from mailgate.config.source import ConfigError, parse_source, read_source
from mailgate.config.values import Name, ReplyPattern
from mailgate.config.wording import reworded

__all__ = ["ReplyRule", "ReplyRules", "read_rules"]


class ReplyRule(Section):
    """`[[rules]]`: replies of one kind."""

    category: Name
    """the kind: a built-in one, or one of [categories]"""
    replies: list[ReplyPattern] = Field(min_length=1)
    """what such replies say, in the form of shaping.NAME.slow_down.replies"""


class ReplyRules(Section):
    """The whole file."""

    categories: dict[Name, str] = {}
    """kinds beside the built-in ones, with what each means"""
    rules: list[ReplyRule] = []
    """asked in their order: the first that fits decides"""


def read_rules(path: Path) -> ReplyRules:
    """The rules of a file. ConfigError: everything that is wrong with it."""
    source = read_source(path)
    document = parse_source(path, source)
    problems = Problems(str(path), document, locate(source))
    try:
        rules = ReplyRules.model_validate(document)
    except ValidationError as error:
        for where, text in reworded(ReplyRules, document, error):
            problems.error(where, text)
        raise ConfigError(problems.errors) from None
    known = [*CATEGORIES, *rules.categories]
    for number, rule in enumerate(rules.rules):
        if rule.category not in known:
            text = choices(f'there is no category "{rule.category}"', rule.category, known)
            problems.error(("rules", number, "category"), text)
    if problems.errors:
        raise ConfigError(problems.errors)
    return rules
