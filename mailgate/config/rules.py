"""The file of `bounces.rules`: of what kind a reply is, in the words of whoever knows the hosts that give it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from mailgate.config.categories import CATEGORIES
from mailgate.config.locate import locate
from mailgate.config.problems import Problems, choices
from mailgate.config.replies import doubt
from mailgate.config.section import Section
from mailgate.config.source import ConfigError, parse_source, read_source
from mailgate.config.values import Name, ReplyPattern
from mailgate.config.wording import reworded

__all__ = ["ReplyRule", "ReplyRules", "advise_on_rules", "read_rules"]


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
    return _read(path)[0]


def advise_on_rules(path: Path) -> tuple[ReplyRules, tuple[str, ...]]:
    """The rules of a file, with warnings: what is doubtful about them. ConfigError as `read_rules`."""
    rules, problems = _read(path)
    if not rules.rules:
        problems.warn(("rules",), "there is no rule: the file says nothing")
    for name in rules.categories:
        if name in CATEGORIES:
            problems.warn(("categories", name), f"is a built-in category ({CATEGORIES[name]}), and needs no entry")
    for number, rule in enumerate(rules.rules):
        for index, pattern in enumerate(rule.replies):
            if text := doubt(pattern):
                problems.warn(("rules", number, "replies", index), text)
    return rules, problems.warnings


def _read(path: Path) -> tuple[ReplyRules, Problems]:
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
    return rules, problems
